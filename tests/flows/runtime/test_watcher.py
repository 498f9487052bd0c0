"""The watcher starts a run of `watch` only if there is a reason, and one for each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.runtime import runs
from flows.runtime.watcher import Watcher
from pipeline.workspace import claim
from tests.conftest import LINES
from tests.flows.conftest import Prefect, Project
from tests.flows.test_watch import Watched, watched

__all__ = ["watched"]  # a fixture
pytestmark = pytest.mark.integration


class Watching:
    """A watcher and the runs of `watch` that it starts, which no worker executes."""

    def __init__(self, prefect: Prefect, watcher: Watcher, deployment: str) -> None:
        self._prefect, self._watcher, self._deployment = prefect, watcher, deployment

    def look(self, times: int = 1) -> None:
        """Poll as if a minute had passed since the last time."""
        for _ in range(times):
            self._watcher.next_check = 0.0
            self._watcher.poll()

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs, the latest last."""
        query = {"deployments": {"id": {"any_": [self._deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        result: list[dict[str, Any]] = self._prefect.post("flow_runs/filter", **query)
        return result

    def end(self) -> None:
        """Let the latest run end."""
        run = self.runs()[-1]["id"]
        self._prefect.post(f"flow_runs/{run}/set_state", state={"type": "COMPLETED"}, force=True)


@pytest.fixture
def logged() -> list[str]:
    """Return what the watcher logged."""
    return []


@pytest.fixture
def watching(prefect: Prefect, watched: Watched, logged: list[str]) -> Iterator[Watching]:
    flow = prefect.post("flows/", name="watch")["id"]
    every_minute = {"slug": "every-minute", "schedule": {"interval": 60}, "active": False}  # of an earlier version
    deployment = prefect.post("deployments/", name="watch", flow_id=flow, schedules=[every_minute])["id"]
    with (
        temporary_settings({PREFECT_API_URL: prefect.environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        yield Watching(prefect, Watcher(client, logged.append), deployment)
    prefect.api.delete(f"deployments/{deployment}")


def test_no_run_starts_without_news_and_the_old_schedule_is_deleted(
    prefect: Prefect, watching: Watching, logged: list[str]
) -> None:
    watching.look(4)
    Path("data/corpus.csv").touch()  # the same bytes
    watching.look(3)
    assert watching.runs() == []
    assert logged == []
    assert prefect.api.get("deployments/name/watch/watch").json()["schedules"] == []


def test_a_complete_dropped_file_starts_one_run_named_after_it(watching: Watching, watched: Watched) -> None:
    watching.look(2)
    watched.put("text\nFrom the in")
    watching.look()
    watched.put("text\nFrom the inbox as a whole.\n")
    watching.look()
    assert watching.runs() == []
    watching.look(3)  # the run has not begun
    assert [run["name"] for run in watching.runs()] == ["in data/inbox: new.csv"]
    assert "appended 1 rows of new.csv" in watched.look()  # what a worker does with the run
    watching.end()
    assert [run["name"] for run in watched.runs()] == ["new rows: 1 (data/corpus.csv)"]
    watching.look(3)
    assert len(watching.runs()) == 1


def test_runs_start_only_once_the_workspace_is_free(watching: Watching, watched: Watched) -> None:
    watching.look(2)
    watched.project.write_corpus("text\nA.\nB.\n")
    with claim(Path(), "the retraining amber-fox"), pytest.MonkeyPatch.context() as outside:
        outside.delenv("WORKSPACE_CLAIM")
        watching.look(3)
        assert watching.runs() == []
    watching.look()
    assert [run["name"] for run in watching.runs()] == ["data/corpus.csv is new or changed"]


def test_a_run_is_repeated_after_a_kill_but_not_after_it_reported_a_problem(
    watching: Watching, watched: Watched
) -> None:
    watched.put("text\nFrom the inbox.\n")
    watching.look(2)
    watching.end()  # killed before it did anything
    watching.look()
    assert len(watching.runs()) == 2
    with claim(Path(), "the retraining amber-fox"), pytest.MonkeyPatch.context() as outside:
        outside.delenv("WORKSPACE_CLAIM")
        assert "waiting: the retraining amber-fox" in watched.look()
    watching.end()
    watching.look()
    assert len(watching.runs()) == 3

    Path("data/corpus.csv").unlink()
    watching.end()
    watching.look(2)
    assert "data.path: there is no file 'data/corpus.csv'" in watching.runs()[-1]["name"]
    assert watched.look().startswith("Failed: ")
    watching.end()
    watching.look(3)
    assert len(watching.runs()) == 4
    watched.project.write_corpus("text\nA.\n")
    watching.look(2)
    assert len(watching.runs()) == 5


def test_it_can_be_disabled_and_reports_invalid_params_once(
    watching: Watching, watched: Watched, project: Project, logged: list[str]
) -> None:
    project.set(watch__every_seconds=0)
    watched.put("text\nFrom the inbox.\n")
    watching.look(3)
    assert watching.runs() == []
    good = Path("params.yaml").read_text()
    Path("params.yaml").write_text(good.replace("every_seconds: 0", "every_seconds: -1"))
    watching.look(3)
    [sentence] = logged
    assert "every_seconds" in sentence
    assert watching.runs() == []


@pytest.mark.parametrize(
    ("reason", "name"), [("a\nb\tc", "a b c"), ("\udcff.csv", "\\udcff.csv"), (LINES[0] * 9, LINES[0] * 9)]
)
def test_a_run_name_is_one_encodable_line_of_at_most_100_characters(reason: str, name: str) -> None:
    assert runs.run_name(reason).removesuffix("…") == name[: 99 if len(name) > 100 else None]
    runs.run_name(reason).encode()
