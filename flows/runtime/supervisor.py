"""A command that ends with whoever wanted it: `python child.py SECONDS NICENESS COMMAND...`, with a pipe as stdin.

When the pipe closes, on purpose or because its other end was killed, every process of the command is told to end by
SIGTERM, so that a trainer writes its checkpoint, and killed after SECONDS. DVC alone hears SIGINT, at which it frees
its locks; while a stage runs it ignores that, and ends with the stage. This process leads a session of its own, so
that a kill of its parent's process group misses it, and on Linux it adopts orphans: the whole tree stays in sight.
NICENESS is the command's: 0 leaves all as it is, 19 takes only what nobody else wants.
"""

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> None:
    """Run the command; exit with its code, as a shell would."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("seconds", metavar="SECONDS", type=float)
    parser.add_argument("niceness", metavar="NICENESS", type=int)
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _go_on)  # unlike an ignored signal, the command does not inherit it
    if given.niceness:
        _step_back(given.niceness)
    command = subprocess.Popen(given.command, stdin=subprocess.DEVNULL)  # noqa: S603 - it is what this is for
    while command.poll() is None and not select.select([0], [], [], 0.1)[0]:
        pass
    _end_tree(command.pid, given.seconds)
    code = command.wait()
    with suppress(ChildProcessError):
        while True:
            os.wait()  # what was adopted: it has ended, and the init of a container may not clear it away
    sys.exit(code if code >= 0 else 128 - code)


def _step_back(niceness: int) -> None:
    """Let others go first."""
    os.nice(niceness)
    group = Path("/proc/self/autogroup")  # Linux shares out between sessions first: niceness counts within one
    if group.exists():
        with suppress(OSError):  # it may not be ours to write in a container, whose share is set from outside
            group.write_text(str(niceness), encoding="ascii")


def _go_on(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the pipe alone says when to end."""


def _end_tree(first: int, seconds: float) -> None:
    """Tell each descendant once to end, kill after `seconds` what is left, return when nothing is."""
    told = set()
    deadline = time.monotonic() + seconds
    while living := _living():
        for process in living:
            try:
                if time.monotonic() > deadline:
                    process.kill()
                elif process not in told and (_is_here(process) or process.ppid() == os.getpid()):
                    told.add(process)
                    process.send_signal(signal.SIGINT if process.pid == first else signal.SIGTERM)
            except (psutil.NoSuchProcess, ProcessLookupError):
                pass  # it has just ended
        time.sleep(0.05)


def _is_here(process: psutil.Process) -> bool:
    """Tell whether it is in this session; others hear it from their parent, as if a terminal had been closed."""
    return os.getsid(process.pid) == os.getsid(0)


def _living() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main()
