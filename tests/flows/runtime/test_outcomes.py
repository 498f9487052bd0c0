"""What `fresh up` prints about runs, from a real server."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.runtime.outcomes import RunOutcomes, next_run
from tests.flows.conftest import Prefect, within

pytestmark = pytest.mark.integration


@pytest.fixture
def client(prefect: Prefect) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: prefect.environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        yield client


@pytest.fixture
def deployment(prefect: Prefect) -> Iterator[dict[str, Any]]:
    """Return a deployment with an hourly schedule and no worker."""
    name = f"outcomes-{uuid.uuid4()}"
    flow = prefect.post("flows/", name=name)["id"]
    hourly = {"schedule": {"interval": 3600}, "active": True}
    made = prefect.post("deployments/", name=name, flow_id=flow, schedules=[hourly])
    yield {**made, "full_name": f"{name}/{name}"}
    prefect.api.delete(f"deployments/{made['id']}")


def end(prefect: Prefect, deployment: dict[str, Any], title: str, **state: str) -> None:
    run = prefect.post(f"deployments/{deployment['id']}/create_flow_run", name=title)["id"]
    for one in ({"type": "RUNNING"}, state):
        prefect.post(f"flow_runs/{run}/set_state", state=one, force=True)


def test_each_outcome_with_news_is_reported_once(
    prefect: Prefect, client: SyncPrefectClient, deployment: dict[str, Any]
) -> None:
    end(prefect, deployment, "from before", type="COMPLETED")
    outcomes = RunOutcomes(client)
    assert outcomes.poll() == []
    end(prefect, deployment, "new rows: 12", type="COMPLETED", name="Promoted", message="Better\nthan the champion.")
    end(prefect, deployment, "schedule: nothing new", type="COMPLETED", name="NothingNew")
    end(prefect, deployment, "a person: try", type="FAILED", message="validate: data/mine.csv, line 2: broken")
    assert outcomes.poll() == [
        "new rows: 12: Promoted: Better than the champion.",
        "a person: try: Failed: validate: data/mine.csv, line 2: broken",
    ]
    assert outcomes.poll() == []


def test_the_next_run_or_a_paused_schedule_is_reported(
    prefect: Prefect, client: SyncPrefectClient, deployment: dict[str, Any]
) -> None:
    assert within(300, lambda: next_run(client, deployment["full_name"]) is not None)
    assert str(next_run(client, deployment["full_name"])).startswith("20")
    [schedule] = deployment["schedules"]
    path = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
    assert prefect.api.patch(path, json={"active": False}).is_success
    assert next_run(client, deployment["full_name"]) == "none: the schedule is paused or removed"
