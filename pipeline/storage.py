"""Locks, atomic writes and fsync.

The names of locks and temporary files are predictable, and a project may come from a stranger, so a symbolic link at
such a name is never followed.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from pipeline.command import UserError


class LockHeld(UserError):  # noqa: N818 - a state of the lock, not a defect
    """Another process holds a lock; `holder` is what it wrote about itself into the lock file."""

    def __init__(self, path: Path, timeout: float, holder: str) -> None:
        """Describe the lock, how long this process waited for it in seconds, and who holds it."""
        super().__init__(f"{path}: held for more than {timeout:g} s by {holder}; run it again when that has ended")
        self.holder = holder


@contextmanager
def exclusive_lock(path: Path, timeout: float, holder: str) -> Iterator[None]:
    """Hold the lock file `path`; the operating system releases it however this process ends.

    Children do not inherit the lock; see `try_flock`. The holder may delete the lock file with its folder.

    Args:
        path: The lock file; it and its folder are made where they are missing.
        timeout: Seconds to wait while another process holds the lock.
        holder: What the lock file says about this process, for those who wait.

    Raises:
        LockHeld: Another process still holds the lock after `timeout` seconds.
        UserError: A link or something else that is no regular file has the lock's name.
    """

    def write_holder(file: int) -> None:
        os.ftruncate(file, 0)
        os.pwrite(file, holder.encode(), 0)

    lock = FileLock(path, poll_interval=0.02, fallback_to_soft=False, on_acquired=write_holder)
    deadline = time.monotonic() + timeout
    while not lock.is_locked:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_special(path)
        try:
            lock.acquire(max(0, deadline - time.monotonic()))
        except FileNotFoundError:
            continue  # the holder deleted the folder while this process waited
        except Timeout:
            raise LockHeld(path, timeout, _read_holder(path)) from None
    try:
        yield
    finally:
        lock.release()


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200]
    except FileNotFoundError:
        return "a process that has just ended"


def no_follow(path: str, flags: int) -> int:
    """Open a file, but never through a link at its name; an `opener` for `open`."""
    _refuse_special(Path(path))
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _refuse_special(path: Path) -> None:
    """Raise UserError where `path` is a link, or exists and is no regular file: opening a pipe would block."""
    if path.is_symlink():
        raise UserError(f"{path}: is a link, through which nothing is written; delete it and run the command again")
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"{path}: is no regular file; move it away and run the command again")


def read_bytes(path: Path) -> bytes:
    """Return what a file holds; raises ValueError for what is no regular file, such as a pipe, which would block."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file")
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """Return the value in a JSON file; raises FileNotFoundError, and ValueError for any other defect."""
    try:
        return json.loads(read_bytes(path).decode())
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None


def truncate(path: Path, size: int) -> None:
    """Cut a file to `size` bytes, durably, but never through a link at its name."""
    file = no_follow(str(path), os.O_WRONLY)
    try:
        os.ftruncate(file, size)
        os.fsync(file)
    finally:
        os.close(file)


def open_lock(path: Path) -> IO[str]:
    """Open a lock file for `try_flock`, to read and append; it is made where it is missing."""
    return open(path, "a+", encoding="utf-8", opener=no_follow)


def try_flock(file: IO[Any] | int, *, wait: bool = False) -> bool:
    """Lock an open file or folder unless another process holds its lock; return whether it is locked now.

    For a lock that children inherit with the descriptor and that holds until the last of them has closed it: a
    `FileLock` would unlock it for all of them when its holder releases it. With `wait`, wait for the other process.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def create_new(path: Path) -> IO[bytes]:
    """Open a new file for writing; deletes what had its name, such as a link or what a killed run left."""
    path.unlink(missing_ok=True)
    return path.open("xb")  # fails where something took the name since


def temporary_path(path: Path) -> Path:
    """Return the name under which `write_atomic` writes the new content of `path`."""
    return path.with_name(f".{path.name}.new")


def write_atomic(path: Path, content: str | bytes, mode: int | None = None) -> None:
    """Replace a file durably: at any moment, also after a power cut, it holds all of the old or all of the new content.

    Args:
        path: The file; its folder is made where it is missing.
        content: Text is written as UTF-8.
        mode: The new file's permissions; by default those of the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = temporary_path(path)
    with create_new(new) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    fsync(path.parent)


def append(path: Path, content: bytes) -> None:
    """Append to a file with a single write, durably."""
    is_new = not path.exists()
    file = no_follow(str(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        if os.write(file, content) != len(content):
            raise OSError(28, "no space left", str(path))
        os.fsync(file)
    finally:
        os.close(file)
    if is_new:
        fsync(path.parent)


def fsync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def first_problem(error: ValueError) -> str:
    """Return the first problem of a pydantic ValidationError as `key: message`, or the text of another ValueError."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    return f"{key}: {problem['msg']}" if key else problem["msg"]
