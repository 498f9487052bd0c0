"""What a run will take, measured before it starts: tokens, steps, time and peak memory.

`measure` runs a few steps on this machine that leave no trace: the random state is put back, and a learning rate of 0
leaves every weight as it was. `predict` extrapolates to the whole run, `check` raises UserError when it cannot fit, and
`auto_batch_size` is the value of `batch_size: auto`.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.command import UserError
from pipeline.modeling.batches import Batch, to_device
from pipeline.modeling.loss_model import LossModel

_TIMED_STEPS = 3  # after a warm-up step
_SAMPLE = 64  # rows, evenly spread, from which the steps take theirs
_LOGITS_BYTES = 2**28  # at most at once, see `fused_loss`
_USABLE = 0.9  # share of the free memory: the rest is for other processes
_MAX_ROWS = 64  # of `batch_size: auto`: larger steps learn less from the same texts
_MIN_STEPS = 100  # per epoch, for the same reason


@dataclass(frozen=True)
class Measurement:
    """Costs of a step on this machine; sizes in bytes, times in seconds."""

    fixed_seconds: float  # per step, whatever its rows: the optimizer
    row_seconds: float
    fixed_memory: int  # the process with its model, gradients and the optimizer's state
    row_memory: int  # kept for the backward pass, for the longest row
    available: int  # memory that this process may use in total


@dataclass(frozen=True)
class Estimate:
    """What a whole run takes at most: early stopping may end it before."""

    tokens: int
    steps: int
    seconds: float
    peak_memory: int

    def __str__(self) -> str:
        """Return one line for people."""
        minutes = self.seconds / 60
        duration = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{max(1, math.ceil(minutes))} min"
        return (
            f"{self.tokens:,} tokens in {self.steps:,} steps: about {duration} and {self.peak_memory / 1e9:.1f} GB"
            " of memory on this machine"
        )


def measure(
    model: LossModel,
    rows: Any,
    optimizer: tuple[type[torch.optim.Optimizer], dict[str, Any]],
    batch_size: int,
) -> Measurement:
    """Train on a few of `rows` (a `datasets.Dataset`) without effect; raises UserError where the weights cannot fit."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    state = sum(3 * parameter.nbytes for parameter in trained)  # gradients, and two moments of AdamW
    process, available = _memory(model.device)
    if process + state > available:
        raise UserError(
            f"params.yaml: finetune.lora_rank: the trained weights, their gradients and the optimizer take"
            f" {(process + state) / 1e9:.1f} GB, but {available / 1e9:.1f} GB are free;"
            f" {'set a lower rank' if _has_adapters(model) else 'set it to 8'}, or take a smaller base"
        )
    spread = [rows[at] for at in range(0, len(rows), math.ceil(len(rows) / _SAMPLE))]
    longest = max(spread, key=_length)
    typical = sorted(spread, key=_length)[len(spread) // 2 :][:1] * max(1, min(batch_size, 8))
    with _restored(model):
        row_memory = activation_bytes(model, model.collate([longest]))
        optimizer_class, settings = optimizer
        steps = optimizer_class(trained, **{**settings, "lr": 0.0, "weight_decay": 0.0})
        computing, updating = [], []
        for _ in range(_TIMED_STEPS + 1):
            began = time.perf_counter()
            model(**to_device(model.collate(typical), model.device))["loss"].backward()
            computed = _synchronized_time(model.device)
            steps.step()
            updating.append(_synchronized_time(model.device) - computed)
            computing.append((computed - began) / len(typical))
            model.zero_grad()
    return Measurement(min(updating[1:]), min(computing[1:]), process + state, row_memory, available)


def predict(
    measurement: Measurement, batch_size: int, epochs: int, rows: int, tokens: int, at_once: int | None = None
) -> Estimate:
    """Return what a run takes.

    Args:
        measurement: The costs of a step.
        batch_size: Rows per step of one process.
        epochs: How often all rows are seen.
        rows: Rows per epoch of one process.
        tokens: Tokens per epoch of all processes, without padding.
        at_once: Rows of a step that are read at once; None: all.
    """
    steps = epochs * math.ceil(rows / batch_size)
    seconds = steps * measurement.fixed_seconds + epochs * rows * measurement.row_seconds
    return Estimate(epochs * tokens, steps, seconds, _peak(measurement, at_once or batch_size))


def check(estimate: Estimate, measurement: Measurement, at_once: int, activation_checkpointing: bool = False) -> None:
    """Raise UserError, which names the setting that makes it fit, where the memory does not suffice."""
    if estimate.peak_memory <= measurement.available:
        return
    fits = _fitting_rows(measurement)
    if fits >= 1:
        part = max(number for number in range(1, fits + 1) if at_once % number == 0)  # of equal ones
        fix = f"set it to {part}, which changes no result" + (
            "" if activation_checkpointing else ", or activation_checkpointing to true"
        )
    elif not activation_checkpointing:
        fix = "not even 1 fits; set activation_checkpointing to true, or tokenize.max_length lower"
    else:
        fix = "not even 1 fits; set lora_rank to 8, or tokenize.max_length lower"
    raise UserError(
        f"params.yaml: finetune.rows_at_once: {at_once} rows at once take {estimate.peak_memory / 1e9:.1f} GB, but"
        f" {measurement.available / 1e9:.1f} GB are free; {fix}"
    )


def auto_batch_size(measurement: Measurement, rows: int, at_once: int | None = None) -> int:
    """Return the value of `batch_size: auto`: the largest power of two that fits and leaves an epoch enough steps.

    Steps in parts of `at_once` rows have as many parts instead. Raises UserError where not even one row fits.
    """
    fits = _fitting_rows(measurement)
    if fits < 1:
        check(predict(measurement, 1, 1, rows, 0), measurement, 1)
    most = min(_MAX_ROWS, rows // _MIN_STEPS) // at_once if at_once else min(fits, _MAX_ROWS, rows // _MIN_STEPS)
    return int(2 ** math.floor(math.log2(max(1, most)))) * (at_once or 1)


def _peak(measurement: Measurement, at_once: int) -> int:
    return measurement.fixed_memory + at_once * measurement.row_memory


def _fitting_rows(measurement: Measurement) -> int:
    return int((measurement.available - measurement.fixed_memory) // max(1, measurement.row_memory))


def _length(row: dict[str, Sequence[int]]) -> int:
    return sum(row["attention_mask"]) if "attention_mask" in row else len(row["input_ids"])


def _has_adapters(model: LossModel) -> bool:
    return any(not parameter.requires_grad for parameter in model.parameters())


@contextmanager
def _restored(model: LossModel) -> Iterator[None]:
    """Restore the random state, the mode and the gradients after the block, but not the weights."""
    training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.train()
        yield
        model.zero_grad()
        model.train(training)


def activation_bytes(model: LossModel, batch: Batch) -> int:
    """Return how many bytes a forward pass keeps for the backward pass, with its logits."""
    kept = Kept(model.parameters())
    with kept:
        loss = model(**to_device(batch, model.device))["loss"]
    del loss
    return kept.bytes + logits_bytes(int(batch["labels"].numel()) * int(model.model.config.vocab_size))


class Kept:
    """Counts what is kept for the backward pass inside its `with` block, besides the weights."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        """Count nothing yet."""
        self._weights = {id(storage): storage for storage in (weight.untyped_storage() for weight in weights)}
        self._storages: dict[int, torch.UntypedStorage] = {}  # held, so that no id is used twice
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def __enter__(self) -> None:
        """Begin to count."""
        self._hooks.__enter__()

    def __exit__(self, *exception: object) -> None:
        """Sum up in `bytes`."""
        self._hooks.__exit__(*exception)
        self.bytes = sum(storage.nbytes() for storage in self._storages.values())
        self._storages.clear()

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in self._weights:
            self._storages[id(storage)] = storage
        return tensor


def logits_bytes(logits: int) -> int:
    """Return the bytes of so many logits and their gradients, as far as they are in memory at once."""
    return min(2 * 4 * logits, _LOGITS_BYTES)


def _synchronized_time(device: torch.device) -> float:
    """Return the time once `device` has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def usable_memory(device: torch.device) -> int:
    """Return the bytes that this process may use in total, of the GPU, container or machine."""
    return _memory(device)[1]


def _memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes that this process uses and those it may use in total, of the GPU, container or machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
        return held, held + int(_USABLE * free)
    held = psutil.Process().memory_info().rss
    free = psutil.virtual_memory().available
    limit = _container_limit()
    return held, held + int(_USABLE * min(free, max(0, limit - held)))


def _container_limit(file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the container's memory limit in bytes, a very large number without one."""
    if os.name == "posix" and file.exists() and (text := file.read_text(encoding="ascii").strip()) != "max":
        return int(text)
    return 2**62
