"""What a run will take, before it starts: tokens, steps, time and peak memory, from a few steps on this machine.

For `pipeline.finetune`, once the model is ready:

    measured = estimate.measure(model, tokens["train"], speed.collate(model), speed.optimizer(...), batch_size)
    expected = estimate.expect(measured, batch_size, epochs, rows, tokens_an_epoch)
    estimate.check(expected, measured, batch_size)   # raises UserError when it cannot fit
    say(str(expected))

The steps leave no trace: the random state is put back, and a learning rate of 0 leaves every weight as it was.
`auto_batch_size(measured, rows)` is what `batch_size: auto` stands for.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from pipeline.command import UserError

_STEPS = 3  # timed, after one that warms up
_SAMPLE = 64  # rows, evenly spread, of which those of the steps are taken
_LOGITS = 2**28  # bytes of logits at most at once, see `speed`
_USABLE = 0.9  # of the memory that is free: the rest is for whatever else the machine does
_MOST_ROWS = 64  # `batch_size: auto` goes no further: larger steps learn less from the same texts
_FEWEST_STEPS = 100  # an epoch, for the same reason

Collate = Callable[[list[dict[str, list[int]]]], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Measured:
    """What the steps showed; sizes in bytes, times in seconds."""

    fixed_seconds: float  # of a step, whatever its rows: the optimizer
    row_seconds: float
    fixed_memory: int  # the process with its model, gradients and the optimizer's state
    row_memory: int  # what the backward pass needs, for the longest row
    available: int  # memory that this process may have in all


@dataclass(frozen=True)
class Expected:
    """What a whole run takes at most: early stopping may end it before."""

    tokens: int
    steps: int
    seconds: float
    peak_memory: int

    def __str__(self) -> str:
        """Return one line for people."""
        minutes = self.seconds / 60
        took = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{max(1, math.ceil(minutes))} min"
        return (
            f"{self.tokens:,} tokens in {self.steps:,} steps: about {took} and {self.peak_memory / 1e9:.1f} GB"
            " of memory on this machine"
        )


def measure(
    model: PreTrainedModel,
    rows: Any,
    collate: Collate,
    optimizer: tuple[type[torch.optim.Optimizer], dict[str, Any]],
    batch_size: int,
) -> Measured:
    """Train on a few of `rows` (a `datasets.Dataset`) without effect; raises UserError where the weights cannot fit."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Gradients, and two moments of AdamW.
    still_to_come = sum(3 * parameter.nbytes for parameter in trained)
    process, available = _memory(model.device)
    if process + still_to_come > available:
        raise UserError(
            f"params.yaml: finetune.lora_rank: the weights that are trained, their gradients and the optimizer take"
            f" {(process + still_to_come) / 1e9:.1f} GB, but {available / 1e9:.1f} GB are free;"
            f" {'set a lower rank' if _has_adapters(model) else 'set it to 8'}, or take a smaller base"
        )
    spread = [rows[at] for at in range(0, len(rows), math.ceil(len(rows) / _SAMPLE))]
    longest = max(spread, key=_length)
    some = sorted(spread, key=_length)[len(spread) // 2 :][:1] * max(1, min(batch_size, 8))
    with _no_trace(model):
        row_memory = _saved(model, collate([longest]))
        kind, settings = optimizer
        steps = kind(trained, **{**settings, "lr": 0.0, "weight_decay": 0.0})
        computing, updating = [], []
        for _ in range(_STEPS + 1):
            begun = time.perf_counter()
            model(**_on(model, collate(some)))["loss"].backward()
            computed = _finished(model.device)
            steps.step()
            updating.append(_finished(model.device) - computed)
            computing.append((computed - begun) / len(some))
            model.zero_grad()
    return Measured(min(updating[1:]), min(computing[1:]), process + still_to_come, row_memory, available)


def expect(measured: Measured, batch_size: int, epochs: int, rows: int, tokens: int) -> Expected:
    """Return what `epochs` over `rows` rows, which hold `tokens` tokens, take with steps of `batch_size` rows."""
    steps = epochs * math.ceil(rows / batch_size)
    seconds = steps * measured.fixed_seconds + epochs * rows * measured.row_seconds
    return Expected(epochs * tokens, steps, seconds, _peak(measured, batch_size))


def check(expected: Expected, measured: Measured, batch_size: int, activation_checkpointing: bool = False) -> None:
    """Raise UserError, which names the setting that makes it fit, where the memory will not do."""
    if expected.peak_memory <= measured.available:
        return
    fits = _fitting_rows(measured)
    if fits >= 1:
        mend = f"set it to {fits}" + ("" if activation_checkpointing else ", or activation_checkpointing to true")
    elif not activation_checkpointing:
        mend = "not even 1 fits; set activation_checkpointing to true, or tokenize.max_length lower"
    else:
        mend = "not even 1 fits; set lora_rank to 8, or tokenize.max_length lower"
    raise UserError(
        f"params.yaml: finetune.batch_size: {batch_size} rows a step take {expected.peak_memory / 1e9:.1f} GB, but"
        f" {measured.available / 1e9:.1f} GB are free; {mend}"
    )


def auto_batch_size(measured: Measured, rows: int) -> int:
    """Return the power of two that `batch_size: auto` stands for: the memory does, and an epoch has enough steps.

    Raises UserError where not even one row fits.
    """
    fits = _fitting_rows(measured)
    if fits < 1:
        check(expect(measured, 1, 1, rows, 0), measured, 1)
    most = max(1, min(fits, _MOST_ROWS, rows // _FEWEST_STEPS))
    return int(2 ** math.floor(math.log2(most)))


def _peak(measured: Measured, batch_size: int) -> int:
    return measured.fixed_memory + batch_size * measured.row_memory


def _fitting_rows(measured: Measured) -> int:
    return int((measured.available - measured.fixed_memory) // max(1, measured.row_memory))


def _length(row: dict[str, Sequence[int]]) -> int:
    return sum(row["attention_mask"]) if "attention_mask" in row else len(row["input_ids"])


def _has_adapters(model: PreTrainedModel) -> bool:
    return any(not parameter.requires_grad for parameter in model.parameters())


@contextmanager
def _no_trace(model: PreTrainedModel) -> Iterator[None]:
    """Put back the random state, the mode and the gradients; the weights are the caller's care."""
    training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.train()
        yield
        model.zero_grad()
        model.train(training)


def _saved(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> int:
    """Return how many bytes one forward pass keeps for the backward pass, and its logits."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(**_on(model, batch))["loss"]
    del loss
    logits = 2 * 4 * int(batch["labels"].numel()) * int(model.config.vocab_size)
    return sum(kept.values()) + min(logits, _LOGITS)


def _on(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def _finished(device: torch.device) -> float:
    """Return the time once `device` has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _memory(device: torch.device) -> tuple[int, int]:
    """Return what this process holds, and what it may hold in all: of the GPU, the container or the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
        return held, held + int(_USABLE * free)
    held = psutil.Process().memory_info().rss
    free = psutil.virtual_memory().available
    limit = _container_limit()
    return held, held + int(_USABLE * min(free, max(0, limit - held)))


def _container_limit(file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the memory that the container allows, a very large number where there is no limit."""
    if os.name == "posix" and file.exists() and (text := file.read_text(encoding="ascii").strip()) != "max":
        return int(text)
    return 2**62
