"""What `fresh up` prints about runs: when the next one starts, and how those ended that did something."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort

_ROUTINE = {"NothingNew", "Missed"}  # names of states that are not worth a line
_STORE_DELAY = timedelta(minutes=1)  # the server stores the end of a run a little after it


def next_run(client: SyncPrefectClient, name: str = "retrain/retrain") -> str | None:
    """Return when the schedule starts the named deployment next, or that it is paused; None if that is not known yet.

    The server plans the runs of a schedule some seconds after the schedule was made.
    """
    deployment = client.read_deployment_by_name(name)
    if not any(schedule.active for schedule in deployment.schedules):
        return "none: the schedule is paused or removed"
    scheduled = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=scheduled)),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=1,
    )
    start = runs[0].expected_start_time if runs else None
    return f"{start.astimezone():%Y-%m-%d %H:%M %Z}" if start else None


class RunOutcomes:
    """How runs ended, each reported once."""

    def __init__(self, client: SyncPrefectClient) -> None:
        """Report runs that end from now on."""
        self._client = client
        self._created = self._last_poll = datetime.now(UTC)
        self._reported: set[UUID] = set()

    def poll(self) -> list[str]:
        """Return a line for each run that ended since the last call, except those without news."""
        now = datetime.now(UTC)
        ended = FlowRunFilterEndTime.model_validate({"after_": self._last_poll - _STORE_DELAY})
        runs = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(end_time=ended), sort=FlowRunSort.END_TIME_DESC, limit=100
        )
        new = [
            run
            for run in reversed(runs)
            if run.id not in self._reported and run.end_time and run.end_time > self._created
        ]
        self._reported = {run.id for run in runs}
        self._last_poll = now
        return [_line(run) for run in new if run.deployment_id and run.state_name not in _ROUTINE]


def _line(run: FlowRun) -> str:
    message = " ".join((run.state.message or "").split()) if run.state else ""
    return f"{run.name}: {run.state_name}" + (f": {message}" if message else "")
