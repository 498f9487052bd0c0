"""DVC's stages as Prefect's tasks: DVC says what there is, in which order and whether it must run.

`dvc` runs as a child of `flows.runtime.supervisor`: its lines go into the run's log as they come, and it never
outlives the run.
"""

import codecs
import itertools
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import psutil
from dvc.exceptions import DvcException
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.tasks import Task

from flows.runtime import supervisor
from pipeline import escape
from pipeline.command import MISTAKE_OF_THE_CALLER, UserError
from pipeline.dvc_repo import open_repo

Outcome = Literal["Ran", "Skipped", "Cached"]

_NICENESS = 10  # a tenth of a core's time where the service wants it too; all of it where nobody does
_GRACE = 7.0  # seconds from SIGTERM to SIGKILL: a cancel takes up to 2 to arrive, and 10 in all
_BAR = 5.0  # seconds between two lines of a progress bar in the log
_LINE = 10_000  # characters of a line without an end
_KEPT = 200  # last lines, in which the one that matters is
_ON_PURPOSE = {128 + number for number in (signal.SIGINT, signal.SIGTERM)} | {-signal.SIGINT, -signal.SIGTERM}
_FAILURE = re.compile(r"ERROR: failed to reproduce '.*?': (?P<why>.*)")
_MOVES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # of the cursor, and colours
_UNDER_WAY = re.compile(r"(?<!100)%\|")  # a bar within a bar ends the line of the outer one
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")


@dataclass(frozen=True)
class Node:
    """What DVC makes or follows: a stage, or a file of data by its `.dvc` file; `after` names what it hangs on."""

    name: str
    after: tuple[str, ...]

    @property
    def is_data(self) -> bool:
        """Tell whether it is a file of data."""
        return self.name.endswith(".dvc")


class StageFailed(Exception):  # noqa: N818 - as one says it
    """A stage ended in an error: its name, its exit code, the line that matters, its last lines."""

    def __init__(self, stage: str, code: int, line: str, tail: tuple[str, ...]) -> None:
        """Keep all four."""
        super().__init__(stage, code, line, tail)
        self.stage, self.code, self.line, self.tail = stage, code, line, tail

    def __str__(self) -> str:
        """Return the stage and the line."""
        return f"{self.stage}: {self.line}"


def graph(root: Path) -> list[Node]:
    """Return what `dvc repro` in `root` would look at, in its order; raises UserError with DVC's own words."""
    try:
        with open_repo(root) as repo:
            active = get_active_graph(repo.index.graph)
            plan = plan_repro(active, collect_stages(repo, ["dvc.yaml"]))
            return [Node(_name(stage), tuple(sorted(map(_name, active.successors(stage))))) for stage in plan]
    except DvcException as error:
        raise UserError(f"dvc cannot read its pipeline: {error}") from None


def _name(stage: object) -> str:
    """Return what `dvc repro` calls it in the root; DVC's own `addressing` hangs on the current folder."""
    path, name = getattr(stage, "path_in_repo"), getattr(stage, "name", None)  # noqa: B009 - DVC is not typed
    return str(path if name is None else name if path == "dvc.yaml" else f"{path}:{name}")


def free_locks(root: Path) -> None:
    """Delete DVC's list of files in use where a killed `dvc` left it broken, or with processes that are not its own.

    DVC drops ids of processes that are gone, but takes another process with the same id, after a restart of the
    machine above all, for the one that was killed.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        written = path.stat().st_mtime
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except json.JSONDecodeError:
        path.unlink()
        return
    readers = itertools.chain(*content.get("read", {}).values())
    users = [*content.get("write", {}).values(), *readers]
    if users and not any(_began_before(user["pid"], written) for user in users):
        path.unlink()


def _began_before(pid: int, moment: float) -> bool:
    try:
        return bool(psutil.Process(pid).create_time() <= moment)
    except psutil.NoSuchProcess:
        return False


def end_with_worker() -> None:
    """End this run as a SIGTERM does, checkpoint and all, when the worker or `serve` that started it is gone.

    Prefect lets it run on, where nobody could cancel it any more. A run in a process of its own is nobody's.
    """
    worker = os.getppid()

    def watch() -> None:
        while os.getppid() == worker:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if "PREFECT__FLOW_RUN_ID" in os.environ:
        threading.Thread(target=watch, daemon=True).start()


def reproduce(root: Path, node: str, *, force: bool, minutes: float | None, log: Callable[[str], None]) -> Outcome:
    """Let DVC bring `node` up to date, not what it hangs on; return what that took.

    `log` gets each line as it comes, a progress bar every few seconds. Whatever ends this ends every process of the
    stage, which has some seconds for its checkpoint. Raises StageFailed, and TimeoutError after `minutes`.
    """
    dvc = [sys.executable, "-P", "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *["--force"] * force, node]
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    lines: deque[str] = deque(maxlen=_KEPT)
    outcome: Outcome = "Ran"
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", supervisor.__file__, str(_GRACE), str(_NICENESS), *dvc],
        cwd=root,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        close_fds=False,  # the lock on the workspace goes along
    )
    try:
        for line in _lines(process, deadline):
            log(line)
            lines.append(line)
            if line.endswith(f"'{node}' didn't change, skipping"):
                outcome = "Skipped"
            elif line.startswith(f"Stage '{node}' is cached - skipping run"):
                outcome = "Cached"
        code = process.wait()
    except _OutOfTime:
        raise TimeoutError(
            f"{node} took longer than {minutes:g} minutes and was ended; the next run goes on from its last checkpoint,"
            f" if it has one; where it needs longer, raise retrain.minutes.{node} in params.yaml"
        ) from None
    finally:
        _end(process)
    if code:
        _raise(node, code, list(lines))
    return outcome


def _environment() -> dict[str, str]:
    """Return the child's: this Python first, as when its environment is activated, and output that comes at once."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the tree: by closing its pipe, then, where that did not help, by force."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE + 2)
    with suppress(ProcessLookupError, PermissionError):  # the latter is macOS's word for a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


class _OutOfTime(Exception):  # noqa: N818 - it never leaves this module
    pass


def _lines(process: subprocess.Popen[bytes], deadline: float | None) -> Iterator[str]:
    """Yield the lines of the output; of a progress bar its end, and one every few seconds."""
    assert process.stdout is not None
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest, shown = "", time.monotonic()
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise _OutOfTime
            if not ready.select(0.5):
                if process.poll() is None:
                    continue
                break  # it has ended, and what it left open belongs to nobody
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            *ended, rest = re.split(r"(?<=\n)|(?<=\r)(?!\n|\Z)", rest + decode(chunk))
            if len(rest) > _LINE:
                ended, rest = [*ended, f"{rest}\n"], ""
            for line in (_MOVES.sub("", line) for line in ended):
                is_bar = line.endswith("\r") or _UNDER_WAY.search(line)
                if line.strip() and not (is_bar and time.monotonic() - shown < _BAR):
                    yield escape.visible(line.strip())
                    shown = time.monotonic() if is_bar else shown
    if rest.strip():
        yield escape.visible(rest.strip())


def _raise(node: str, code: int, lines: list[str]) -> NoReturn:
    """Raise StageFailed with what the stage said last: its own sentence, else its last line, else DVC's."""
    said = next((number for number, line in enumerate(lines) if _FAILURE.match(line)), len(lines))
    why = _FAILURE.match(lines[said]) if said < len(lines) else None
    exited = _EXITED.search(lines[said]) if why else None
    own = lines[:said]
    if exited is None:
        line = why["why"] if why else next((line for line in reversed(lines)), "dvc ended without a word")
        raise StageFailed(node, code, line, tuple(lines))
    code = int(exited[1])
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise StageFailed(node, code, "killed by SIGKILL, as when the machine runs out of memory", tuple(lines))
    sentences = [number for number, line in enumerate(own) if line.startswith("error: ")]
    line = "\n".join(own[sentences[-1] :]).removeprefix("error: ") if sentences else own[-1]
    raise StageFailed(node, code, line, tuple(lines))


@task(cache_policy=NO_CACHE)
def _stage(node: str, force: bool, minutes: float | None) -> State[Any]:
    """Bring one node up to date; the state's name is the outcome, where DVC had nothing to run."""
    from flows.runtime.artifacts import Progress  # here, for it brings more along than a run without news needs

    log = get_run_logger()

    def take(line: str) -> None:
        log.info(line)
        progress.line(line)

    try:
        with Progress(log.warning) as progress:
            outcome = reproduce(Path(), node, force=force, minutes=minutes, log=take)
    except TimeoutError as error:
        return Failed(name="TimedOut", message=str(error))
    except StageFailed as error:
        return Failed(message=str(error), data=error)
    if outcome == "Ran":
        return Completed(message="ran")
    reason = "nothing that it hangs on changed" if outcome == "Skipped" else "DVC had its outputs from an earlier run"
    return Completed(name=outcome, message=reason)


def _may_go_better(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Tell whether another attempt makes sense: not after a mistake of the user, a time limit or somebody's signal."""
    error = state.data
    return isinstance(error, StageFailed) and error.code != MISTAKE_OF_THE_CALLER and error.code not in _ON_PURPOSE


def stage(node: Node, retries: int, retry_seconds: float) -> Task[[str, bool, float | None], State[Any]]:
    """Return the task that brings `node` up to date, under its own name."""
    return _stage.with_options(
        name=node.name,
        task_run_name=node.name,
        retries=retries,
        retry_delay_seconds=retry_seconds,
        retry_condition_fn=_may_go_better,
    )
