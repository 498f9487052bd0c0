"""Run a command that ends when this process's stdin closes: `python supervisor.py SECONDS NICENESS COMMAND...`.

The pipe closes on purpose, or because the process at its other end was killed. Every process of the command then gets
SIGTERM, so that a trainer writes its checkpoint, and SIGKILL after SECONDS. The command itself, DVC, gets SIGINT, at
which it frees its locks; while a stage runs it ignores that and ends with the stage. This process leads a session of
its own, so that a kill of its parent's process group misses it, and on Linux it adopts orphans of the command.
NICENESS is the command's: 0 changes nothing, 19 takes only idle processor time.
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
    arguments = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)  # unlike SIG_IGN, the command does not inherit it
    if arguments.niceness:
        _lower_priority(arguments.niceness)
    command = subprocess.Popen(arguments.command, stdin=subprocess.DEVNULL)  # noqa: S603 - the purpose of this module
    while command.poll() is None and not select.select([0], [], [], 0.1)[0]:
        pass
    _end_tree(command.pid, arguments.seconds)
    code = command.wait()
    with suppress(ChildProcessError):
        while True:
            os.wait()  # reap adopted processes that have ended: a container may have no init that does
    sys.exit(code if code >= 0 else 128 - code)


def _lower_priority(niceness: int) -> None:
    """Set the niceness of this process, and on Linux of its session.

    Linux shares processor time between sessions first; niceness counts only within one.
    """
    os.nice(niceness)
    autogroup = Path("/proc/self/autogroup")
    if autogroup.exists():
        with suppress(OSError):  # not writable in some containers, whose share is set from outside
            autogroup.write_text(str(niceness), encoding="ascii")


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: only the pipe says when to end."""


def _end_tree(first: int, seconds: float) -> None:
    """Signal each descendant once, kill after `seconds` those that remain, and return when none does."""
    signalled = set()
    deadline = time.monotonic() + seconds
    while descendants := _living_descendants():
        for process in descendants:
            try:
                if time.monotonic() > deadline:
                    process.kill()
                elif process not in signalled and (_is_in_session(process) or process.ppid() == os.getpid()):
                    signalled.add(process)
                    process.send_signal(signal.SIGINT if process.pid == first else signal.SIGTERM)
            except (psutil.NoSuchProcess, ProcessLookupError):
                pass  # it has just ended
        time.sleep(0.05)


def _is_in_session(process: psutil.Process) -> bool:
    """Whether the process is in this session; its parent ends those of other sessions, as when a terminal closes."""
    return os.getsid(process.pid) == os.getsid(0)


def _living_descendants() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if _is_living(process)]


def _is_living(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main()
