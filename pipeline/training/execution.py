"""Chooses how a GPU runs the layers of a long run: a trial of each way, whose start counts against its faster steps."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.command import warn
from pipeline.modeling import compiled
from pipeline.modeling.batches import TokenRow, to_device
from pipeline.modeling.compiled import Execution
from pipeline.modeling.loss_model import LossModel
from pipeline.training import precision
from pipeline.training.precision import Precision

_MIN_SECONDS = 180.0  # of a run, below which no trial pays: compiling takes about one minute
_WARM_STEPS, _TIMED_STEPS = 3, 8  # a graph is captured in the second or third step


def choose(
    build: Callable[[Precision], LossModel],
    chosen: Precision,
    rows: Any,
    at_once: int,
    passes: int,
    is_in_parts: bool = False,
) -> Execution:
    """Return the way in which so many `passes` end first; it leaves no trace.

    Args:
        build: Makes the model, in the precision that it is given.
        chosen: That precision.
        rows: A `datasets.Dataset`.
        at_once: Rows that are read at once.
        passes: Forward and backward, of the whole run.
        is_in_parts: Whether a step takes several passes. Graphs would write the next one's gradients over the first's.
    """
    batches = [
        [rows[at % len(rows)] for at in range(first, first + min(at_once, len(rows)))]
        for first in range(0, _WARM_STEPS * at_once, at_once)
    ]
    seconds: dict[Execution, float] = {}
    for way in compiled.kinds(build(chosen)):
        if way == "graphs" and is_in_parts:
            continue
        with _restored():
            try:
                started, step = _trial(build(chosen), way, chosen, batches)
            except Exception as error:  # whatever a compiler raises: the other ways remain
                warn(f"the layers cannot run {way} ({type(error).__name__}); another way is taken")
                continue
        seconds[way] = started + passes * step
        if way == "eager" and seconds[way] < _MIN_SECONDS:
            return way
    fastest: Execution = min(seconds, key=lambda way: seconds[way], default="eager")
    times = ", ".join(f"{way} {took / 60:.1f} min" for way, took in seconds.items())
    warn(f"layers run {fastest}: this run would take, without validation: {times}")
    return fastest


def _trial(
    model: LossModel, way: Execution, chosen: Precision, batches: Sequence[list[TokenRow]]
) -> tuple[float, float]:
    """Return the seconds until steps are as fast as they get, and those of a step, without the optimizer's."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).train()
    began = time.perf_counter()
    compiled.use(model, way, batches[0])

    def run(number: int) -> None:
        batch = to_device(model.collate(batches[number % len(batches)]), device)
        with precision.autocast(chosen):
            loss = model(**batch)["loss"]
        loss.backward()
        model.zero_grad()

    for number in range(_WARM_STEPS):
        run(number)
    warm = _time(device)
    for number in range(_TIMED_STEPS):
        run(number)
    step = (_time(device) - warm) / _TIMED_STEPS
    return max(0.0, warm - began - _WARM_STEPS * step), step


def _time(device: torch.device) -> float:
    """Return the time once `device` has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _restored() -> Iterator[None]:
    """Restore the random state after the block, and give a GPU's memory back."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
    torch.compiler.reset()
    if devices:
        torch.cuda.empty_cache()
