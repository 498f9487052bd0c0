"""Runs that Prefect believes to be running although their process is gone.

Prefect's own means, an automation on missing heartbeats, counts the time in which the server was off: at its start it
either declares every live run dead or forgets the dead ones. So this module asks the operating system about runs of
this machine, and trusts heartbeats of other machines only if it was listening the whole time.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed

from flows.runtime import settings

HEARTBEAT_TIMEOUT = timedelta(minutes=9)  # three of Prefect's default intervals, for a worker with other settings
MAX_POLL_GAP = 120.0  # seconds; after a longer gap (a suspended machine, a server that is away) heartbeats may be lost
_CLOCK_TOLERANCE = 60.0  # seconds between a process's start and the start time that Prefect records


class Reaper:
    """Sets runs without a process to Crashed; runs of this machine only if two polls in a row find none."""

    def __init__(self, client: SyncPrefectClient, log: Callable[[str], None]) -> None:
        """Take the server's client, and a function that prints a sentence for the user."""
        self._client, self._log = client, log
        self._missing: set[UUID] = set()
        self.listening_since, self._last_poll = datetime.now(UTC), time.time()

    def poll(self, *, immediately: bool = False, reason: str = "its process is gone") -> None:
        """Set runs whose process is gone to Crashed, or to Cancelled if they were being cancelled.

        Args:
            immediately: Do not wait for a second poll. Without it a run that is just ending has time to report its
                last state.
            reason: The first part of the state's message.
        """
        now = datetime.now(UTC)
        if time.time() - self._last_poll > MAX_POLL_GAP:
            self.listening_since = now
        self._last_poll = time.time()
        missing = set()
        for run in self._active_runs():
            if (is_alive := _is_alive(run, now)) is False:
                missing.add(run.id)
                if immediately or run.id in self._missing:
                    self._end(run, f"{reason}; the next run resumes from its last checkpoint")
            elif is_alive is None and now - self.listening_since > HEARTBEAT_TIMEOUT and self._is_silent(run, now):
                self._end(run, f"no heartbeat for {HEARTBEAT_TIMEOUT.total_seconds() / 60:g} minutes")
        self._missing = missing
        self._end_tasks_of_crashed_runs()

    def _active_runs(self) -> list[FlowRun]:
        active = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
        return self._client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=active)))

    def _end_tasks_of_crashed_runs(self) -> None:
        """End the tasks of crashed runs, which Prefect leaves Running whoever set the run to Crashed."""
        crashed = FlowRunFilterStateType(any_=[StateType.CRASHED])
        active = TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
        for task in self._client.read_task_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=crashed)),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=active)),
        ):
            self._client.set_task_run_state(task.id, Crashed(message="its run crashed"), force=True)

    def _is_silent(self, run: FlowRun, now: datetime) -> bool:
        """Whether a run was active for the whole timeout and sent no heartbeat; pending runs send none."""
        if run.state is None or run.state.is_pending() or now - run.state.timestamp < HEARTBEAT_TIMEOUT:
            return False
        heartbeats = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            "occurred": {"since": (now - HEARTBEAT_TIMEOUT).isoformat()},
        }
        response = self._client.request("POST", "/events/filter", json={"filter": heartbeats, "limit": 1})
        return not response.json()["events"]

    def _end(self, run: FlowRun, message: str) -> None:
        is_cancelling = run.state is not None and run.state.is_cancelling()
        state: State[None] = Cancelled(message=message) if is_cancelling else Crashed(message=message)
        self._client.set_flow_run_state(run.id, state, force=True)
        self._log(f"the run {run.name} is set to {state.name}: {message}")


def _is_alive(run: FlowRun, now: datetime) -> bool | None:
    """Whether a run's process is alive; None if that cannot be determined on this machine."""
    if run.labels.get("prefect.worker.name") != settings.worker_name() or run.state is None:
        return None
    pid = run.infrastructure_pid
    if pid is None:  # its worker ended before the process started, or before it could report the process
        return False if run.state.is_pending() and now - run.state.timestamp > HEARTBEAT_TIMEOUT else None
    if not pid.isdigit():
        return None
    try:
        process = psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # A process that started after the run has the same id by chance, after a restart of the machine for instance.
        latest_start = run.start_time.timestamp() + _CLOCK_TOLERANCE if run.start_time else None
        return latest_start is None or process.create_time() <= latest_start
    except psutil.NoSuchProcess:
        return False
