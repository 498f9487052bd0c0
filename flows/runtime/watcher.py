"""Looks every minute whether the flow `watch` would find something to do, and makes a run of it only then.

A schedule would make 1,440 runs a day, nearly all without news, that bury the others. This runs within `make up`, or
`deploy.pool_setup` on a cluster, and costs a few system calls and one request a minute.
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

from flows import watch
from flows.runtime import runs
from pipeline import params
from pipeline.command import UserError

DEPLOYMENT = "watch/watch"
_OFF = 60.0  # seconds until params.yaml is read again where it says that nothing is watched
_EARLIER = "every-minute"  # the schedule that prefect.yaml had; deploying a file without it does not remove it
_ENDED = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED}


class Watcher:
    """Looks again and again; works in the current folder."""

    def __init__(self, client: SyncPrefectClient, say: Callable[[str], None]) -> None:
        """Take the server's client, and what a sentence for the user is given to."""
        self._client, self._say = client, say
        self._next = 0.0
        self._problem = ""

    def look(self) -> None:
        """Make a run of `watch` if a look is due and there is a reason; raises what Prefect's client raises.

        A problem, params.yaml that cannot be read for instance, is said once and looked at again.
        """
        if time.monotonic() < self._next:
            return
        try:
            wanted = params.load()
            self._next = time.monotonic() + (wanted.watch.every_seconds or _OFF)
            if wanted.watch.every_seconds:
                self._start_if_due(wanted)
            self._problem = ""
        except (UserError, OSError) as error:
            self._next = max(self._next, time.monotonic() + 1)
            if str(error) != self._problem:
                self._say(f"the watch: {error}")
            self._problem = str(error)

    def _start_if_due(self, wanted: params.Params) -> None:
        try:
            deployment = self._client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            raise UserError(
                f"there is no deployment {DEPLOYMENT}; `prefect --no-prompt deploy --all` makes it"
            ) from None
        for schedule in deployment.schedules:
            if schedule.slug == _EARLIER:
                self._client.delete_deployment_schedule(deployment.id, schedule.id)
        if deployment.paused or self._runs_already(deployment):
            return
        if reason := watch.pending_reason(wanted, deployment.parameters.get("texts") or ""):
            self._client.create_flow_run_from_deployment(deployment.id, name=runs.run_title(reason))

    def _runs_already(self, deployment: DeploymentResponse) -> bool:
        under_way = FlowRunFilterStateType(any_=[kind for kind in StateType if kind not in _ENDED])
        there = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=under_way)),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            limit=1,
        )
        return bool(there)
