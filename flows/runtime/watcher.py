"""Starts a run of the flow `watch`, but only when there is something for it to do.

A schedule would make 1,440 runs a day, nearly all without news, which would bury the others. This check runs within
`fresh up`, or `deploy.pool_setup` on a cluster, and costs a few system calls and one request a minute.
"""

import time
from collections.abc import Callable

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.runtime import runs, watch_state
from pipeline import params
from pipeline.command import UserError

DEPLOYMENT = "watch/watch"
_OFF_SECONDS = 60.0  # until params.yaml is read again if watch.every_seconds is 0
_OLD_SCHEDULE = "every-minute"  # in prefect.yaml until this module came; deploying without it does not delete it
_ENDED = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED}


class Watcher:
    """Checks the current folder at each `poll`."""

    def __init__(self, client: SyncPrefectClient, log: Callable[[str], None]) -> None:
        """Take the server's client, and a function that prints a sentence for the user."""
        self._client, self._log = client, log
        self.next_check = 0.0  # of time.monotonic()
        self._problem = ""

    def poll(self) -> None:
        """Start a run of `watch` if a check is due and finds a reason; raises what Prefect's client raises.

        A problem, such as a params.yaml that cannot be read, is reported once and checked again.
        """
        if time.monotonic() < self.next_check:
            return
        try:
            config = params.load()
            self.next_check = time.monotonic() + (config.watch.every_seconds or _OFF_SECONDS)
            if config.watch.every_seconds:
                self._start_if_needed(config)
            self._problem = ""
        except (UserError, OSError) as error:
            self.next_check = max(self.next_check, time.monotonic() + 1)
            if str(error) != self._problem:
                self._log(f"the watch: {error}")
            self._problem = str(error)

    def _start_if_needed(self, config: params.Params) -> None:
        try:
            deployment = self._client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            raise UserError(
                f"there is no deployment {DEPLOYMENT}; `prefect --no-prompt deploy --all` makes it"
            ) from None
        for schedule in deployment.schedules:
            if schedule.slug == _OLD_SCHEDULE:
                self._client.delete_deployment_schedule(deployment.id, schedule.id)
        if deployment.paused or self._is_running(deployment):
            return
        if reason := watch_state.pending_reason(config, deployment.parameters.get("texts") or ""):
            self._client.create_flow_run_from_deployment(deployment.id, name=runs.run_name(reason))

    def _is_running(self, deployment: DeploymentResponse) -> bool:
        not_ended = FlowRunFilterStateType(any_=[kind for kind in StateType if kind not in _ENDED])
        return bool(
            self._client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=not_ended)),
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
                limit=1,
            )
        )
