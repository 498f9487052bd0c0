"""The work pool and the schedule on Prefect's server; `fresh up` and `deploy.pool_setup` set them up."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelled
from prefect.workers.process import ProcessWorker

from flows.runtime import settings
from pipeline.command import UserError

FLOWS = ["retrain", "watch", "rollback"]
_START_SECONDS = 120.0  # for the server: it takes 13 with a new database, and several times that on a busy machine


def wait_for_server(client: SyncPrefectClient, check: Callable[[], None], hint: str = "") -> None:
    """Wait until the server answers.

    Args:
        client: The server's client.
        check: Called again and again meanwhile; it may raise.
        hint: Where to look if the server does not answer, for the error message.

    Raises:
        UserError: The server did not answer within two minutes.
    """
    deadline = time.monotonic() + _START_SECONDS
    while (problem := client.api_healthcheck()) is not None:
        check()
        if time.monotonic() > deadline:
            raise UserError(f"Prefect's server did not answer within {_START_SECONDS:g} seconds ({problem!r}){hint}")
        time.sleep(0.2)


def make_pool(client: SyncPrefectClient, kind: str, template: Path | None = None) -> None:
    """Make the work pool that prefect.yaml names, unless it exists; a person may have paused or changed it.

    Args:
        client: The server's client.
        kind: Its type: process, docker or kubernetes.
        template: A JSON file with its base job template; by default that of process workers.

    Raises:
        UserError: The pool exists and is of another type.
    """
    job_template = ProcessWorker.get_default_base_job_template()
    if template is not None:
        job_template = json.loads(template.read_text(encoding="utf-8"))
    pool = WorkPoolCreate(name=settings.POOL, type=kind, base_job_template=job_template)
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
    existing = client.read_work_pool(settings.POOL).type
    if existing != kind:
        raise UserError(
            f"the work pool {settings.POOL} exists and is of type {existing}, expected {kind}; delete it, or use "
            f"{existing}"
        )


def cancel_missed_runs(client: SyncPrefectClient) -> None:
    """Cancel all but the newest scheduled run that each deployment missed while everything was off."""
    missed = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)}),
    )
    caught_up = set()
    for run in client.read_flow_runs(flow_run_filter=missed, sort=FlowRunSort.EXPECTED_START_TIME_DESC):
        if not run.auto_scheduled:
            continue  # a person or an event asked for it
        if run.deployment_id in caught_up:
            message = "everything was off when this run was due; of the missed runs, only the newest is made up for"
            cancelled: State[None] = Cancelled(name="Missed", message=message)
            client.set_flow_run_state(run.id, cancelled, force=True)
        caught_up.add(run.deployment_id)
