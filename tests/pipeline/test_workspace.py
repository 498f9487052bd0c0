"""Who works in the workspace, and what another one is told; real processes, for the lock is the operating system's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.workspace import LOCK, Busy, claim
from tests.conftest import ROOT

HOLDER = """
import sys
from pathlib import Path
from pipeline.workspace import claim
with claim(Path(), "the retraining amber-fox"):
    {}
    print("has it", flush=True)
    sys.stdin.read()
"""
STAGE = "from pipeline.workspace import run_stage; run_stage(lambda: print('ran'))"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def hold(line: str = "pass") -> subprocess.Popen[str]:
    """Start a process that holds the claim until its standard input closes."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(line)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "has it\n"
    return holder


def stage(patience: float = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage's module, which is told to wait `patience` seconds."""
    command = f"import pipeline.workspace; pipeline.workspace._PATIENCE = {patience}; {STAGE}"
    return subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_a_second_is_told_who_is_at_work_since_when_and_in_which_process() -> None:
    with hold() as holder:
        expected = (
            r"the retraining amber-fox is at work in this folder since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
            rf" \(process {holder.pid}\); wait, or cancel it"
        )
        with pytest.raises(Busy, match=expected), claim(Path(), "another"):
            pass


def test_a_persons_stage_fails_with_that_sentence_and_no_traceback_and_runs_once_the_folder_is_free() -> None:
    with hold():
        refused = stage()
        assert refused.returncode == 2
        assert re.fullmatch(r"error: the retraining amber-fox is at work in this folder .*\n", refused.stderr)
    assert stage().stdout == "ran\n"


def test_a_stage_within_the_claim_does_not_ask_again() -> None:
    with claim(Path(), "the flow"):
        assert stage().stdout == "ran\n"
        with claim(Path(), "a part of the flow"):
            assert stage().stdout == "ran\n"
        with pytest.MonkeyPatch.context() as outside:
            outside.delenv("WORKSPACE_CLAIM")
            with pytest.raises(Busy, match="the flow is at work"), claim(Path(), "another"):
                pass
    assert "WORKSPACE_CLAIM" not in os.environ


def test_a_claim_that_is_over_gives_nothing_to_those_who_still_know_it() -> None:
    with claim(Path(), "the flow"):
        old = os.environ["WORKSPACE_CLAIM"]
    with hold():
        assert stage(WORKSPACE_CLAIM=old).returncode == 2


def test_of_the_processes_that_torchrun_starts_the_first_claims_for_all() -> None:
    with hold():
        assert stage(RANK="0").returncode == 2
        assert stage(RANK="1").stdout == "ran\n"


def test_one_who_waits_gets_it_as_soon_as_it_is_free() -> None:
    holder = hold()
    waiting = subprocess.Popen(
        [sys.executable, "-c", f"import pipeline.workspace; {STAGE}"], stdout=subprocess.PIPE, text=True
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    holder.communicate()
    assert waiting.communicate(timeout=300)[0] == "ran\n"


def test_a_holder_that_is_killed_leaves_no_stuck_lock() -> None:
    holder = hold()
    holder.kill()
    holder.communicate()
    with claim(Path(), "another"):
        assert "another" in LOCK.read_text()
    assert LOCK.read_text() == ""


def test_a_killed_holders_lock_is_held_by_a_child_that_took_it_along() -> None:
    # As flows.runtime.stages starts flows.runtime.supervisor; other children, as DVC starts its stages, do not get it.
    line = (
        "import subprocess; child = subprocess.Popen(['sleep', '600'], close_fds=False); print(child.pid, flush=True)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(line)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    try:
        with pytest.raises(Busy), claim(Path(), "another"):
            pass
    finally:
        os.kill(child, 9)
    with claim(Path(), "another", patience=5):
        pass
    holder.communicate()


def test_another_folder_is_free(tmp_path: Path) -> None:
    with hold(), claim(tmp_path / "other", "another"):
        pass


def test_a_command_starts_again_once_with_its_arguments_and_the_variables(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from pipeline.workspace import restart_with\n"
        "restart_with({'EXTRA': 'value'})\n"
        "print(sys.argv[1:], os.environ['EXTRA'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "FINETUNE_ALLOCATOR"}
    command = [sys.executable, str(script), "one", "two words"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "['one', 'two words'] value\n"
    assert done.stderr == "started again with EXTRA=value\n"
