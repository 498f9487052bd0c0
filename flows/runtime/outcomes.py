"""What `make up` says about runs: when the next one is, and how those ended that somebody should know of."""

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

_ROUTINE = {"NothingNew", "Missed"}  # ends without news
_SLACK = timedelta(minutes=1)  # an end is stored a little after its time


def next_run(client: SyncPrefectClient, deployment: str = "retrain/retrain") -> str | None:
    """Return when the schedule starts the deployment next, or that it is paused; None where it is not known yet.

    The server plans the runs of a schedule some seconds after the schedule is made.
    """
    found = client.read_deployment_by_name(deployment)
    if not any(schedule.active for schedule in found.schedules):
        return "none: the schedule is paused or removed"
    planned = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        ),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[found.id])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=1,
    )
    due = planned[0].expected_start_time if planned else None
    return f"{due.astimezone():%Y-%m-%d %H:%M %Z}" if due else None


class RunOutcomes:
    """The runs that ended, each told once."""

    def __init__(self, client: SyncPrefectClient) -> None:
        """Tell of runs that end from now on."""
        self._client = client
        self._begun = self._since = datetime.now(UTC)
        self._told: set[UUID] = set()

    def news(self) -> list[str]:
        """Return a line for each run that ended since the last call, but for those without news."""
        now = datetime.now(UTC)
        ended = FlowRunFilterEndTime.model_validate({"after_": self._since - _SLACK})
        runs = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(end_time=ended), sort=FlowRunSort.END_TIME_DESC, limit=100
        )
        new = [
            run for run in reversed(runs) if run.id not in self._told and run.end_time and run.end_time > self._begun
        ]
        self._told = {run.id for run in runs}
        self._since = now
        return [_line(run) for run in new if run.deployment_id and run.state_name not in _ROUTINE]


def _line(run: FlowRun) -> str:
    message = " ".join((run.state.message or "").split()) if run.state else ""
    return f"{run.name}: {run.state_name}" + (f": {message}" if message else "")
