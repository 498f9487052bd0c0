"""The flow `retrain`: DVC's stages, the verdict on the candidate, the promotion. It runs in the project's folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows import triggers
from flows.runtime import notify, provenance, runs, stages
from flows.runtime import overrides as param_overrides
from flows.runtime.prefect_internals import hide_failed_run_tracebacks
from pipeline import params, workspace
from pipeline.command import UserError
from pipeline.dvc_repo import Node, pipeline_nodes, remove_stale_rwlock
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version

if TYPE_CHECKING:  # it imports pandas and more, which a run without news does not need
    from pipeline.promote import Decision

ROOT = Path()  # the deployment's working folder; DVC's messages and the stages' paths are relative to it
_AS_IN_PARAMS: Final = "as in params.yaml"
CLAIM_TIMEOUT = 60.0  # seconds to wait for the folder: a run of `watch` takes some
_MAX_DELAY = 600.0  # seconds; a scheduled run that starts later was delayed by an outage


class _Ended(Exception):  # noqa: N818 - not an error, and it never leaves this module
    """The run ends here, in this state."""

    def __init__(self, state: State[None]) -> None:
        self.state = state


@dataclass(frozen=True)
class _Trained:
    """What the stages made, and why they ran."""

    reason: str
    message: str  # the reason and how each node ended, for the run's final state
    recorded: provenance.RecordedInputs | None


@flow(name="retrain", validate_parameters=True, on_failure=[notify.on_failure])
def retrain(
    corpus: str = "",
    overrides: dict[str, Any] = {},  # noqa: B006 - never changed; the UI's form shows it as an empty object
    force: bool = False,
    promote: Literal["promote", "evaluate only"] = "promote",
    needs_approval: Literal["as in params.yaml", "yes", "no"] = _AS_IN_PARAMS,
    reason: Annotated[str, Field(max_length=500)] = "",
) -> State[None]:
    """Retrain if there is a reason, and promote the candidate if it is better than the champion.

    One run at a time works in the folder: while another run, or somebody's `dvc repro`, uses it, this run ends as
    Busy. A run without a reason ends as NothingNew within seconds.

    Args:
        corpus: The file to train on in this run, in place of data.path in params.yaml. Empty: data.path.
        overrides: Values of params.yaml for this run alone, by key: {"finetune.epochs": 1, "evaluate.seed": 7}. They
            are checked like the file itself; afterwards the file is as it was.
        force: Run every stage, even if nothing changed.
        promote: Whether a candidate that passes the verdict becomes the champion, or is only trained and evaluated.
        needs_approval: Whether a person must approve the promotion: yes, no, or what retrain.needs_approval says.
        reason: Why you start this run, in a sentence; it is kept in the registry's history (at most 500 characters).
    """
    stages.end_with_worker()
    hide_failed_run_tracebacks()
    log = get_run_logger()
    try:
        if _has_newer_slot():
            return Cancelled(name="Missed", message="a newer slot of the schedule is due, and one run catches up")
        with _claim(), param_overrides.applied_overrides(ROOT, _changes(corpus, overrides), log.warning):
            trained = _train(force, reason)
            if promote == "evaluate only":
                _write_artifacts(None)
                return Completed(message=trained.message)
            decision: Decision = _result(_judge(return_state=True))
            asks = params.load().retrain.needs_approval if needs_approval == _AS_IN_PARAMS else needs_approval == "yes"
            if not (asks and decision.verdict.promoted):
                return _finish(decision, trained, trained.reason)
        return _finish_with_approval(decision, trained)
    except _Ended as end:
        return end.state
    except workspace.Busy as busy:
        # Cancelled, as Prefect itself ends a run beyond a deployment's limit: neither a success nor a failure that
        # somebody must look at, and not the "last successful run".
        return Cancelled(name="Busy", message=f"gave way: {busy}")
    except UserError as error:
        return Failed(message=str(error))


def _finish_with_approval(decision: "Decision", trained: _Trained) -> State[None]:
    """Ask a person, then do what the answer says; the workspace is free meanwhile, for it may take a day."""
    from flows.runtime import approval

    log = get_run_logger()
    config = params.load().retrain
    candidate = short(decision.verdict.candidate["version"])
    body = f"candidate {candidate}\n{runs.run_url(flow_run.id)}"
    notify.notify("a promotion waits for approval", body, block=config.notify, log=log.warning)
    _write_artifacts(decision)  # before the question, for whoever answers
    runs.rename(f"WAITS for approval: {trained.reason}")
    answer = approval.request_approval(decision, config, log.info)
    runs.rename(trained.reason)
    with _claim():
        if not answer.approved:
            decision = approval.with_rejection(decision, answer)
        return _finish(decision, trained, f"{trained.reason}; {answer}", who=answer.by)


def _claim() -> AbstractContextManager[None]:
    return workspace.claim(ROOT, f"the retraining {flow_run.name}", CLAIM_TIMEOUT)


def _has_newer_slot() -> bool:
    """Whether a later slot of the schedule that started this run is due as well, as after an outage."""
    slot, now = flow_run.scheduled_start_time, datetime.now(UTC)
    if "auto-scheduled" not in flow_run.tags or slot is None or (now - slot).total_seconds() < _MAX_DELAY:
        return False
    due = FlowRunFilterExpectedStartTime.model_validate({"after_": slot, "before_": now})
    scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    with get_client(sync_client=True) as client:
        later = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(expected_start_time=due, state=scheduled),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[flow_run.deployment_id])),
        )
    return any(run.auto_scheduled and str(run.id) != flow_run.id for run in later)


def _changes(corpus: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return all changes of params.yaml, of which the corpus is one."""
    if not corpus:
        return overrides
    if clash := {"data", "data.path"} & dict(param_overrides.flatten(overrides)).keys():
        raise UserError(f"found a corpus and an override of {clash.pop()}; give one of them")
    return {**overrides, "data.path": corpus}


def _train(force: bool, reason: str) -> _Trained:
    """Run the stages if there is a reason to; raises _Ended with NothingNew if there is none."""
    log = get_run_logger()
    remove_stale_rwlock(ROOT)
    trigger = triggers.find_reason(ROOT, triggers.run_origin(flow_run.tags, reason or None))
    runs.rename(trigger.sentence)
    log.info("why: %s", trigger.sentence)
    if not (trigger.run or force):
        raise _Ended(Completed(name="NothingNew", message=trigger.sentence))
    return _run_stages(force, trigger.sentence, log.warning)


def _run_stages(force: bool, reason: str, log: Callable[[str], None]) -> _Trained:
    """Run DVC's nodes one after the other; raises _Ended with the state of the first that does not complete."""
    config = params.load().retrain
    minutes = config.minutes.model_dump(by_alias=True)
    nodes = pipeline_nodes(ROOT)
    states: dict[str, State[Any]] = {}

    def run(node: Node) -> None:
        stage = stages.stage(node, config.retries, config.retry_seconds)
        upstream = [states[name] for name in node.after if name in states]
        state: State[Any] = stage(node.name, force, minutes.get(node.name), return_state=True, wait_for=upstream)
        states[node.name] = state
        if not state.is_completed():
            raise _Ended(Failed(name=state.name or "Failed", message=state.message))

    for node in nodes:
        if node.is_data:
            run(node)
    recorded = provenance.record_inputs(ROOT, reason, log)
    with provenance.export_revision(recorded):
        for node in nodes:
            if not node.is_data:
                run(node)
    return _Trained(reason, f"{reason}. {_summary(states)}", recorded)


@task(name="verdict", task_run_name="verdict", cache_policy=NO_CACHE, persist_result=False)
def _judge() -> State[Any]:
    """Compare the candidate with the champion."""
    from pipeline import promote
    from pipeline.verdict import rendering

    try:
        decision = promote.decide(params.load(), Registry(ROOT))
    except UserError as error:
        return Failed(message=str(error))
    name = "Yes" if decision.verdict.promoted else "No"
    return Completed(name=name, message=rendering.summary(decision.verdict), data=decision)


@task(name="promotion", task_run_name="promotion", cache_policy=NO_CACHE, persist_result=False)
def _carry_out(decision: "Decision", why: str, who: str | None) -> State[Any]:
    """Do what the verdict says; the result is the new version, if there is one."""
    from pipeline import promote

    try:
        version = promote.carry_out(decision, why=why, who=who)
    except UserError as error:
        return Failed(message=str(error))
    return Completed(message=f"the champion is {short(version.tag)}" if version else "the champion stays", data=version)


def _result(state: State[Any]) -> Any:
    """Return a task's result; raises _Ended with its message if it did not complete."""
    if not state.is_completed():
        raise _Ended(Failed(message=state.message))
    return state.result()


def _finish(decision: "Decision", trained: _Trained, why: str, who: str | None = None) -> State[None]:
    """Carry the verdict out, record and show it, pack the bento if `retrain.bento` says so; return the run's state."""
    from pipeline.verdict import rendering

    log = get_run_logger()
    version: Version | None = _result(_carry_out(decision, why, who, return_state=True))
    summary = rendering.summary(decision.verdict)
    trailers = {
        "Version": version.version if version else decision.verdict.candidate["version"],
        "Verdict": "promoted" if version else "not promoted",
        "Prefect-Run": flow_run.id,
    }
    provenance.record_result(ROOT, trained.recorded, summary, trailers, log.warning)
    _write_artifacts(decision)
    if version and params.load().retrain.bento:
        _result(_pack(version.version, return_state=True))
    return Completed(name="Promoted" if version else "NotPromoted", message=f"{trained.message}. {summary}")


def _write_artifacts(decision: "Decision | None") -> None:
    from flows.runtime import artifacts

    service = os.environ.get("SERVICE_URL")  # `fresh up` sets it
    artifacts.write_all(decision, get_run_logger().warning, registry=Registry(ROOT), service=service)


@task(name="bento", task_run_name="bento", cache_policy=NO_CACHE)
def _pack(version: str) -> State[None]:
    """Pack the new champion as a bento with the same version."""
    command = [sys.executable, "-m", "cli", "pack", version]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        return Failed(message=f"the version was promoted, but could not be packed as a bento: {_last_line(result)}")
    return Completed(message=_last_line(result))


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = f"{result.stderr}\n{result.stdout}".split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing").removeprefix("error: ")


def _summary(states: Mapping[str, State[Any]]) -> str:
    """Return in one line which nodes ran, which were restored from DVC's run cache, and which were unchanged."""
    labels = {"Completed": "ran", "Cached": "from DVC's run cache", "Skipped": "unchanged"}
    parts = []
    for name, label in labels.items():
        nodes = [node for node, state in states.items() if state.name == name]
        if nodes:
            parts.append(f"{label}: {', '.join(nodes)}")
    return "; ".join(parts)
