"""One writer at a time in the workspace: a retraining holds its lock across all stages, `dvc repro` in each stage.

The lock is an flock on `registry/workspace.lock`, which the operating system releases however its holder ends; the
file's text names the holder. Processes that a holder starts inherit the claim through an environment variable. It is
no `filelock`: the descriptor passes to a child, which keeps the lock when the holder is killed.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NoReturn

from pipeline import paths, storage
from pipeline.command import UserError, arg_parser, run, warn

LOCK = paths.REGISTRY / "workspace.lock"
_CLAIM = "WORKSPACE_CLAIM"
_RESTARTED = "FINETUNE_ALLOCATOR"
_PATIENCE = 10.0  # seconds that a stage waits: a run that was just stopped may still be writing its checkpoint


class Busy(UserError):  # noqa: N818 - a state, not a failure
    """Another process is at work in the workspace."""


@contextmanager
def claim(root: Path, who: str, patience: float = 0) -> Iterator[None]:
    """Hold the workspace `root` for this process and those it starts; `who` names the holder to others.

    Waits `patience` seconds for another holder, then raises Busy with the holder's name, process and start. Inside a
    claim of this process or of a parent it does nothing.
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
                raise Busy(_busy_message(holder))
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
    main: Callable[[], None], *, inputs: Sequence[Path] = (), environment: Callable[[], Mapping[str, str]] = dict
) -> NoReturn:
    """Run a stage as `pipeline.command.run` does, inside a claim on the current folder; a stage's module ends with it.

    Args:
        main: Runs the stage.
        inputs: Files of other stages that this one needs.
        environment: Returns variables that the process must start with, see `restart_with`.
    """
    name = Path(sys.argv[0]).stem

    def stage() -> None:
        arg_parser().parse_args()
        if not paths.PARAMS.exists():  # a claim would write its lock into a folder that is no project
            raise UserError(f"{paths.PARAMS} is not here; run the command from the repository's root")
        for path in inputs:
            if not path.exists():
                raise UserError(f"{path} is not here; `dvc repro {name}` makes it first, and then runs this stage")
        restart_with(environment())
        if os.environ.get("RANK", "0") != "0":  # the first of torchrun's processes claims for all
            return main()
        with claim(Path(), f"the stage {name}", _PATIENCE):
            main()

    run(stage)


def restart_with(environment: Mapping[str, str]) -> None:
    """Start this process again with these variables, at most once; for a command's start: what it computed is lost."""
    if not environment or _RESTARTED in os.environ:
        return
    values = " ".join(f"{name}={value}" for name, value in environment.items())
    warn(f"started again with {values}")
    sys.stderr.flush()
    os.execve(  # noqa: S606 - the same command
        sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **environment, _RESTARTED: values}
    )


def _holder(lock: IO[str]) -> dict[str, Any] | None:
    """Return what the holder wrote; None in the moment before it has."""
    lock.seek(0)
    try:
        holder: dict[str, Any] = json.loads(lock.read())
    except json.JSONDecodeError:
        return None
    return holder


def _busy_message(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "somebody is at work in this folder; wait, or cancel it"
    return (
        f"{holder['who']} is at work in this folder since {holder['since']} (process {holder['pid']});"
        " wait, or cancel it"
    )
