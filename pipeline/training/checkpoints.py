"""Checkpoints that survive a kill, a power cut and a full disk: written aside, synced, then renamed.

`models/checkpoints/lock` belongs to the one trainer at work. `models/checkpoints/<key>/checkpoint-<step>` are the last
ones of a run; `<key>/unfinished` is what a killed run was writing or deleting.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from pipeline import storage
from pipeline.command import UserError, warn

KEPT = 2  # the last, and the one before it in case the last is damaged
_CHECKSUMS = "checksums.json"


class Checkpoints:
    """The checkpoints of the run whose key is `folder`'s name."""

    def __init__(self, folder: Path) -> None:
        """Change no file yet."""
        self._folder = folder
        self._unfinished = folder / "unfinished"

    def last(self) -> Path | None:
        """Return the newest checkpoint, or None."""
        steps = self._steps()
        return self._at(steps[-1]) if steps else None

    def clean(self) -> None:
        """Delete what was never finished and the newest checkpoints up to an intact one; warn of each."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        for step in reversed(self._steps()):
            damage = _damage(self._at(step))
            if damage is None:
                return
            self._delete(step)
            older = [kept for kept in self._steps() if kept < step]
            fallback = f"the one of step {older[-1]} is used" if older else "training starts again"
            warn(f"warning: the checkpoint of step {step} is damaged ({damage}); {fallback}")

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """Yield a folder to write a checkpoint into, which becomes one when the block ends: whole or not at all.

        Raises UserError where it cannot be written, as on a full disk; earlier checkpoints stay.
        """
        fix = f"free some space, then `dvc repro` {self.next_run()}"
        with disk_errors(f"the checkpoint of step {step}", self._folder, fix):
            try:
                self._unfinished.mkdir(parents=True)
                yield self._unfinished
                checksums = {file.name: _sha256(file) for file in sorted(self._unfinished.iterdir())}
                (self._unfinished / _CHECKSUMS).write_text(json.dumps(checksums, indent=2), encoding="utf-8")
                for path in (*self._unfinished.iterdir(), self._unfinished):
                    _sync(path)
                self._unfinished.rename(self._at(step))
                _sync(self._folder)
            except BaseException:
                shutil.rmtree(self._unfinished, ignore_errors=True)
                raise
        for old in self._steps()[:-KEPT]:
            self._delete(old)

    def next_run(self) -> str:
        """Return what the next run does, as the predicate of a sentence."""
        last = self.last()
        return f"continues from step {_step_of(last)}" if last else "starts again"

    def delete_others(self) -> None:
        """Delete the checkpoints of runs with another key: other settings, data or code."""
        for other in self._folder.parent.iterdir():
            if other.is_dir() and other != self._folder:
                shutil.rmtree(other)

    def _at(self, step: int) -> Path:
        return self._folder / f"checkpoint-{step}"

    def _steps(self) -> list[int]:
        return sorted(_step_of(path) for path in self._folder.glob("checkpoint-*"))

    def _delete(self, step: int) -> None:
        """Rename, then delete: a kill in between must not leave half a checkpoint under its name."""
        self._at(step).rename(self._unfinished)
        shutil.rmtree(self._unfinished)


@contextmanager
def locked(folder: Path, patience: float) -> Iterator[None]:
    """Hold `folder` for this process; raises UserError where another one holds it for more than `patience` seconds."""
    try:
        with storage.exclusive_lock(folder / "lock", patience, str(os.getpid())):
            yield
    except storage.LockHeld as error:
        raise UserError(
            f"{folder}: another training run (process {error.holder}) is at work here;"
            f" wait for it, or end it with `kill {error.holder}`, then run `dvc repro` again"
        ) from None


@contextmanager
def disk_errors(what: str, folder: Path, fix: str) -> Iterator[None]:
    """Turn a file system error while writing `what` into `folder` into a UserError with its `fix`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rsplit("I/O error: ", maxsplit=1)[-1]
        free = shutil.disk_usage(folder if folder.exists() else Path()).free // 2**20
        raise UserError(f"{folder}: {what} could not be written: {reason} ({free} MiB are free); {fix}") from error


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _damage(checkpoint: Path) -> str | None:
    """Return what is wrong with the files of `checkpoint`, or None."""
    try:
        checksums = json.loads((checkpoint / _CHECKSUMS).read_text(encoding="utf-8"))
        for name, expected in checksums.items():
            if _sha256(checkpoint / name) != expected:
                return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, AttributeError):  # not text, not JSON, or not an object
        return f"{_CHECKSUMS} has changed"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or the entries of a folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
