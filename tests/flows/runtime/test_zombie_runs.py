"""Which runs are set to Crashed, and which never are, on a real server."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.runtime import settings, zombie_runs
from flows.runtime.zombie_runs import Reaper
from tests.flows.conftest import Prefect, within

pytestmark = pytest.mark.integration


@pytest.fixture
def client(prefect: Prefect) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: prefect.environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        yield client


class Runs:
    """Creates runs on the server in the states in which workers leave them."""

    def __init__(self, prefect: Prefect) -> None:
        """Take the server."""
        self._prefect = prefect
        self._flow = prefect.post("flows/", name="reaper")["id"]
        self.made: list[str] = []

    def put(self, pid: int | None, kind: str = "RUNNING", worker: str | None = None) -> str:
        """Return the id of a run of the worker, whose process has this id."""
        worker = settings.worker_name() if worker is None else worker
        labels = {"prefect.worker.name": worker}
        run: str = self._prefect.post("flow_runs/", flow_id=self._flow, labels=labels, state={"type": "PENDING"})["id"]
        self.made.append(run)
        if kind != "PENDING":
            self._prefect.post(f"flow_runs/{run}/set_state", state={"type": "RUNNING"}, force=True)
        if kind == "CANCELLING":
            self._prefect.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING"}, force=True)
        if pid is not None:
            assert self._prefect.api.patch(f"flow_runs/{run}", json={"infrastructure_pid": str(pid)}).is_success
        return run

    def heartbeat(self, run: str) -> None:
        """Send a heartbeat of the run."""
        resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
        event: dict[str, Any] = {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat()}
        event |= {"event": "prefect.flow-run.heartbeat", "resource": resource}
        assert self._prefect.api.post("events", json=[event]).is_success
        query = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [*resource.values()]}}
        assert within(300, lambda: bool(self._prefect.post("events/filter", filter=query)["events"]))


@pytest.fixture
def runs(prefect: Prefect) -> Iterator[Runs]:
    runs = Runs(prefect)
    yield runs
    for run in runs.made:
        prefect.api.delete(f"flow_runs/{run}")


@pytest.fixture(scope="module")
def gone() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_second_poll_ends_only_runs_without_a_process(
    prefect: Prefect, client: SyncPrefectClient, runs: Runs, gone: int
) -> None:
    dead, starting, cancelled = runs.put(gone), runs.put(gone, "PENDING"), runs.put(gone, "CANCELLING")
    alive, unknown, elsewhere = runs.put(os.getpid()), runs.put(None), runs.put(gone, worker="another-machine")
    logged: list[str] = []
    reaper = Reaper(client, logged.append)
    reaper.poll()
    assert prefect.state(dead)["type"] == "RUNNING"  # its last state may still be under way
    reaper.poll()
    ended = [prefect.state(run) for run in (dead, starting, cancelled)]
    assert [state["type"] for state in ended] == ["CRASHED", "CRASHED", "CANCELLED"]
    assert {state["message"] for state in ended} == {
        "its process is gone; the next run resumes from its last checkpoint"
    }
    assert [prefect.state(run)["type"] for run in (alive, unknown, elsewhere)] == ["RUNNING"] * 3
    assert len(logged) == 3
    assert "is set to Crashed: its process is gone" in " ".join(logged)


def test_the_tasks_of_a_crashed_run_end_with_it(
    prefect: Prefect, client: SyncPrefectClient, runs: Runs, gone: int
) -> None:
    dead, alive = runs.put(gone), runs.put(os.getpid())
    key = {"task_key": "finetune", "dynamic_key": "0", "state": {"type": "RUNNING"}}
    tasks = [prefect.post("task_runs/", flow_run_id=run, **key)["id"] for run in (dead, alive)]
    Reaper(client, lambda _: None).poll(immediately=True)
    states = [prefect.api.get(f"task_runs/{task}").json()["state"]["type"] for task in tasks]
    assert states == ["CRASHED", "RUNNING"]


def test_an_immediate_poll_gives_the_reason(prefect: Prefect, client: SyncPrefectClient, runs: Runs, gone: int) -> None:
    dead = runs.put(gone)
    Reaper(client, lambda _: None).poll(immediately=True, reason="the machine was off")
    assert prefect.state(dead)["message"] == "the machine was off; the next run resumes from its last checkpoint"


def test_a_reused_process_id_does_not_count_as_the_run(
    prefect: Prefect, client: SyncPrefectClient, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    reused = runs.put(os.getpid())
    later = datetime.now(UTC).timestamp() + 120  # it began after the run had
    monkeypatch.setattr("psutil.Process.create_time", lambda _: later)
    Reaper(client, lambda _: None).poll(immediately=True)
    assert prefect.state(reused)["type"] == "CRASHED"


def test_a_run_elsewhere_crashes_after_silence_while_listening(
    prefect: Prefect, client: SyncPrefectClient, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, heard, waiting = (runs.put(None, kind, "another-machine") for kind in ("RUNNING", "RUNNING", "PENDING"))
    reaper, deaf = Reaper(client, lambda _: None), Reaper(client, lambda _: None)
    reaper.listening_since = deaf.listening_since = datetime.now(UTC) - timedelta(days=1)
    time.sleep(0.1)
    began = datetime.now(UTC)
    time.sleep(5)  # what may pass between our clock below and the reaper's
    runs.heartbeat(heard)
    reaper.poll()
    assert prefect.state(silent)["type"] == "RUNNING"  # it may still speak
    monkeypatch.setattr(zombie_runs, "HEARTBEAT_TIMEOUT", datetime.now(UTC) - began)
    with monkeypatch.context() as slept:
        slept.setattr(zombie_runs, "MAX_POLL_GAP", 0.0)  # the machine slept meanwhile, or the server was away
        deaf.poll()
    assert prefect.state(silent)["type"] == "RUNNING"
    reaper.poll()
    assert prefect.state(silent)["type"] == "CRASHED"
    assert prefect.state(silent)["message"].startswith("no heartbeat for ")
    assert [prefect.state(run)["type"] for run in (heard, waiting)] == ["RUNNING", "PENDING"]
