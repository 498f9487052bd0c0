"""DVC's stages as Prefect tasks: DVC decides whether a stage runs, Prefect retries it, limits its time and shows it.

Each stage runs in a process tree below `flows.runtime.supervisor`, so that it never outlives the flow run. Its output
goes line by line to the run's log; its outcome comes from `flows.runtime.dvc_child` as JSON.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.tasks import Task

from flows.runtime import dvc_child, supervisor
from flows.runtime.output_lines import DeadlineExceededError, read_lines
from flows.runtime.prefect_internals import is_worker_process
from pipeline.command import MISTAKE_OF_THE_CALLER
from pipeline.dvc_repo import Node, Outcome, Reproduction

_NICENESS = 10  # leaves about nine tenths of a contended core to the service
GRACE = 7.0  # seconds from SIGTERM to SIGKILL: a cancel takes up to 2 to arrive, and 10 in all
_TAIL_LINES = 200  # of the output, searched for the line that explains a failure
_SIGNALLED = {128 + number for number in (signal.SIGINT, signal.SIGTERM)} | {-signal.SIGINT, -signal.SIGTERM}


class StageFailed(Exception):  # noqa: N818 - named like Prefect's states
    """A stage failed.

    Args:
        stage: The node's name.
        code: The exit code of its command, negative for a signal; of DVC's process where no command ran.
        line: The line that explains the failure.
        tail: The last lines of the output.
    """

    def __init__(self, stage: str, code: int, line: str, tail: tuple[str, ...]) -> None:
        """Keep the arguments."""
        super().__init__(stage, code, line, tail)
        self.stage, self.code, self.line, self.tail = stage, code, line, tail

    def __str__(self) -> str:
        """Return the stage and the line."""
        return f"{self.stage}: {self.line}"


def end_with_worker() -> None:
    """End this run by SIGTERM, with a checkpoint, when the worker that started it is gone.

    Prefect would let the run continue, and nobody could cancel it. A run in a process without a worker is unaffected.
    """
    worker = os.getppid()

    def watch() -> None:
        while os.getppid() == worker:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if is_worker_process():
        threading.Thread(target=watch, daemon=True).start()


def reproduce(root: Path, node: str, *, force: bool, minutes: float | None, log: Callable[[str], None]) -> Outcome:
    """Bring one node up to date, but not the nodes it depends on, and return what DVC did.

    Whenever this function ends, every process of the stage has ended: each gets SIGTERM and `GRACE` seconds for its
    checkpoint first.

    Args:
        root: The repository's root.
        node: The node's name.
        force: Run the stage even if nothing changed.
        minutes: The time limit.
        log: Called with each line of the output when it is printed; a progress bar counts as a line every few seconds.

    Raises:
        StageFailed: The stage failed, or DVC refused to run it.
        TimeoutError: The time limit is over.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with tempfile.TemporaryDirectory(prefix="stage_") as folder:
        result = Path(folder) / "result.json"
        process = _start(root, result, node, force)
        try:
            for line in read_lines(process, None if minutes is None else time.monotonic() + 60 * minutes):
                log(line)
                tail.append(line)
            code = process.wait()
        except DeadlineExceededError:
            raise TimeoutError(
                f"{node} took longer than {minutes:g} minutes and was stopped; the next run resumes from its last "
                f"checkpoint if there is one; to allow more time, raise retrain.minutes.{node} in params.yaml"
            ) from None
        finally:
            _end(process)
        reproduction = _read(result)
    if reproduction.outcome is None:
        _raise(node, code, reproduction, list(tail))
    return reproduction.outcome


def _start(root: Path, result: Path, node: str, force: bool) -> subprocess.Popen[bytes]:
    child = [sys.executable, "-P", dvc_child.__file__, str(result), node, *["--force"] * force]
    # This environment's commands come first, as if it were activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", supervisor.__file__, str(GRACE), str(_NICENESS), *child],
        cwd=root,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        close_fds=False,  # the supervisor inherits the workspace lock, see `pipeline.workspace`
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process tree: close the supervisor's pipe, and kill its group if that does not help."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE + 2)
    with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def _read(result: Path) -> Reproduction:
    """Return the child's result; one without an outcome if the child ended before it wrote any."""
    try:
        return Reproduction(**json.loads(result.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return Reproduction(None)


def _raise(node: str, code: int, reproduction: Reproduction, tail: list[str]) -> NoReturn:
    """Raise StageFailed with the stage's own error message, else its last line, else DVC's error."""
    if reproduction.exit_code is None:
        line = reproduction.error or (tail[-1] if tail else f"DVC ended with exit code {code} and without a message")
        raise StageFailed(node, code, line, tuple(tail))
    code = reproduction.exit_code
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        line = "killed by SIGKILL; the usual cause is that the machine ran out of memory"
        raise StageFailed(node, code, line, tuple(tail))
    errors = [number for number, line in enumerate(tail) if line.startswith("error: ")]
    line = "\n".join(tail[errors[-1] :]).removeprefix("error: ") if errors else tail[-1]
    raise StageFailed(node, code, line, tuple(tail))


@task(cache_policy=NO_CACHE)
def _stage(node: str, force: bool, minutes: float | None) -> State[Any]:
    """Bring one node up to date; the state's name is the outcome if the stage did not run."""
    from flows.runtime.training_progress import ProgressArtifacts  # imports more than a run without news needs

    log = get_run_logger()
    try:
        with ProgressArtifacts(log.warning):
            outcome = reproduce(Path(), node, force=force, minutes=minutes, log=log.info)
    except TimeoutError as error:
        return Failed(name="TimedOut", message=str(error))
    except StageFailed as error:
        return Failed(message=str(error), data=error)
    if outcome == "Ran":
        return Completed(message="ran")
    reason = "no dependency changed" if outcome == "Skipped" else "restored from DVC's run cache"
    return Completed(name=outcome, message=reason)


def _is_retryable(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Whether to retry: not after a user's mistake, the time limit or a signal that ended the stage on purpose."""
    error = state.data
    return isinstance(error, StageFailed) and error.code != MISTAKE_OF_THE_CALLER and error.code not in _SIGNALLED


def stage(node: Node, retries: int, retry_seconds: float) -> Task[[str, bool, float | None], State[Any]]:
    """Return the task that brings `node` up to date; it has the node's name."""
    return _stage.with_options(
        name=node.name,
        task_run_name=node.name,
        retries=retries,
        retry_delay_seconds=retry_seconds,
        retry_condition_fn=_is_retryable,
    )
