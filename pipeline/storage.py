"""Locks, atomic writes and fsync.

Names of locks and temporary files are predictable, and a project may come from a stranger: a link planted at such a
name is never followed.
"""

import json
import os
from pathlib import Path
from typing import IO, Any

from pipeline.command import UserError


def no_follow(path: str, flags: int) -> int:
    """Open a file, but never through a link at its name; an `opener` for `open`."""
    if Path(path).is_symlink():
        raise UserError(f"{path}: is a link, through which nothing is written; delete it and run the command again")
    if os.path.lexists(path) and not Path(path).is_file():
        raise UserError(f"{path}: is no regular file; move it away and run the command again")
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def read_json(path: Path) -> Any:
    """Return what a file of JSON holds; raises FileNotFoundError, and ValueError for whatever else is wrong with it."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is no regular file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None


def truncate(path: Path, size: int) -> None:
    """Cut a file, but never one that a link at its name leads to."""
    file = no_follow(str(path), os.O_WRONLY)
    try:
        os.ftruncate(file, size)
        os.fsync(file)
    finally:
        os.close(file)


def open_lock(path: Path) -> IO[str]:
    """Open a lock file, made where it is missing, to be read and appended to."""
    return open(path, "a+", encoding="utf-8", opener=no_follow)


def create_new(path: Path) -> IO[bytes]:
    """Open a new file for writing; what had its name before, such as a killed run's file or a link, is deleted."""
    path.unlink(missing_ok=True)
    return path.open("xb")  # fails where something, a link included, has the name by now


def temporary_path(path: Path) -> Path:
    """Return the temporary name under which `write_atomic` writes what is to be at `path`."""
    return path.with_name(f".{path.name}.new")


def write_atomic(path: Path, content: str | bytes, mode: int | None = None) -> None:
    """Write a file that is at every moment either the old one or the new one, also after a power cut.

    Args:
        path: The file; its folder is made where it is missing.
        content: Text is written as UTF-8.
        mode: The new file's permissions, where they are not the usual ones.
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
    """Add to a file's end with one write, and see it onto the disk."""
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
    """See a file, or the names in a folder, onto the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
