"""A project's nights as its user sees them: `fresh up`, then schedules, new rows, mistakes and manual runs.

The project is a clone of this one and everything in it is real, but for the size: a tiny base and a few hundred texts.
"""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_HOME,
    temporary_settings,
)
from prefect.states import Cancelling

from flows.runtime.settings import HOME
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from tests.conftest import ROOT, Clone
from tests.flows.conftest import within

pytestmark = pytest.mark.integration

TALES = list(csv.reader((ROOT / "data" / "tales.csv").read_text(encoding="utf-8").splitlines()))


class Nights:
    """The project, and how its runs ended."""

    def __init__(self, clone: Clone, client: SyncPrefectClient, up: int) -> None:
        """Take them, and the process of `fresh up`."""
        self.clone, self.client, self.up = clone, client, psutil.Process(up)
        self.retrain = client.read_deployment_by_name("retrain/retrain").id

    def champion(self) -> Version:
        """Return the champion."""
        champion = Registry(self.clone.folder).champion()
        assert champion is not None
        return champion

    def start(self, deployment: str = "retrain/retrain", **parameters: Any) -> FlowRun:
        """Start a run, as the UI's form does."""
        result = self.client.read_deployment_by_name(deployment)
        return self.client.create_flow_run_from_deployment(result.id, parameters=parameters)

    def ended(self, run: FlowRun, seconds: float = 1800) -> tuple[str, str]:
        """Wait for a run's end; return its state's name and message."""

        def is_over() -> bool:
            state = self.client.read_flow_run(run.id).state
            return state is not None and state.is_final()

        assert within(seconds, is_over), self.log(run)
        state = self.client.read_flow_run(run.id).state
        assert state is not None
        return str(state.name), state.message or ""

    def ran(self, deployment: str = "retrain/retrain", **parameters: Any) -> tuple[str, str]:
        """Start a run and wait for its end."""
        return self.ended(self.start(deployment, **parameters))

    def log(self, run: FlowRun) -> str:
        """Return a run's log."""
        query = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        return "\n".join(line.message for line in self.client.read_logs(query))

    def write(self, rows: list[list[str]]) -> None:
        """Write the corpus."""
        with (self.clone.folder / "data" / "mine.csv").open("w", newline="", encoding="utf-8") as corpus:
            csv.writer(corpus).writerows(rows)

    def out(self) -> str:
        """Return what `fresh up` printed."""
        return (self.clone.folder / "up.log").read_text()

    def answers(self) -> bool:
        """Whether the server answers."""
        return self.client.api_healthcheck() is None

    def family(self) -> list[psutil.Process]:
        """Return all processes of `fresh up`."""
        result: list[psutil.Process] = self.up.children(recursive=True)
        return result

    def trainers(self) -> list[int]:
        """Return the ids of the processes that train in the project."""
        result = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            if "pipeline.finetune" in (process.info["cmdline"] or []) and process.info["cwd"] == str(self.clone.folder):
                result.append(process.pid)
        return result


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> Iterator[Nights]:
    """Return a clone with a corpus of its own, in which `fresh up` is running; nothing has been trained."""
    clone = Clone(tmp_path_factory.mktemp("nights"))
    shutil.copytree(tiny_gpt2, clone.folder / "my_model")
    with (clone.folder / "data" / "mine.csv").open("w", newline="", encoding="utf-8") as corpus:
        csv.writer(corpus).writerows(TALES[:181])
    clone.run("dvc", "add", "data/mine.csv")
    clone.set(
        base="my_model",
        data__path="data/mine.csv",
        tokenize__max_length=64,
        finetune__epochs=1,
        finetune__batch_size=16,
        finetune__learning_rate=5e-3,
        evaluate__generations=8,
        evaluate__max_new_tokens=8,
        evaluate__resamples=100,
        promote__resamples=1000,
    )
    clone.set(evaluate__membership_rows=20)
    clone.set(watch__every_seconds=0)  # it would start runs of its own while the test changes the corpus
    clone.set(promote__gates__likeness=100.0, promote__gates__likeness_rise=100.0)  # a model this small writes nonsense
    clone.commit()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"BENTOML_HOME": str(clone.folder / ".bentoml"), "OMP_NUM_THREADS": "1"}
    environment["PREFECT_WORKER_QUERY_SECONDS"] = "2"  # not 10: the test is in a hurry
    command = [sys.executable, "-m", "cli", "up", "--port", str(port), "--no-service", "--no-password"]
    log = (clone.folder / "up.log").open("w")
    up = subprocess.Popen(command, cwd=clone.folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    settings = {
        PREFECT_API_URL: f"http://127.0.0.1:{port}/api",
        PREFECT_HOME: clone.folder / HOME,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True,
    }
    before = os.environ.get("BENTOML_HOME")
    os.environ["BENTOML_HOME"] = environment["BENTOML_HOME"]  # where the test looks for versions
    try:
        assert within(300, lambda: up.poll() is not None or "all is up" in (clone.folder / "up.log").read_text())
        assert up.poll() is None, (clone.folder / "up.log").read_text()
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield Nights(clone, client, up.pid)
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(300) == 0
        log.close()
        if before is None:
            del os.environ["BENTOML_HOME"]
        else:
            os.environ["BENTOML_HOME"] = before


def test_nights_of_a_project(nights: Nights) -> None:
    params = (nights.clone.folder / "params.yaml").read_bytes()

    # The first run trains, is compared with the base, and says why it ran.
    name, message = nights.ran(reason="the first one")
    assert (name, "no candidate yet" in message) == ("Promoted", True), message
    first = nights.champion()
    [entry] = Registry(nights.clone.folder).history()
    assert entry.why.startswith("Promoted: Better than the base: perplexity falls by ")
    assert 'a person: "the first one"' in entry.why

    # A short schedule really fires; there is no news, so it trains nothing, takes seconds, and says so.
    every = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=15), active=True)  # type: ignore[arg-type]
    [schedule] = nights.client.create_deployment_schedules(nights.retrain, [(every.schedule, True)])
    scheduled: list[FlowRun] = []

    def has_fired() -> bool:
        runs = nights.client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED"]}}})
        )
        scheduled[:] = [run for run in runs if run.auto_scheduled and run.deployment_id == nights.retrain]
        return bool(scheduled)

    assert within(300, has_fired)
    nights.client.delete_deployment_schedule(nights.retrain, schedule.id)
    run = scheduled[0]
    assert run.state is not None
    assert run.state.name == "NothingNew"
    assert str(run.state.message).startswith("schedule: nothing new since the verdict of ")
    assert nights.champion() == first

    # Rows are added: it trains on them, and the better model becomes the champion.
    nights.write(TALES[:601])
    name, message = nights.ran()
    assert (name, "new rows: 420 (data/mine.csv)" in message) == ("Promoted", True), message
    second = nights.champion()
    assert second != first

    # A worse candidate is refused, with the sentence; the override is gone afterwards.
    name, message = nights.ran(overrides={"finetune.learning_rate": 1e-6}, reason="a try")
    assert (name, "Worse than the champion" in message) == ("NotPromoted", True), message
    assert nights.champion() == second
    assert (nights.clone.folder / "params.yaml").read_bytes() == params

    # Going back is one run.
    name, message = nights.ran("rollback/rollback", why="answers got rude")
    assert (name, "answers got rude" in message) == ("Completed", True), message
    assert nights.champion() == first

    # Each run of the stages is on a branch of its own, and a person's own work is as it was.
    subjects = nights.clone.run("git", "log", "--format=%s%n%(trailers:key=Verdict,valueonly)", "retrain")
    assert subjects.count("not promoted") == 1
    assert nights.clone.run("git", "status", "--porcelain", "params.yaml") == ""


@pytest.mark.slow
def test_concurrent_server_restart_and_cancelled_runs(nights: Nights) -> None:
    champion = Registry(nights.clone.folder).champion()
    long = nights.start(overrides={"finetune.epochs": 500, "finetune.early_stopping_patience": 500})
    assert within(300, lambda: "loss=" in nights.log(long)), nights.log(long)  # it trains
    name, _ = nights.ran()
    assert name in ("Cancelled", "Busy")  # the deployment's limit, or the lock on the folder: whichever was first

    # The server is killed in mid-training and started again: the training goes on.
    trainers = nights.trainers()
    assert trainers
    [server] = [one for one in nights.family() if one.cmdline()[1:3] == ["-m", "uvicorn"]]
    server.kill()
    assert within(300, lambda: "the server was ended by SIGKILL and is restarted" in nights.out())
    assert within(300, nights.answers)
    assert nights.trainers() == trainers
    state = nights.client.read_flow_run(long.id).state
    assert state is not None
    assert state.is_running()

    nights.client.set_flow_run_state(long.id, Cancelling(), force=True)
    assert within(300, lambda: not nights.trainers()), nights.log(long)
    assert nights.ended(long)[0] == "Cancelled"
    ids = FlowRunFilter(id=FlowRunFilterId(any_=[long.id]))
    assert nights.client.read_flow_runs(flow_run_filter=ids)[0].state_type == StateType.CANCELLED
    checkpoints = list((nights.clone.folder / "models" / "checkpoints").glob("*/*"))
    assert checkpoints  # of which the next such run goes on
    assert Registry(nights.clone.folder).champion() == champion
