"""One at a time in the workspace: a retraining holds its lock for all its stages, `dvc repro` for each of its own.

The lock is a flock on `registry/workspace.lock`, which the operating system frees however its holder ends; the file's
text says who holds it. What a holder starts knows the claim by an environment variable and does not ask again.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NoReturn

from pipeline import paths, storage
from pipeline.command import UserError, arg_parser, run

LOCK = paths.REGISTRY / "workspace.lock"
_CLAIM = "WORKSPACE_CLAIM"
_PATIENCE = 10.0  # seconds of a stage for one that was just told to stop: it may still be writing its checkpoint


class Busy(UserError):  # noqa: N818 - as one says it
    """Somebody else is at work in the workspace."""


@contextmanager
def claim(root: Path, who: str, patience: float = 0) -> Iterator[None]:
    """Hold the workspace `root` for this process and those it starts; `who` is what another one is told.

    Waits `patience` seconds for another holder, then raises Busy with the holder's name, process and start. Within a
    claim, in this process or a parent, it does nothing.
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with storage.open_lock(path) as lock:
        while not storage.try_flock(lock):
            holder = _holder(lock)
            if holder and holder["claim"] == os.environ.get(_CLAIM):
                yield
                return
            if time.monotonic() >= deadline:
                raise Busy(_sentence(holder))
            time.sleep(0.1)
        token = uuid.uuid4().hex
        lock.truncate(0)
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        lock.write(json.dumps({"who": who, "pid": os.getpid(), "since": now, "claim": token}))
        lock.flush()
        # `flows.runtime.supervisor` inherits it, so that a killed holder's lock is held until its last process ends.
        os.set_inheritable(lock.fileno(), True)
        before = os.environ.get(_CLAIM)
        os.environ[_CLAIM] = token
        try:
            yield
        finally:
            if before is None:
                del os.environ[_CLAIM]
            else:
                os.environ[_CLAIM] = before
            lock.truncate(0)


def run_stage(
    main: Callable[[], None], *, inputs: Sequence[Path] = (), first: Callable[[], None] = lambda: None
) -> NoReturn:
    """Do what `pipeline.command.run` does, in a claim on the current folder: the way a stage's module ends.

    Args:
        main: Runs the stage.
        inputs: What other stages make and this one cannot do without.
        first: Called before the claim: it may start the process again.
    """
    name = Path(sys.argv[0]).stem

    def stage() -> None:
        arg_parser().parse_args()
        if not paths.PARAMS.exists():  # a claim would leave its file in a folder that is no project
            raise UserError(f"{paths.PARAMS} is not here; run the command from the repository's root")
        for path in inputs:
            if not path.exists():
                raise UserError(f"{path} is not here; `dvc repro {name}` makes it first, and then runs this stage")
        first()
        if os.environ.get("RANK", "0") != "0":  # of the processes that torchrun starts, the first claims for all
            return main()
        with claim(Path(), f"the stage {name}", _PATIENCE):
            main()

    run(stage)


def _holder(lock: IO[str]) -> dict[str, Any] | None:
    """Return what the holder wrote; None in the moment before it has."""
    lock.seek(0)
    text = lock.read()
    try:
        found: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found


def _sentence(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "somebody is at work in this folder; wait, or cancel it"
    return (
        f"{holder['who']} is at work in this folder since {holder['since']} (process {holder['pid']});"
        " wait, or cancel it"
    )
