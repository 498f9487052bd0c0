"""Overrides never lose params.yaml, whether a run is killed or a person edits the file."""

import signal
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from flows.runtime import overrides
from flows.runtime.overrides import applied_overrides, restore
from pipeline import params
from pipeline.command import UserError
from tests.conftest import ROOT, Workspace

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.flows.runtime.test_overrides"])
CHANGES = {"finetune.epochs": 77, "evaluate": {"seed": 5, "prompts": ["Aye", "No"]}}


@pytest.fixture
def before(workspace: Workspace) -> bytes:
    """Return the bytes of params.yaml, which is in the current folder."""
    return Path("params.yaml").read_bytes()


@pytest.fixture
def logged() -> list[str]:
    return []


def test_overrides_keep_comments_and_the_original_bytes_return(before: bytes, logged: list[str]) -> None:
    Path("params.yaml").chmod(0o640)
    with applied_overrides(Path(), CHANGES, logged.append):
        result = params.load()
        assert (result.finetune.epochs, result.evaluate.seed, result.evaluate.prompts) == (77, 5, ("Aye", "No"))
        changed = set(Path("params.yaml").read_text().splitlines()) - set(before.decode().splitlines())
        assert len(changed) == 4  # no other line, so every other comment and quote is there
    assert Path("params.yaml").read_bytes() == before
    assert Path("params.yaml").stat().st_mode & 0o777 == 0o640
    assert not logged
    assert sorted(path.name for path in Path().rglob("*") if path.is_file()) == ["params.yaml"]


def test_an_exception_restores_the_file(before: bytes, logged: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), applied_overrides(Path(), CHANGES, logged.append):
        raise KeyboardInterrupt
    assert Path("params.yaml").read_bytes() == before


def test_all_problems_are_reported_at_once_and_the_file_is_untouched(before: bytes, logged: list[str]) -> None:
    wrong = {"finetune.epochs": 0, "finetune": {"lerning_rate": 1}, "nothing.here": 1, "base.x": 2}
    with pytest.raises(UserError) as raised, applied_overrides(Path(), wrong, logged.append):
        pytest.fail("it began")
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("with the overrides, params.yaml: ") for line in lines)
    assert "finetune.lerning_rate: unknown key; did you mean learning_rate?" in str(raised.value)
    assert Path("params.yaml").read_bytes() == before
    restore(Path(), logged.append)
    assert Path("params.yaml").read_bytes() == before


def test_an_edit_during_the_run_stays_and_the_overrides_are_removed(before: bytes, logged: list[str]) -> None:
    with applied_overrides(Path(), CHANGES, logged.append):
        text = Path("params.yaml").read_text()
        Path("params.yaml").write_text(text.replace("batch_size: 2 ", "batch_size: 3 ") + "# mine\n")
    expected = before.decode().replace("batch_size: 2 ", "batch_size: 3 ") + "# mine\n"
    assert Path("params.yaml").read_text() == expected
    assert logged == ["params.yaml was edited during a run with overrides: the edit stays, the overrides are removed"]


def test_an_edit_of_an_overridden_value_stays(workspace: Workspace, logged: list[str]) -> None:
    with applied_overrides(Path(), CHANGES, logged.append):
        workspace.set(finetune__epochs=9)
    assert params.load().finetune.epochs == 9
    assert params.load().evaluate.seed == 42


def test_invalid_yaml_is_left_alone_and_the_original_is_kept(before: bytes, logged: list[str]) -> None:
    with applied_overrides(Path(), CHANGES, logged.append):
        Path("params.yaml").write_text("base: [half")
    assert Path("params.yaml").read_text() == "base: [half"
    assert Path("registry/overrides.kept").read_bytes() == before
    assert "its content before the run is in registry/overrides.kept" in logged[0]


def test_a_deleted_file_is_restored(before: bytes, logged: list[str]) -> None:
    with applied_overrides(Path(), CHANGES, logged.append):
        Path("params.yaml").unlink()
    assert Path("params.yaml").read_bytes() == before


def test_the_target_of_a_link_is_changed_and_restored(before: bytes, logged: list[str]) -> None:
    Path("params.yaml").rename("shared.yaml")
    Path("params.yaml").symlink_to("shared.yaml")
    with applied_overrides(Path(), CHANGES, logged.append):
        assert params.load(Path("shared.yaml")).finetune.epochs == 77
    assert Path("params.yaml").is_symlink()
    assert Path("shared.yaml").read_bytes() == before


def killed_at(step: int) -> None:
    """Run with overrides and die by SIGKILL at the given step that opens, renames or deletes something."""
    left = iter(range(step))

    def hook(event: str, _arguments: object) -> None:
        if event.startswith(("open", "os.", "shutil.")) and next(left, None) is None:
            signal.raise_signal(signal.SIGKILL)

    sys.addaudithook(hook)
    with applied_overrides(Path(), CHANGES, lambda _: None):
        pass


def die(step: int) -> bool:
    """Return whether the run was killed; it was not if it has fewer steps."""
    process = PROCESSES.Process(target=killed_at, args=(step,))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.integration
@pytest.mark.slow
def test_after_a_kill_at_any_step_the_next_run_restores_the_file(
    before: bytes, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with applied_overrides(Path(), CHANGES, logged.append):
        during = Path("params.yaml").read_bytes()
    step, seen = 0, set()
    while die(step):
        seen.add(Path("params.yaml").read_bytes())
        with applied_overrides(Path(), {}, logged.append):
            assert Path("params.yaml").read_bytes() == before
        assert not overrides.FOLDER.exists()
        assert not list(Path().glob(".*"))
        step += 1
    assert seen == {before, during}
    assert step > 30
    assert not logged


@pytest.mark.integration
@pytest.mark.slow
def test_an_edit_between_a_kill_and_the_next_run_stays(
    workspace: Workspace, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    step = 0
    while die(step):
        workspace.set(finetune__batch_size=step + 10)
        restore(Path(), logged.append)
        result = params.load()
        assert (result.finetune.batch_size, result.evaluate.seed) == (step + 10, 42)
        step += 3
    assert step > 30
