"""Approval and rejection through the server's API, as from the UI, while the run waits."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.runtime import approval
from flows.runtime.approval import Answer
from pipeline import escape, params, paths
from pipeline.promote import carry_out
from pipeline.registry.model_version import content_version
from pipeline.registry.store import Registry
from tests.conftest import ROOT, Workspace
from tests.flows.conftest import Prefect, within
from tests.flows.runtime.test_artifacts import a_decision, candidate, put

pytestmark = pytest.mark.integration
SECONDS = 1 / 3600  # in hours


@pytest.fixture(autouse=True, scope="module")
def logs_are_sent(prefect: Prefect) -> Iterator[None]:
    """Send what Prefect logs while its server is still there."""
    yield
    APILogHandler().flush()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "POLL_SECONDS", 0.2)


class Asking:
    """A run in this process that asks for approval, and its question on the server."""

    def __init__(self, prefect: Prefect, **config: Any) -> None:
        self.prefect, self.logged = prefect, list[str]()
        self.config = params.load().retrain.model_copy(update={"approval_hours": 60 * SECONDS, **config})
        self.answer: Answer | None = None
        self.state: State[Any] | None = None

    def ask(self) -> None:
        """Ask, and wait for the answer."""

        @flow(name="asks")
        def asks() -> Answer:
            return approval.request_approval(a_decision(), self.config, self.logged.append)

        environment = self.prefect.environment
        settings = {PREFECT_API_URL: environment["PREFECT_API_URL"], PREFECT_HOME: environment["PREFECT_HOME"]}
        with temporary_settings(settings):
            self.state = asks(return_state=True)
            self.answer = self.state.result()

    def question(self) -> dict[str, Any]:
        """Return the question's run, once it waits."""
        runs: list[dict[str, Any]] = []

        def waits() -> bool:
            runs[:] = paused(self.prefect)
            return len(runs) == 1

        assert within(300, waits)
        return runs[0]


def paused(prefect: Prefect) -> list[dict[str, Any]]:
    state = {"state": {"type": {"any_": ["PAUSED"]}}}
    runs: list[dict[str, Any]] = prefect.post(
        "flow_runs/filter", flows={"name": {"any_": ["approval"]}}, flow_runs=state
    )
    return runs


def resume(prefect: Prefect, run: dict[str, Any], **form: Any) -> str:
    return str(prefect.post(f"flow_runs/{run['id']}/resume", run_input=form)["status"])


@contextmanager
def meanwhile(person: Callable[[], None]) -> Iterator[None]:
    """Call `person` in a thread while the block runs; its assertions count."""
    failed: list[BaseException] = []

    def act() -> None:
        try:
            person()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
    if failed:
        raise failed[0]


@pytest.fixture
def store(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    return workspace


def test_an_approval_in_the_ui_is_recorded_in_the_history(prefect: Prefect, store: Workspace) -> None:
    asking = Asking(prefect)
    long = "word " * 400 + "end"
    written = [
        {
            "prompt": f"prompt {number} ",
            "champion": "![x](http://example.org)",
            "candidate": f"candidate {number}\n{long}",
        }
        for number in range(4)
    ]
    put(paths.SAMPLES, written)
    put(paths.REPORT, "<html></html>")

    def person() -> None:
        run = asking.question()
        shown = prefect.api.get(f"flow_runs/{run['id']}/input/paused-{'c' * 12}-description").text
        assert "Promoted: candidate cccccccccccc" in shown
        assert "**reject**" in shown
        assert run["name"] == f"WAITS for approval: {'c' * 12}"
        [artifact] = prefect.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
        assert f"/artifacts/artifact/{artifact['id']}" in shown
        assert all(f"prompt {number} " in shown for number in range(3))  # three pairs in the form
        assert "prompt 3 " not in shown
        assert long not in shown
        assert "Promoted: candidate cccccccccccc" in artifact["data"]
        assert escape.markdown(str(paths.REPORT.resolve())) in artifact["data"]
        assert f"| prompt 3 | candidate 3<br/>{long} | \\!\\[x\\]\\(http\\://example.org\\) |" in artifact["data"]
        parent = prefect.post("flow_runs/filter", flows={"name": {"any_": ["asks"]}}, sort="START_TIME_DESC", limit=1)
        assert parent[0]["state"]["type"] == "RUNNING", "it keeps its slot"
        assert resume(prefect, run) == "REJECT", "the form must be filled in"
        assert resume(prefect, run, decision="perhaps") == "REJECT"
        assert resume(prefect, run, decision="approve", name=" Ada\n L. ", comment="reads\nwell") == "ACCEPT"

    with meanwhile(person):
        asking.ask()
    assert asking.answer == Answer(True, "Ada L. (in Prefect's UI)", "reads well")
    assert asking.logged[-1] == "approved by Ada L. (in Prefect's UI): reads well"
    [question] = prefect.post("flow_runs/filter", flow_runs={"name": {"like_": f"approval of {'c' * 12}"}})
    assert question["name"] == f"approval of {'c' * 12}: approved by Ada L. (in Prefect's UI): reads well"

    candidate("a model")
    version = content_version(paths.CANDIDATE)
    decision = replace(a_decision(), registry=Registry(name="texts"))
    decision = replace(decision, verdict=replace(decision.verdict, candidate={"version": version, "perplexity": 10.0}))
    carry_out(decision, who=asking.answer.by, why=str(asking.answer))
    (entry,) = decision.registry.history()
    assert (entry.action, entry.who) == ("promote", "Ada L. (in Prefect's UI)")
    assert "(approved by Ada L. (in Prefect's UI): reads well)" in entry.why


def test_a_rejection_is_recorded_in_the_history(prefect: Prefect, store: Workspace) -> None:
    asking = Asking(prefect, approval_default="approve")

    def person() -> None:
        assert resume(prefect, asking.question(), decision="reject", comment="it rhymes") == "ACCEPT"

    with meanwhile(person):
        asking.ask()
    assert asking.answer == Answer(False, "a person in Prefect's UI", "it rhymes")

    decision = approval.with_rejection(a_decision(), asking.answer)
    assert carry_out(decision) is None
    (entry,) = decision.registry.history()
    assert (entry.action, entry.to) == ("refuse", f"texts:{'c' * 12}")
    assert "It was rejected by a person in Prefect's UI: it rhymes." in entry.why


@pytest.mark.parametrize("default", ["approve", "reject"])
def test_the_default_applies_after_the_time_limit(prefect: Prefect, store: Workspace, default: Any) -> None:
    asking = Asking(prefect, approval_hours=SECONDS, approval_default=default)
    asking.ask()
    assert asking.answer is not None
    assert asking.answer.approved == (default == "approve")
    assert "the time limit of" in asking.answer.by
    assert asking.state is not None
    assert asking.state.is_completed()
    assert paused(prefect) == []


def test_cancelling_the_question_rejects(prefect: Prefect, store: Workspace) -> None:
    asking = Asking(prefect, approval_default="approve")

    def person() -> None:
        run = asking.question()
        prefect.post(f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})

    with meanwhile(person):
        asking.ask()
    assert asking.answer is not None
    assert not asking.answer.approved
    assert paused(prefect) == []


def test_the_question_survives_a_server_that_is_away(
    prefect: Prefect, store: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client retries for a minute; here the server is away for three polls after that."""
    import httpx
    from prefect.client.orchestration import SyncPrefectClient

    read, away = SyncPrefectClient.read_flow_run, iter(range(3))

    def reads(self: SyncPrefectClient, flow_run_id: Any) -> Any:
        if next(away, None) is not None:
            raise httpx.ConnectError("refused")
        return read(self, flow_run_id)

    asking = Asking(prefect)

    def person() -> None:
        run = asking.question()
        monkeypatch.setattr(SyncPrefectClient, "read_flow_run", reads)
        assert within(300, lambda: next(away, None) is None)
        resume(prefect, run, decision="approve")

    with meanwhile(person):
        asking.ask()
    assert asking.answer is not None
    assert asking.answer.approved


RUNS = """
import os, sys
from pathlib import Path
from prefect import flow
from prefect.concurrency import _leases
from prefect.flow_runs import pause_flow_run
sys.path.insert(0, os.environ["TESTED"])
from flows.runtime import approval
from tests.flows.runtime.test_artifacts import a_decision
from pipeline import params

_leases._RENEWAL_FRACTION = 0.005  # looks after its lease every 1.5 s instead of every 225
approval.POLL_SECONDS = 0.2

@flow(name="leased")
def leased(how: str):
    config = params.load(Path(os.environ["TESTED"]) / "params.yaml").retrain
    if how == "approval":
        return str(approval.request_approval(a_decision(), config, print))
    pause_flow_run(timeout=60, poll_interval=1)
"""


@pytest.fixture
def leased(prefect: Prefect, worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the id of a deployment of RUNS with a concurrency limit of one."""
    (tmp_path / "runs.py").write_text(RUNS)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    deployed = prefect.post(
        "deployments/",
        name=tmp_path.name,
        flow_id=prefect.post("flows/", name="leased")["id"],
        entrypoint=f"{tmp_path / 'runs.py'}:leased",
        path=str(tmp_path),
        work_pool_name=worker,
        job_variables={"working_dir": str(tmp_path), "env": {"TESTED": str(ROOT), "PATH": os.environ["PATH"]}},
        concurrency_limit=1,
        concurrency_options={"collision_strategy": "CANCEL_NEW"},
        enforce_parameter_schema=False,
    )
    return str(deployed["id"])


@pytest.mark.slow
def test_a_waiting_run_keeps_its_slot_in_the_concurrency_limit(prefect: Prefect, leased: str) -> None:
    run = prefect.start(leased, how="approval")
    assert within(300, lambda: len(paused(prefect)) == 1), prefect.state(run)
    within(6, lambda: False)  # several renewals of its lease
    assert prefect.state(run)["type"] == "RUNNING"
    assert resume(prefect, paused(prefect)[0], decision="approve") == "ACCEPT"
    assert prefect.ended(run)["type"] == "COMPLETED"


@pytest.mark.slow
def test_pause_flow_run_loses_the_concurrency_lease(prefect: Prefect, leased: str) -> None:
    """The reason why the question is a run of its own; when this fails, `pause_flow_run` has become usable."""
    run = prefect.start(leased, how="pause")
    assert within(300, lambda: prefect.state(run)["type"] == "PAUSED"), prefect.state(run)
    assert within(300, lambda: prefect.state(run)["type"] in ("CRASHED", "FAILED")), prefect.state(run)
    assert any("Concurrency lease renewal failed" in line for line in prefect.logs(run))


@pytest.mark.slow
def test_the_next_run_cancels_the_question_of_a_killed_run(prefect: Prefect, leased: str, store: Workspace) -> None:
    import signal

    run = prefect.start(leased, how="approval")
    assert within(300, lambda: len(paused(prefect)) == 1), prefect.state(run)
    left = paused(prefect)[0]["id"]
    os.kill(int(prefect.api.get(f"flow_runs/{run}").json()["infrastructure_pid"]), signal.SIGKILL)
    assert prefect.ended(run)["type"] == "CRASHED"
    Asking(prefect, approval_hours=SECONDS).ask()
    assert prefect.state(left)["type"] == "CANCELLED"
    assert "has ended; the next run asks again" in prefect.state(left)["message"]


@pytest.mark.slow
def test_cancelling_a_waiting_retraining_leaves_no_question(prefect: Prefect, leased: str) -> None:
    run = prefect.start(leased, how="approval")
    assert within(300, lambda: len(paused(prefect)) == 1), prefect.state(run)
    left = paused(prefect)[0]["id"]
    prefect.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    assert prefect.ended(run)["type"] == "CANCELLED"
    assert within(300, lambda: prefect.state(left)["type"] != "PAUSED"), prefect.state(left)
