"""Locks and temporary files have names that anybody knows: a link planted there is never written through."""

import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pipeline import paths, promote, storage, workspace
from pipeline.command import UserError
from pipeline.training import checkpoints
from pipeline.verdict.judge import unchanged
from tests.conftest import ROOT


def claim(folder: Path) -> None:
    with workspace.claim(folder, "a test"):
        pass


def lock_checkpoints(folder: Path) -> None:
    with checkpoints.locked(folder, patience=0):
        pass


def holding(path: Path) -> AbstractContextManager[None]:
    return storage.exclusive_lock(path, 0, "a test")


def hold_lock(folder: Path) -> None:
    with holding(folder / "lock"):
        pass


def truncate(folder: Path) -> None:
    storage.truncate(folder / "log", 0)


def scratch(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with paths.scratch("validate") as made:
            (made / "shelf").touch()


def append(folder: Path) -> None:
    storage.append(folder / "log", b"new")


def write_verdict(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        promote._write(unchanged({"version": "0" * 40}, "2026-11-28T00:00:00+00:00"))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        (str(workspace.LOCK), claim),
        ("lock", lock_checkpoints),
        ("lock", hold_lock),
        ("log", append),
        ("log", truncate),
        ("data/.validate", scratch),
        (str(storage.temporary_path(paths.VERDICT)), write_verdict),
    ],
)
@pytest.mark.parametrize("dangling", [False, True])
def test_a_planted_link_is_not_written_through(
    tmp_path: Path, name: str, write: Callable[[Path], None], dangling: bool
) -> None:
    precious = tmp_path / "precious"
    if not dangling:
        precious.write_text("mine", encoding="utf-8")
    planted = tmp_path / "project" / name
    planted.parent.mkdir(parents=True)
    planted.symlink_to(precious)
    try:
        write(tmp_path / "project")
    except UserError as error:
        assert f"{planted}: is a link, through which nothing is written; delete it" in str(error)  # noqa: PT017
    else:
        assert not planted.is_symlink()
    assert precious.exists() is not dangling
    assert dangling or precious.read_text(encoding="utf-8") == "mine"


def test_of_a_link_to_a_folder_only_the_link_is_deleted(tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "tokens"
    mine.mkdir()
    (mine / "precious").touch()
    for make in (lambda: folder.symlink_to(mine), folder.mkdir, lambda: None):
        make()
        paths.clear(folder)
        assert not os.path.lexists(folder)
    assert (mine / "precious").exists()


def test_a_pipe_in_the_place_of_a_lock_or_a_file_of_json_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"pipe: is no regular file; move it away"):
        storage.open_lock(pipe)
    with pytest.raises(UserError, match=r"pipe: is no regular file; move it away"), holding(pipe):
        pass
    with pytest.raises(ValueError, match="is no regular file"):
        storage.read_json(pipe)


def test_a_held_lock_is_refused_with_its_holder_until_it_is_released(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    with holding(lock):
        with pytest.raises(storage.LockHeld, match="lock: held for more than 0 s by a test; run it again") as caught:
            hold_lock(lock.parent)
        assert caught.value.holder == "a test"
        shutil.rmtree(lock.parent)  # the holder may delete the lock with its folder
        hold_lock(lock.parent)
    hold_lock(lock.parent)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"\0"])
def test_whatever_is_no_json_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        storage.read_json(path)


def test_a_file_is_replaced_whole_with_the_permissions_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    storage.write_atomic(path, "one")
    storage.temporary_path(path).write_text("what a killed run left", encoding="utf-8")
    storage.write_atomic(path, b"two", mode=0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o640)
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_temporary_names_and_locks_are_opened_in_one_place() -> None:
    for package in ("flows", "pipeline", "serving"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "storage.py":
                text = path.read_text(encoding="utf-8")
                matches = re.findall(r"""\{[\w.]+\}\.(?:new|part|tmp)["']|open\(["']a\+?["']|\bfcntl\b""", text)
                assert not matches, f"{path}: use pipeline.storage"
