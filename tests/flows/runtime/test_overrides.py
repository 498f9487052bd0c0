"""Overrides of params.yaml never lose it: not by a kill at any moment, nor by a person's edit in the middle."""

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
def said() -> list[str]:
    return []


def test_during_the_run_the_values_are_other_and_the_comments_there_and_afterwards_the_bytes_are_the_same(
    before: bytes, said: list[str]
) -> None:
    Path("params.yaml").chmod(0o640)
    with applied_overrides(Path(), CHANGES, said.append):
        found = params.load()
        assert (found.finetune.epochs, found.evaluate.seed, found.evaluate.prompts) == (77, 5, ("Aye", "No"))
        changed = set(Path("params.yaml").read_text().splitlines()) - set(before.decode().splitlines())
        assert len(changed) == 4  # no other line, so every other comment and quote is there
    assert Path("params.yaml").read_bytes() == before
    assert Path("params.yaml").stat().st_mode & 0o777 == 0o640
    assert not said
    assert sorted(path.name for path in Path().rglob("*") if path.is_file()) == ["params.yaml"]


def test_afterwards_is_also_after_an_exception(before: bytes, said: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), applied_overrides(Path(), CHANGES, said.append):
        raise KeyboardInterrupt
    assert Path("params.yaml").read_bytes() == before


def test_every_problem_is_named_at_once_and_the_file_is_not_touched(before: bytes, said: list[str]) -> None:
    wrong = {"finetune.epochs": 0, "finetune": {"lerning_rate": 1}, "nothing.here": 1, "base.x": 2}
    with pytest.raises(UserError) as raised, applied_overrides(Path(), wrong, said.append):
        pytest.fail("it began")
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("with the overrides, params.yaml: ") for line in lines)
    assert "finetune.lerning_rate: unknown key; did you mean learning_rate?" in str(raised.value)
    assert Path("params.yaml").read_bytes() == before
    restore(Path(), said.append)
    assert Path("params.yaml").read_bytes() == before


def test_a_persons_edit_during_the_run_stays_and_the_overrides_leave(before: bytes, said: list[str]) -> None:
    with applied_overrides(Path(), CHANGES, said.append):
        text = Path("params.yaml").read_text()
        Path("params.yaml").write_text(text.replace("batch_size: 2 ", "batch_size: 3 ") + "# mine\n")
    expected = before.decode().replace("batch_size: 2 ", "batch_size: 3 ") + "# mine\n"
    assert Path("params.yaml").read_text() == expected
    assert said == ["params.yaml was edited during a run with overrides: the edit stays, the overrides are removed"]


def test_a_persons_edit_of_an_overridden_value_itself_stays(workspace: Workspace, said: list[str]) -> None:
    with applied_overrides(Path(), CHANGES, said.append):
        workspace.set(finetune__epochs=9)
    assert params.load().finetune.epochs == 9
    assert params.load().evaluate.seed == 42


def test_a_file_left_half_edited_stays_and_the_earlier_one_is_kept_beside(before: bytes, said: list[str]) -> None:
    with applied_overrides(Path(), CHANGES, said.append):
        Path("params.yaml").write_text("base: [half")
    assert Path("params.yaml").read_text() == "base: [half"
    assert Path("registry/overrides.kept").read_bytes() == before
    assert "its content before the run is in registry/overrides.kept" in said[0]


def test_a_file_that_was_deleted_comes_back(before: bytes, said: list[str]) -> None:
    with applied_overrides(Path(), CHANGES, said.append):
        Path("params.yaml").unlink()
    assert Path("params.yaml").read_bytes() == before


def test_where_the_file_is_a_link_its_target_is_changed_and_put_back(before: bytes, said: list[str]) -> None:
    Path("params.yaml").rename("shared.yaml")
    Path("params.yaml").symlink_to("shared.yaml")
    with applied_overrides(Path(), CHANGES, said.append):
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
    """Return whether the run was killed; it was not where it has fewer steps."""
    process = PROCESSES.Process(target=killed_at, args=(step,))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.integration
@pytest.mark.slow
def test_a_run_killed_at_any_step_leaves_the_file_whole_and_the_next_one_puts_it_back(
    before: bytes, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with applied_overrides(Path(), CHANGES, said.append):
        during = Path("params.yaml").read_bytes()
    step, seen = 0, set()
    while die(step):
        seen.add(Path("params.yaml").read_bytes())
        with applied_overrides(Path(), {}, said.append):
            assert Path("params.yaml").read_bytes() == before
        assert not overrides.FOLDER.exists()
        assert not list(Path().glob(".*"))
        step += 1
    assert seen == {before, during}
    assert step > 30
    assert not said


@pytest.mark.integration
@pytest.mark.slow
def test_a_person_who_edits_between_the_kill_and_the_next_run_keeps_the_edit(
    workspace: Workspace, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    step = 0
    while die(step):
        workspace.set(finetune__batch_size=step + 10)
        restore(Path(), said.append)
        found = params.load()
        assert (found.finetune.batch_size, found.evaluate.seed) == (step + 10, 42)
        step += 3
    assert step > 30
