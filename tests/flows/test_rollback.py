"""A rollback from Prefect, with its reason in the history and the new champion in an artifact."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.rollback import rollback
from pipeline import escape
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from tests.conftest import Workspace
from tests.flows.conftest import Prefect

pytestmark = pytest.mark.integration


@pytest.fixture
def champions(workspace: Workspace, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the tags of three champions; the last is the current one."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    registry = Registry()
    tags: list[str] = []
    for number in range(3):
        folder = tmp_path / f"model-{number}"
        shutil.copytree(tiny_gpt2, folder)
        (folder / "manifest.json").write_text(json.dumps({"number": number}))
        version = registry.add(folder, {}, {"figures": {"perplexity": 9.5 + number}})
        registry.move(version, expected=tags[-1] if tags else None, action="promote", why="better")
        tags.append(version.tag)
    return tags


def run(prefect: Prefect, **parameters: Any) -> dict[str, Any]:
    """Run the flow in this process; return its state on the server, its artifacts and its log."""
    settings = {
        PREFECT_API_URL: prefect.environment["PREFECT_API_URL"],
        PREFECT_HOME: prefect.environment["PREFECT_HOME"],
    }
    with temporary_settings(settings):
        state = rollback(**parameters, return_state=True)
    run = str(state.state_details.flow_run_id)
    query = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    return {**prefect.state(run), "artifacts": prefect.post("artifacts/filter", **query), "log": prefect.logs(run)}


def test_a_rollback_reports_the_old_and_the_new_champion(prefect: Prefect, champions: list[str]) -> None:
    ended = run(prefect, why="complaints | <b>")
    champion = Registry().champion()
    assert champion is not None
    assert champion.tag == champions[1]
    assert (ended["name"], ended["message"]) == (
        "Completed",
        f"the champion is {short(champions[1])}, after {short(champions[2])}: complaints | <b>",
    )
    assert Registry().history()[-1].why == "complaints | <b>"
    [artifact] = ended["artifacts"]
    assert artifact["key"] == "rollback"
    assert f"| champion now | {escape.markdown(short(champions[1]))} |" in artifact["data"]
    assert "| its perplexity | 10.5 |" in artifact["data"]
    assert "| why | complaints \\| \\<b\\> |" in artifact["data"]


def test_a_version_can_be_given_by_a_prefix(prefect: Prefect, champions: list[str]) -> None:
    ended = run(prefect, version=champions[0].partition(":")[2][:8], why="further back")
    assert ended["message"].startswith(f"the champion is {short(champions[0])}, after {short(champions[2])}")


@pytest.mark.parametrize(
    ("parameters", "state_message"),
    [
        ({"why": "  "}, "a rollback needs a reason"),
        ({"why": "x", "version": "no-such"}, "there is no version 'no-such' in this registry"),
        ({"why": "x", "version": "champion"}, "is the champion; name another version"),
    ],
)
def test_an_impossible_rollback_fails_and_changes_nothing(
    prefect: Prefect, champions: list[str], parameters: dict[str, str], state_message: str
) -> None:
    before = Registry().history()
    ended = run(prefect, **parameters)
    assert (ended["type"], ended["artifacts"]) == ("FAILED", [])
    assert state_message in ended["message"]
    assert not any("Traceback" in line for line in ended["log"])
    assert Registry().history() == before


def test_the_form_requires_the_reason_and_describes_both_fields() -> None:
    assert rollback.parameters.required == ["why"]
    assert all(len(schema["description"]) > 20 for schema in rollback.parameters.properties.values())
    assert rollback.parameters.properties["why"]["minLength"] == 1
