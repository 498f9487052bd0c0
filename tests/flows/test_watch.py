"""`watch` starts one run of `retrain` for each change, and none while the workspace is in use."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.runtime import watch_state
from flows.watch import watch
from pipeline import escape, paths
from pipeline.registry.store import Registry
from pipeline.workspace import claim
from tests.conftest import LINES
from tests.flows.conftest import Prefect, Project, within

pytestmark = pytest.mark.integration


class Watched:
    """A project with a deployment of `retrain` without a worker, so that its runs stay Scheduled."""

    def __init__(self, prefect: Prefect, project: Project) -> None:
        self.prefect, self.project = prefect, project
        self.name = project.folder.parent.name
        deployed = prefect.post(
            "deployments/",
            name=self.name,
            flow_id=prefect.post("flows/", name="retrain")["id"],
            enforce_parameter_schema=False,
        )
        self.deployment = str(deployed["id"])
        self.last = ""

    def look(self, *, as_run: bool = False, **parameters: Any) -> str:
        """Run `watch` once, as a flow run or without one; return the name and message of its state."""
        settings = {
            PREFECT_API_URL: self.prefect.environment["PREFECT_API_URL"],
            PREFECT_HOME: self.prefect.environment["PREFECT_HOME"],
        }
        parameters = {"deployment": f"retrain/{self.name}", **parameters}
        with temporary_settings(settings):
            if not as_run:
                state = watch.fn(**parameters)
            else:
                state = watch(**parameters, return_state=True)
                self.last = str(state.state_details.flow_run_id)
                self.prefect.logs(self.last)  # has all, so that nothing is sent when the server is gone
        return f"{state.name}: {state.message}"

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs that were started."""
        query = {"flow_runs": {"deployment_id": {"any_": [self.deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs: list[dict[str, Any]] = self.prefect.post("flow_runs/filter", **query)
        assert all(run["tags"] == ["watch"] and run["parent_task_run_id"] is None for run in runs)
        return runs

    def started(self) -> list[str]:
        """Return the reasons of the runs that were started."""
        return [run["parameters"]["reason"] for run in self.runs()]

    def validated(self, **more: Any) -> None:
        """Make the current corpus the one that was validated last."""
        content = Path("data/corpus.csv").read_bytes()
        rows = content.count(b"\n") - 1
        metrics = {"corpus": "data/corpus.csv", "corpus_md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
        paths.VALIDATE_METRICS.parent.mkdir(parents=True, exist_ok=True)
        paths.VALIDATE_METRICS.write_text(json.dumps({**metrics, "rows_in": rows, **more}))

    def put(self, content: str, name: str = "new.csv") -> None:
        folder = Path("data/inbox")
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)


@pytest.fixture
def watched(prefect: Prefect, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    result = Watched(prefect, project)
    result.validated()
    return result


def test_without_news_the_run_ends_as_nothing_new(watched: Watched) -> None:
    watched.look()
    assert watched.look(as_run=True) == "NothingNew: nothing changed"
    assert watched.prefect.state(watched.last)["name"] == "NothingNew"
    assert watched.started() == []


def test_a_changed_corpus_starts_one_run_once_it_is_complete(watched: Watched) -> None:
    for _ in range(2):
        watched.look()
    watched.project.write_corpus("text\nOnce upon a time.\nTwi")
    assert "used if the next check finds it unchanged" in watched.look()
    watched.project.write_corpus("text\nOnce upon a time.\nTwice.\nThrice.\n")
    assert "used if the next check finds it unchanged" in watched.look()
    assert watched.started() == []
    assert watched.look().startswith("Started: started ")
    assert watched.look() == "NothingNew: nothing changed"
    assert watched.started() == ["new rows: 2 (data/corpus.csv)"]
    Path("data/corpus.csv").touch()  # the same bytes
    for _ in range(2):
        watched.look()
    assert len(watched.started()) == 1


def test_a_killed_check_does_not_start_a_second_run(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.project.write_corpus("text\nA.\nB.\n")
    watched.look()
    before = watch_state.MEMORY.read_bytes()
    watched.look()
    watch_state.MEMORY.write_bytes(before)  # it never came to remember that
    watched.look()
    assert watched.started() == ["new rows: 1 (data/corpus.csv)"]
    watched.project.write_corpus("text\nA.\nB.\nC.\n")
    for _ in range(2):
        watched.look()
    assert watched.started() == ["new rows: 1 (data/corpus.csv)", "new rows: 2 (data/corpus.csv)"]


def test_a_validated_corpus_starts_nothing(watched: Watched) -> None:
    watched.project.write_corpus("text\nA.\nB.\n")
    watched.look()
    watched.validated()
    assert watched.look() == "NothingNew: nothing changed"
    assert watched.started() == []


def test_an_unreadable_corpus_starts_the_run_that_reports_it(watched: Watched) -> None:
    watched.project.write_corpus("text\nOnce, upon a time.\n")
    for _ in range(2):
        watched.look()
    [reason] = watched.started()
    assert reason.startswith("the corpus changed and cannot be read, so a run will fail: data/corpus.csv, line 2")
    assert len(reason) <= 500


def test_a_complete_dropped_file_is_appended_and_starts_a_run(watched: Watched) -> None:
    watched.look()
    watched.put("text\nFrom the in")
    assert "new.csv is in data/inbox: imported if the next check finds it unchanged" in watched.look()
    watched.put("text\nFrom the inbox.\n")
    watched.look()
    assert Path("data/corpus.csv").read_text() == "text\nOnce upon a time.\n"
    message = watched.look(as_run=True)
    assert message.startswith("Started: appended 1 rows of new.csv (moved to data/inbox/done/new.csv); started ")
    assert Path("data/corpus.csv").read_text() == "text\nOnce upon a time.\nFrom the inbox.\n"
    assert watched.started() == ["new rows: 1 (data/corpus.csv)"]
    assert watched.look() == "NothingNew: nothing changed"


def test_a_refused_file_is_moved_and_logged(watched: Watched) -> None:
    watched.put("words\nFrom the inbox.\n", "odd.csv")
    watched.look()
    message = watched.look(as_run=True)
    assert message.startswith("Completed: refused odd.csv: data/inbox/odd.csv: its columns are 'words', but those of")
    assert any("its columns are 'words'" in line for line in watched.prefect.logs(watched.last))
    assert Path("data/inbox/refused/odd.csv").exists()
    assert watched.started() == []


def test_nothing_is_lost_while_the_workspace_is_in_use(watched: Watched) -> None:
    watched.put("text\nFrom the inbox.\n")
    watched.project.write_corpus("text\nA.\nB.\n")
    watched.look()
    with claim(Path(), "the retraining amber-fox"), pytest.MonkeyPatch.context() as outside:
        outside.delenv("WORKSPACE_CLAIM")
        for _ in range(2):
            assert "waiting: the retraining amber-fox is at work in this folder since" in watched.look()
        shutil.rmtree("data/inbox")  # without it too: the corpus waits likewise
        assert "waiting: the retraining amber-fox" in watched.look()
    assert watched.started() == []
    assert watched.look().startswith("Started: ")
    assert watched.started() == ["new rows: 1 (data/corpus.csv)"]


def test_a_corpus_of_another_format_fails_the_import_but_is_watched(
    watched: Watched,
) -> None:
    Path("data/corpus.jsonl").write_text('{"text": "A."}\n')
    watched.project.set(data__path="data/corpus.jsonl")
    watched.put("text\nFrom the inbox.\n")
    watched.look()
    message = watched.look(as_run=True)
    assert message.startswith("Failed: started ")
    assert "dropped files are appended to CSV and TSV files, and the corpus is jsonl" in message
    assert watched.started() == ["another corpus: 1 rows (data/corpus.jsonl)"]
    assert not any("Traceback" in line for line in watched.prefect.logs(watched.last))


def test_a_missing_deployment_is_reported(watched: Watched) -> None:
    watched.project.write_corpus("text\nA.\nB.\n")
    watched.look()
    message = watched.look(deployment="retrain/gone")
    assert message == "Failed: there is no deployment 'retrain/gone' to start; `fresh up` deploys retrain/retrain"
    assert watched.look().startswith("Started: ")


# Drift

PLAIN = [line.replace(",", "") for line in LINES]
OLD = [f"{line} {number}" for number in range(10) for line in PLAIN]


def make_champion(watched: Watched, tiny_gpt2: Path, perplexity: float) -> None:
    """Register a champion with this recorded perplexity; its actual one is about 300 for any text."""
    folder = watched.project.folder.parent / f"model-{perplexity}"
    shutil.copytree(tiny_gpt2, folder)
    (folder / "manifest.json").write_text(json.dumps({"made for": perplexity}))
    recorded = {"perplexity": perplexity, "perplexity_low": perplexity * 0.98, "perplexity_high": perplexity * 1.02}
    registry = Registry()
    champion = registry.champion()
    version = registry.add(folder, {}, {"figures": recorded})
    registry.move(version, expected=champion.tag if champion else None, action="promote", why="better")


@pytest.fixture
def drifting(watched: Watched, tiny_gpt2: Path) -> Watched:
    """Return a project with 30 new rows in its corpus, and a champion that found the old ones easy."""
    watched.project.set(watch__drift_rows=20)
    watched.project.write_corpus("\n".join(["text", *OLD]) + "\n")
    watched.validated()
    paths.CLEAN.parent.mkdir(exist_ok=True)
    pd.DataFrame({"text": OLD}).to_parquet(paths.CLEAN)
    watched.look()
    new = [f"{line} anew {number}" for number in range(8) for line in PLAIN][:30]
    watched.project.write_corpus("\n".join(["text", *OLD, *new]) + "\n")
    make_champion(watched, tiny_gpt2, 30)
    return watched


def remembered() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(watch_state.MEMORY.read_text())
    return result


def test_few_new_rows_wait_unless_they_drift(drifting: Watched, tiny_gpt2: Path) -> None:
    drifting.look(new_rows=100)
    message = drifting.look(as_run=True, new_rows=100)
    [reason] = drifting.started()
    drift = remembered()["drift"]
    assert reason == f"drift {drift['ratio']:.2f} > 1.20"
    assert message.endswith(reason)
    assert (drift["of"], drift["rows"], drift["drifted"]) == ("the corpus's new rows", 30, True)
    [artifact] = drifting.prefect.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [drifting.last]}})
    described = escape.markdown(f"{reason}, in the corpus's new rows")
    assert (artifact["key"], artifact["description"]) == ("drift", described)
    query = {"filter": {"event": {"name": ["corpus.drifted"]}, "occurred": {"since": drift["at"]}}}
    assert within(300, lambda: drifting.prefect.post("events/filter", **query)["total"] == 1)


def test_few_new_rows_without_drift_wait_for_the_schedule(drifting: Watched, tiny_gpt2: Path) -> None:
    make_champion(drifting, tiny_gpt2, 400)
    drifting.look(new_rows=100)
    message = drifting.look(as_run=True, new_rows=100)
    assert message.endswith("new rows: 30 (data/corpus.csv): fewer than 100, so they wait for the schedule")
    assert "not beyond noise above 1.20, in the corpus's new rows" in message
    assert drifting.started() == []
    assert drifting.look(new_rows=100) == "NothingNew: nothing changed"


def test_enough_new_rows_start_a_run_without_measuring_drift(drifting: Watched) -> None:
    drifting.look(new_rows=30)
    drifting.look(new_rows=30)
    assert drifting.started() == ["new rows: 30 (data/corpus.csv)"]
    assert "drift" not in remembered()


def test_drifting_texts_start_a_run_only_with_new_rows(drifting: Watched, tiny_gpt2: Path) -> None:
    shutil.copy("data/corpus.csv", "users.csv")
    drifting.validated()
    message = drifting.look(as_run=True, new_rows=100, texts="users.csv")
    assert "in users.csv, but the corpus has no new rows to learn from: put such texts into data/inbox" in message
    assert "users.csv" not in drifting.look(new_rows=100, texts="users.csv")  # the same texts, the same champion
    assert drifting.started() == []

    drifting.validated(corpus_md5="0" * 32)
    Path("users.csv").touch()
    drifting.look(as_run=True, new_rows=100, texts="users.csv")
    [reason] = drifting.started()
    assert reason.startswith("drift ")


def test_the_form_describes_every_parameter() -> None:
    assert list(watch.parameters.properties) == ["new_rows", "texts", "deployment"]
    assert all(len(schema["description"]) > 10 for schema in watch.parameters.properties.values())
    assert watch.parameters.properties["new_rows"]["minimum"] == 0


def test_a_fault_in_the_import_does_not_stop_the_other_checks(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise LookupError("a fault of ours, caf\udce9")

    monkeypatch.setattr("flows.runtime.drop_folder.import_files", fault)
    watched.put("text\nFrom the inbox.\n")
    watched.project.write_corpus("text\nA.\nB.\n")
    watched.look()
    message = watched.look(as_run=True)
    assert message.startswith("Failed: started ")
    assert message.endswith("LookupError: a fault of ours, caf\\udce9")
    assert watched.started() == ["new rows: 1 (data/corpus.csv)"]


def test_a_skipped_file_is_reported_once(watched: Watched) -> None:
    watched.put("Not rows.", "notes.txt")
    assert "data/inbox/notes.txt is skipped: its name does not end in .csv" in watched.look()
    watched.look()
    assert watched.look() == "NothingNew: nothing changed"
    assert Path("data/inbox/notes.txt").exists()
