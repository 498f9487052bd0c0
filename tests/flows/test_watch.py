"""The watch: one run of `retrain` for each change, none while somebody is at work, from a real Prefect server."""

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
    """A project with a deployment of `retrain` that nobody works on, so that what is started stays to be seen."""

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
        """Look once, as a flow run (a second more) or without one; return the name and the message of its end."""
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
        asked = {"flow_runs": {"deployment_id": {"any_": [self.deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs: list[dict[str, Any]] = self.prefect.post("flow_runs/filter", **asked)
        assert all(run["tags"] == ["watch"] and run["parent_task_run_id"] is None for run in runs)
        return runs

    def started(self) -> list[str]:
        """Return the reasons of the runs that were started."""
        return [run["parameters"]["reason"] for run in self.runs()]

    def validated(self, **more: Any) -> None:
        """Let the corpus be as the last validate saw it."""
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
    found = Watched(prefect, project)
    found.validated()
    return found


def test_nothing_new_ends_at_once_and_says_so(watched: Watched) -> None:
    watched.look()
    assert watched.look(as_run=True) == "NothingNew: nothing changed"
    assert watched.prefect.state(watched.last)["name"] == "NothingNew"
    assert watched.started() == []


def test_a_changed_corpus_starts_one_run_once_it_has_come_to_rest(watched: Watched) -> None:
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


def test_a_look_that_is_killed_after_it_started_the_run_starts_no_second_one(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_corpus_that_was_validated_meanwhile_starts_nothing(watched: Watched) -> None:
    watched.project.write_corpus("text\nA.\nB.\n")
    watched.look()
    watched.validated()
    assert watched.look() == "NothingNew: nothing changed"
    assert watched.started() == []


def test_a_corpus_that_cannot_be_read_starts_the_run_that_will_say_so(watched: Watched) -> None:
    watched.project.write_corpus("text\nOnce, upon a time.\n")
    for _ in range(2):
        watched.look()
    [reason] = watched.started()
    assert reason.startswith("the corpus changed and cannot be read, so a run will fail: data/corpus.csv, line 2")
    assert len(reason) <= 500


def test_a_file_in_the_inbox_is_appended_when_it_is_whole_and_starts_a_run(watched: Watched) -> None:
    watched.look()
    watched.put("text\nFrom the in")
    assert "new.csv is in data/inbox: imported if the next check finds it unchanged" in watched.look()
    watched.put("text\nFrom the inbox.\n")
    watched.look()
    assert Path("data/corpus.csv").read_text() == "text\nOnce upon a time.\n"
    said = watched.look(as_run=True)
    assert said.startswith("Started: appended 1 rows of new.csv (moved to data/inbox/done/new.csv); started ")
    assert Path("data/corpus.csv").read_text() == "text\nOnce upon a time.\nFrom the inbox.\n"
    assert watched.started() == ["new rows: 1 (data/corpus.csv)"]
    assert watched.look() == "NothingNew: nothing changed"


def test_a_file_that_does_not_fit_is_put_aside_and_the_reason_is_in_the_log(watched: Watched) -> None:
    watched.put("words\nFrom the inbox.\n", "odd.csv")
    watched.look()
    said = watched.look(as_run=True)
    assert said.startswith("Completed: refused odd.csv: data/inbox/odd.csv: its columns are 'words', but those of")
    assert any("its columns are 'words'" in line for line in watched.prefect.logs(watched.last))
    assert Path("data/inbox/refused/odd.csv").exists()
    assert watched.started() == []


def test_while_somebody_is_at_work_everything_waits_and_nothing_is_forgotten(watched: Watched) -> None:
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


def test_a_corpus_that_cannot_take_rows_in_fails_with_its_sentence_but_is_watched_all_the_same(
    watched: Watched,
) -> None:
    Path("data/corpus.jsonl").write_text('{"text": "A."}\n')
    watched.project.set(data__path="data/corpus.jsonl")
    watched.put("text\nFrom the inbox.\n")
    watched.look()
    said = watched.look(as_run=True)
    assert said.startswith("Failed: started ")
    assert "dropped files are appended to CSV and TSV files, and the corpus is jsonl" in said
    assert watched.started() == ["another corpus: 1 rows (data/corpus.jsonl)"]
    assert not any("Traceback" in line for line in watched.prefect.logs(watched.last))


def test_a_deployment_that_is_not_there_is_named(watched: Watched) -> None:
    watched.project.write_corpus("text\nA.\nB.\n")
    watched.look()
    said = watched.look(deployment="retrain/gone")
    assert said == "Failed: there is no deployment 'retrain/gone' to start; `fresh up` deploys retrain/retrain"
    assert watched.look().startswith("Started: ")


# Drift

PLAIN = [line.replace(",", "") for line in LINES]
OLD = [f"{line} {number}" for number in range(10) for line in PLAIN]


def make_champion(watched: Watched, tiny_gpt2: Path, perplexity: float) -> None:
    """Register a model, with which any text has a perplexity of some 300, as one that had `perplexity`."""
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
    """Return a project whose corpus has 30 rows that no validate has seen, beside a champion that found it easy."""
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
    found: dict[str, Any] = json.loads(watch_state.MEMORY.read_text())
    return found


def test_few_new_rows_wait_unless_they_drift(drifting: Watched, tiny_gpt2: Path) -> None:
    drifting.look(new_rows=100)
    said = drifting.look(as_run=True, new_rows=100)
    [reason] = drifting.started()
    drift = remembered()["drift"]
    assert reason == f"drift {drift['ratio']:.2f} > 1.20"
    assert said.endswith(reason)
    assert (drift["of"], drift["rows"], drift["drifted"]) == ("the corpus's new rows", 30, True)
    [artifact] = drifting.prefect.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [drifting.last]}})
    described = escape.markdown(f"{reason}, in the corpus's new rows")
    assert (artifact["key"], artifact["description"]) == ("drift", described)
    asked = {"filter": {"event": {"name": ["corpus.drifted"]}, "occurred": {"since": drift["at"]}}}
    assert within(300, lambda: drifting.prefect.post("events/filter", **asked)["total"] == 1)


def test_few_new_rows_that_do_not_drift_wait_for_the_schedule(drifting: Watched, tiny_gpt2: Path) -> None:
    make_champion(drifting, tiny_gpt2, 400)
    drifting.look(new_rows=100)
    said = drifting.look(as_run=True, new_rows=100)
    assert said.endswith("new rows: 30 (data/corpus.csv): fewer than 100, so they wait for the schedule")
    assert "not beyond noise above 1.20, in the corpus's new rows" in said
    assert drifting.started() == []
    assert drifting.look(new_rows=100) == "NothingNew: nothing changed"


def test_enough_new_rows_start_a_run_without_asking_for_drift(drifting: Watched) -> None:
    drifting.look(new_rows=30)
    drifting.look(new_rows=30)
    assert drifting.started() == ["new rows: 30 (data/corpus.csv)"]
    assert "drift" not in remembered()


def test_a_file_of_texts_that_drifts_starts_a_run_only_where_there_is_something_new_to_learn(
    drifting: Watched, tiny_gpt2: Path
) -> None:
    shutil.copy("data/corpus.csv", "users.csv")
    drifting.validated()
    said = drifting.look(as_run=True, new_rows=100, texts="users.csv")
    assert "in users.csv, but the corpus has no new rows to learn from: put such texts into data/inbox" in said
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


def test_a_fault_in_the_inbox_keeps_the_look_from_nothing_else(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise LookupError("a fault of ours, caf\udce9")

    monkeypatch.setattr("flows.runtime.drop_folder.import_files", fault)
    watched.put("text\nFrom the inbox.\n")
    watched.project.write_corpus("text\nA.\nB.\n")
    watched.look()
    said = watched.look(as_run=True)
    assert said.startswith("Failed: started ")
    assert said.endswith("LookupError: a fault of ours, caf\\udce9")
    assert watched.started() == ["new rows: 1 (data/corpus.csv)"]


def test_a_file_that_stays_in_the_inbox_is_told_of_once(watched: Watched) -> None:
    watched.put("Not rows.", "notes.txt")
    assert "data/inbox/notes.txt is skipped: its name does not end in .csv" in watched.look()
    watched.look()
    assert watched.look() == "NothingNew: nothing changed"
    assert Path("data/inbox/notes.txt").exists()
