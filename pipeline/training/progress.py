"""How far a training is: the trainer appends JSON lines to a file, other processes read it.

A line is a step (`step`, `steps`, `loss`, `steps_per_second`, `seconds_left`) or the validation after an epoch
(`epoch`, `validation_loss`); both have `time`, in seconds since 1970. Losses are in nats per token, null where not
finite.
"""

import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.command import UserError

_INTERVAL = 1.0  # seconds between two lines about steps, so that the file stays small


@dataclass(frozen=True)
class EpochResult:
    """The validation after an epoch; epoch 0 is the base."""

    epoch: int
    validation_loss: float | None


@dataclass(frozen=True)
class TrainingProgress:
    """The state of a training at its last line."""

    step: int
    steps: int  # at most: early stopping may end it before
    loss: float | None
    steps_per_second: float
    seconds_left: float
    epochs: tuple[EpochResult, ...]


class ProgressWriter:
    """Writes the file of one training."""

    def __init__(self, path: Path, step: int, interval: float = _INTERVAL) -> None:
        """Start the file anew for a training that is at `step`; a line about steps at most every `interval` seconds."""
        with suppress(OSError):
            storage.write_atomic(path, "")
        self._path, self._interval = path, interval
        self._first_step, self._began = step, time.monotonic()
        self._written = -math.inf

    def step(self, step: int, steps: int, loss: float) -> None:
        """Report a step; the last one is always written."""
        now = time.monotonic()
        if now - self._written < self._interval and step < steps:
            return
        self._written = now
        rate = (step - self._first_step) / max(now - self._began, 1e-9)
        self._append(
            step=step,
            steps=steps,
            loss=_finite(loss),
            steps_per_second=rate,
            seconds_left=(steps - step) / max(rate, 1e-9),
        )

    def epoch(self, epoch: int, validation_loss: float) -> None:
        """Report the validation after an epoch."""
        self._append(epoch=epoch, validation_loss=_finite(validation_loss))

    def _append(self, **fields: Any) -> None:
        # A full disk, or a link planted at the name, must not end the training.
        with (
            suppress(OSError, UserError),
            open(self._path, "a", encoding="utf-8", opener=storage.no_follow) as file,
        ):
            file.write(json.dumps({"time": time.time(), **fields}) + "\n")


def read_progress(path: Path, since: float = 0.0) -> TrainingProgress | None:
    """Return the state that the file at `path` describes.

    Returns None where there is no file, no step yet, or none after `since` (seconds since 1970), as in the file of an
    earlier training.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # without a line that is being written
    except FileNotFoundError:
        return None
    reports = [json.loads(line) for line in lines]
    reports = [report for report in reports if report.pop("time") >= since]
    steps = [report for report in reports if "step" in report]
    epochs = tuple(EpochResult(**report) for report in reports if "epoch" in report)
    return TrainingProgress(**steps[-1], epochs=epochs) if steps else None


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
