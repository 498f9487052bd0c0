"""A worker's run that is cancelled, killed or fails: no process survives, and nothing is stuck or lost."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from pipeline.workspace import claim
from tests.flows.conftest import TRAINS_ON, Prefect, Project, deploy, gone, within, working

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning"),  # DVC calls it
]


def flow_of(trainer: int) -> psutil.Process:
    """Return the process of the flow that a trainer belongs to."""
    [supervisor] = [
        process for process in psutil.Process(trainer).parents() if "supervisor.py" in " ".join(process.cmdline())
    ]
    flow = supervisor.parent()
    assert flow is not None
    return flow


def cancel(prefect: Prefect, run: str) -> None:
    prefect.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING"})


def trains_then_completes(project: Project) -> None:
    """Make the next training end at once."""
    project.script("finetune.py", "import shutil; shutil.copy('made/tokens.txt', 'made/model.txt')")


def test_cancelling_ends_the_training_after_a_checkpoint(prefect: Prefect, project: Project, deployment: str) -> None:
    before = (project.folder / "params.yaml").read_bytes()
    project.script("finetune.py", TRAINS_ON)
    run = prefect.start(deployment, overrides={"finetune.epochs": 77})
    trainers = project.trainers()
    assert (project.folder / "params.yaml").read_bytes() != before

    cancel(prefect, run)
    assert within(300, lambda: gone(trainers))
    assert (project.folder / "checkpoint").read_text() == "whole"
    assert prefect.ended(run)["name"] == "Cancelled"
    assert (project.folder / "params.yaml").read_bytes() == before
    with claim(Path(), "another"):
        pass


def test_after_a_killed_flow_the_next_run_restores_params_and_continues(
    prefect: Prefect, project: Project, deployment: str
) -> None:
    before = (project.folder / "params.yaml").read_bytes()
    project.script("finetune.py", TRAINS_ON)
    run = prefect.start(deployment, overrides={"finetune.epochs": 77})
    trainers = project.trainers()
    flow_of(trainers[0]).kill()
    assert within(300, lambda: gone(trainers))
    assert (project.folder / "checkpoint").read_text() == "whole"
    assert prefect.ended(run)["type"] == "CRASHED"

    trains_then_completes(project)
    run = prefect.run()
    assert prefect.ended(run)["type"] == "COMPLETED"
    assert (project.folder / "params.yaml").read_bytes() == before
    assert prefect.tasks(run)["finetune"] == "Completed"


def test_a_broken_csv_fails_with_its_message_and_no_traceback(
    prefect: Prefect, project: Project, deployment: str
) -> None:
    project.script("validate.py", "import sys\nprint('error: data/corpus.csv, line 2: one cell too many')\nsys.exit(2)")
    run = prefect.start(deployment)
    state = prefect.ended(run)
    sentence = "validate: data/corpus.csv, line 2: one cell too many"
    assert (state["type"], state["message"]) == ("FAILED", sentence)
    logs = prefect.logs(run)
    assert any(sentence in line for line in logs)
    assert not [line for line in logs if "Traceback" in line]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_training_does_not_outlive_its_worker(
    prefect: Prefect, project: Project, tmp_path: Path, number: signal.Signals
) -> None:
    project.script("finetune.py", TRAINS_ON)
    with working(prefect, f"to-end-by-{number}", tmp_path) as worker:
        run = prefect.start(deploy(prefect, f"to-end-by-{number}", project.folder))
        trainers = project.trainers()
        worker.send_signal(number)
        assert within(300, lambda: gone(trainers))
        assert (project.folder / "checkpoint").read_text() == "whole"
    with claim(Path(), "another", patience=300):
        pass
    if (
        number == signal.SIGKILL
    ):  # after SIGTERM Prefect leaves it Running (#16746): `flows.runtime.zombie_runs` sees to that
        assert prefect.ended(run)["type"] == "CRASHED"


@pytest.mark.slow
def test_random_cancels_and_kills_leave_no_process_or_lock(prefect: Prefect, project: Project, deployment: str) -> None:
    before = (project.folder / "params.yaml").read_bytes()
    moments = random.Random(7)
    for number in range(20):
        (project.folder / "pids").unlink(missing_ok=True)
        project.script("finetune.py", TRAINS_ON)
        run = prefect.start(deployment, overrides={"finetune.epochs": number + 50})
        assert within(300, lambda run=run: prefect.state(run)["type"] == "RUNNING")  # type: ignore[misc]
        time.sleep(moments.uniform(0, 10))
        mine = [process.pid for process in psutil.process_iter() if works_in(process, project.folder)]
        if number % 2:
            for pid in flows_in(project.folder):
                os.kill(pid, signal.SIGKILL)
        else:
            cancel(prefect, run)
        assert prefect.ended(run)["type"] in ("CANCELLED", "CRASHED")
        with claim(Path(), "another", patience=300):
            assert gone(mine)
    trains_then_completes(project)
    assert prefect.ended(prefect.run())["type"] == "COMPLETED"
    assert (project.folder / "params.yaml").read_bytes() == before
    assert (
        subprocess.run(["git", "status", "--porcelain", "params.yaml"], capture_output=True, check=True).stdout == b""
    )


def works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return bool(process.cwd() == str(folder)) and process.pid != os.getpid()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def flows_in(folder: Path) -> list[int]:
    """Return the process that executes a flow in the folder."""
    return [
        process.pid
        for process in psutil.process_iter()
        if works_in(process, folder) and "prefect.engine" in " ".join(process.cmdline())
    ]
