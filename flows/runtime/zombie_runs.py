"""Runs whose process is gone, while Prefect believes that they run: they are declared crashed.

Prefect's own means, an automation on missing heartbeats, counts the time in which the server was off: at its start it
either declares every live run dead or forgets the dead ones. On this machine we ask the operating system instead, and
trust heartbeats for other machines only when we have been listening all the time.
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


class Reaper:
    """Looks after runs again and again; it needs two looks to declare one of this machine dead."""

    def __init__(self, client: SyncPrefectClient, say: Callable[[str], None]) -> None:
        """Take the server's client, and what a sentence for the user is given to."""
        self._client, self._say = client, say
        self._missing: set[UUID] = set()
        self.since, self._last = datetime.now(UTC), time.time()

    def look(self, *, at_once: bool = False, why: str = "its process is gone") -> None:
        """Declare crashed (cancelled, where that was wanted) what is gone; `at_once`: on this machine at first sight.

        The second look is for a run that is just ending: its process may be gone before its state arrives.
        """
        now = datetime.now(UTC)
        if time.time() - self._last > MAX_POLL_GAP:
            self.since = now
        self._last = time.time()
        missing = set()
        for run in self._runs():
            if (alive := _lives(run, now)) is False:
                missing.add(run.id)
                if at_once or run.id in self._missing:
                    self._declare(run, f"{why}; the next run goes on from its last checkpoint")
            elif alive is None and now - self.since > HEARTBEAT_TIMEOUT and self._is_silent(run, now):
                minutes = f"{HEARTBEAT_TIMEOUT.total_seconds() / 60:g}"
                self._declare(run, f"nothing was heard of it for {minutes} minutes")
        self._missing = missing
        self._end_tasks()

    def _runs(self) -> list[FlowRun]:
        active = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
        return self._client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=active)))

    def _end_tasks(self) -> None:
        """End the tasks of crashed runs too: Prefect leaves them running for ever, whoever declared the run."""
        crashed = FlowRunFilterStateType(any_=[StateType.CRASHED])
        active = TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
        for task in self._client.read_task_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=crashed)),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=active)),
        ):
            self._client.set_task_run_state(task.id, Crashed(message="its run crashed"), force=True)

    def _is_silent(self, run: FlowRun, now: datetime) -> bool:
        """Tell whether a run was going on all the time and gave no sign of life; one that waits to start gives none."""
        if run.state is None or run.state.is_pending() or now - run.state.timestamp < HEARTBEAT_TIMEOUT:
            return False
        wanted = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            "occurred": {"since": (now - HEARTBEAT_TIMEOUT).isoformat()},
        }
        return not self._client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1}).json()["events"]

    def _declare(self, run: FlowRun, message: str) -> None:
        wanted = run.state is not None and run.state.is_cancelling()
        state: State[None] = Cancelled(message=message) if wanted else Crashed(message=message)
        self._client.set_flow_run_state(run.id, state, force=True)
        self._say(f"the run {run.name} is set to {state.name}: {message}")


def _lives(run: FlowRun, now: datetime) -> bool | None:
    """Tell whether a run's process lives; None where that cannot be seen from here."""
    if run.labels.get("prefect.worker.name") != settings.worker_name() or run.state is None:
        return None
    pid = run.infrastructure_pid
    if pid is None:  # its worker ended before the process began, or could not say which it is
        return False if run.state.is_pending() and now - run.state.timestamp > HEARTBEAT_TIMEOUT else None
    if not pid.isdigit():
        return None
    try:
        process = psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # After the run's start: another process with the same number, as after a restart of the machine.
        return run.start_time is None or process.create_time() <= run.start_time.timestamp() + 60
    except psutil.NoSuchProcess:
        return False
