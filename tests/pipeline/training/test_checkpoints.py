"""A checkpoint is whole or not there; a damaged one is noticed; a full disk costs none; one trainer at a time."""

import multiprocessing
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.command import UserError
from pipeline.training.checkpoints import Checkpoints, disk_errors, locked

pytestmark = pytest.mark.integration

FILES = ("weights.safetensors", "trainer_state.json")


def save(checkpoints: Checkpoints, step: int) -> None:
    with checkpoints.writing(step) as folder:
        for name in FILES:
            (folder / name).write_bytes(bytes([step]) * 1000)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Return the checkpoints of a run that has saved two."""
    checkpoints = Checkpoints(tmp_path / "key")
    save(checkpoints, 9)
    save(checkpoints, 10)
    return checkpoints


def name_of_last(checkpoints: Checkpoints) -> str | None:
    last = checkpoints.last()
    return last.name if last else None


def test_the_last_two_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(checkpoints, 100)
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == ["checkpoint-10", "checkpoint-100"]
    assert name_of_last(checkpoints) == "checkpoint-100"


def test_what_a_killed_run_was_writing_does_not_count(checkpoints: Checkpoints, tmp_path: Path) -> None:
    unfinished = tmp_path / "key" / "unfinished"
    unfinished.mkdir()
    (unfinished / FILES[0]).write_bytes(b"half")
    checkpoints.clean()
    assert not unfinished.exists()
    assert name_of_last(checkpoints) == "checkpoint-10"


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, Path.unlink])
@pytest.mark.parametrize("name", [*FILES, "checksums.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    checkpoints: Checkpoints, damage, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last = checkpoints.last()
    assert last is not None
    damage(last / name)
    checkpoints.clean()
    assert name_of_last(checkpoints) == "checkpoint-9"
    said = capsys.readouterr().err
    assert said.startswith("warning: the checkpoint of step 10 is damaged (")
    assert said.endswith("); the one of step 9 is used\n")
    assert name in said or FILES[0] in said or FILES[1] in said


def test_without_a_whole_checkpoint_training_starts_again(
    checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (tmp_path / "key").rglob(FILES[0]):
        truncate(file)
    checkpoints.clean()
    assert checkpoints.last() is None
    assert capsys.readouterr().err.endswith("the checkpoint of step 9 is damaged (weights.safetensors has changed);"
        " training starts again\n")  # fmt: skip


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_in_one_sentence_and_costs_no_checkpoint(small_disk: Path) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    checkpoints = Checkpoints(small_disk / "key")
    save(checkpoints, 1)
    said = (
        r"the checkpoint of step 2 could not be written: No space left on device .*\(0 MiB are free\);"
        r" free some space, then `dvc repro` continues from step 1$"
    )
    with pytest.raises(UserError, match=said), checkpoints.writing(2) as folder:
        save_file({"a": zeros(100_000)}, folder / "weights.safetensors")
    with pytest.raises(UserError, match=said.replace(" .*", " ")), checkpoints.writing(2) as folder:
        (folder / "weights.safetensors").write_bytes(bytes(100_000))
    checkpoints.clean()
    assert name_of_last(checkpoints) == "checkpoint-1"
    save(checkpoints, 2)  # there is room for a small one


def test_a_file_above_the_limit_of_the_system_is_said_likewise(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        said = pytest.raises(UserError, match="the results could not be written: File too large")
        with said, disk_errors("the results", tmp_path, "make room"):
            (tmp_path / "file").write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def hold(folder: Path, has_begun, may_end) -> None:
    with locked(folder, patience=0):
        has_begun.set()
        may_end.wait()


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    has_begun, may_end = processes.Event(), processes.Event()
    other = processes.Process(target=hold, args=(tmp_path, has_begun, may_end))
    other.start()
    has_begun.wait()
    said = pytest.raises(UserError, match=rf"another training run \(process {other.pid}\) is at work here")
    with said, locked(tmp_path, patience=0):
        pass
    other.kill()
    with locked(tmp_path, patience=10):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
    other.join()


def test_checkpoints_of_other_runs_are_deleted_once_this_run_has_one(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(Checkpoints(tmp_path / "other"), 5)
    (tmp_path / "lock").touch()
    checkpoints.delete_others()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "lock"]
