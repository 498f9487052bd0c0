"""The flow `retrain` with a real server: its tasks, states and parameters; `test_cancel` has a worker too."""

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.flows import Flow

from flows.retrain import _changes, retrain
from flows.rollback import rollback
from flows.watch import watch
from pipeline.command import UserError
from pipeline.workspace import claim
from tests.flows.conftest import Prefect, Project

pytestmark = pytest.mark.integration


def test_each_node_is_a_task_with_its_outcome_as_state(prefect: Prefect, project: Project) -> None:
    run = prefect.run()
    state = prefect.state(run)
    assert (state["name"], state["message"]) == (
        "Completed",
        "no candidate yet. ran: validate, tokenize, finetune; unchanged: data/corpus.csv.dvc",
    )
    assert prefect.api.get(f"flow_runs/{run}").json()["name"] == "no candidate yet"  # the reason
    nodes = ["data/corpus.csv.dvc", "validate", "tokenize", "finetune"]
    assert list(prefect.tasks(run).items()) == list(
        zip(nodes, ["Skipped", "Completed", "Completed", "Completed"], strict=True)
    )
    assert prefect.graph(run) == {
        "data/corpus.csv.dvc": [],
        "validate": ["data/corpus.csv.dvc"],
        "tokenize": ["validate"],
        "finetune": ["tokenize"],
    }
    log = prefect.logs(run)
    assert log.index("read the corpus") < log.index("made tokens") < log.index("trained")

    run = prefect.run()  # with nothing to do
    assert prefect.state(run)["message"] == f"no candidate yet. unchanged: {', '.join(nodes)}"


def test_overrides_and_corpus_apply_to_one_run(prefect: Prefect, project: Project) -> None:
    before = (project.folder / "params.yaml").read_bytes()
    project.script(
        "finetune.py", "from pathlib import Path; import shutil; shutil.copy('params.yaml', 'made/model.txt')"
    )
    run = prefect.run(overrides={"finetune.epochs": 77}, corpus="data/corpus.csv")
    assert prefect.state(run)["type"] == "COMPLETED"
    assert set(prefect.tasks(run).values()) == {"Skipped", "Completed"}
    assert "epochs: 77" in (project.folder / "made" / "model.txt").read_text()
    assert (project.folder / "params.yaml").read_bytes() == before


def test_a_users_mistake_fails_the_run_without_a_retry(prefect: Prefect, project: Project) -> None:
    project.set(retrain__retries=1)
    project.script("validate.py", "import sys; print('a try'); print('error: line 3 is odd; mend it'); sys.exit(2)")
    run = prefect.run()
    state = prefect.state(run)
    assert (state["type"], state["name"], state["message"]) == ("FAILED", "Failed", "validate: line 3 is odd; mend it")
    assert prefect.tasks(run) == {"data/corpus.csv.dvc": "Skipped", "validate": "Failed"}
    assert prefect.logs(run).count("a try") == 1
    assert not any("Traceback" in line for line in prefect.logs(run))


def test_other_failures_are_retried(prefect: Prefect, project: Project) -> None:
    project.set(retrain__retries=1)
    project.script(
        "validate.py",
        "import pathlib, shutil\n"
        "again = pathlib.Path('again')\n"
        "if not again.exists(): again.touch(); raise OSError('the network was away')\n"
        "shutil.copy('data/corpus.csv', 'made/clean.txt')",
    )
    run = prefect.run()
    assert prefect.state(run)["type"] == "COMPLETED"
    assert "OSError: the network was away" in prefect.logs(run)


def test_a_stage_over_its_time_limit_ends_as_timed_out(prefect: Prefect, project: Project) -> None:
    project.set(retrain__minutes__validate=0.03)
    project.script("validate.py", "import time; time.sleep(600)")
    run = prefect.run()
    state = prefect.state(run)
    assert (state["type"], state["name"]) == ("FAILED", "TimedOut")
    assert "validate took longer than 0.03 minutes" in state["message"]
    assert prefect.tasks(run)["validate"] == "TimedOut"


def test_a_run_ends_as_busy_while_the_workspace_is_in_use(
    prefect: Prefect, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.retrain.CLAIM_TIMEOUT", 0.5)  # of 60 seconds
    with claim(Path(), "the retraining amber-fox"), pytest.MonkeyPatch.context() as outside:
        outside.delenv("WORKSPACE_CLAIM")
        run = prefect.run()
        state = prefect.state(run)
    assert (state["type"], state["name"]) == ("CANCELLED", "Busy")
    assert state["message"].startswith("gave way: the retraining amber-fox is at work in this folder since ")
    assert not any("Traceback" in line for line in prefect.logs(run))
    assert prefect.tasks(run) == {}


def test_invalid_overrides_are_all_reported_and_nothing_runs(prefect: Prefect, project: Project) -> None:
    before = (project.folder / "params.yaml").read_bytes()
    run = prefect.run(overrides={"finetune": {"epochs": 0, "lerning_rate": 1}})
    state = prefect.state(run)
    assert state["type"] == "FAILED"
    assert len(state["message"].splitlines()) == 2
    assert "did you mean learning_rate?" in state["message"]
    assert prefect.tasks(run) == {}
    assert (project.folder / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("overrides", [{"data": None}, {"data": {"path": "x.csv"}}, {"data.path": "x.csv"}])
def test_a_corpus_and_an_override_of_it_conflict(overrides: dict[str, object]) -> None:
    with pytest.raises(UserError, match="found a corpus and an override of data"):
        _changes("data/mine.csv", overrides)
    assert _changes("data/mine.csv", {"data": {"encoding": "auto"}}) == {
        "data": {"encoding": "auto"},
        "data.path": "data/mine.csv",
    }


@pytest.mark.parametrize("flow", [retrain, watch, rollback], ids=lambda flow: flow.name)
def test_form_fields_have_one_type_which_the_ui_can_show(
    flow: Flow[..., Any],
) -> None:
    for schema in flow.parameters.properties.values():
        assert isinstance(schema.get("type"), str) or "enum" in schema, schema


def test_the_form_describes_and_bounds_every_parameter() -> None:
    properties = retrain.parameters.properties
    assert list(properties) == ["corpus", "overrides", "force", "promote", "needs_approval", "reason"]
    assert all(len(schema["description"]) > 20 for schema in properties.values())
    assert all(schema["default"] in ("", {}, False, "promote", "as in params.yaml") for schema in properties.values())
    assert properties["promote"]["enum"] == ["promote", "evaluate only"]
    assert '"maxLength": 500' in json.dumps(properties["reason"])
