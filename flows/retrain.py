"""The flow `retrain`: DVC's stages, the verdict on what they made, the promotion. It runs in the project's folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
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
from flows.runtime import overrides as overriding
from pipeline import params, workspace
from pipeline.command import UserError
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version

if TYPE_CHECKING:  # at run time it brings pandas and more along, which a run without news can do without
    from pipeline.promote import Decision

ROOT = Path()  # a deployment's working folder; DVC's messages and the stages' paths are relative to it
_AS_IN_PARAMS: Final = "as in params.yaml"
_PATIENCE = 60.0  # seconds to wait for the folder: a look of the watch takes some
_LATE = 600.0  # seconds: a run that starts later than that after its slot was held up by an outage


class _Ended(Exception):  # noqa: N818 - it never leaves this module
    """The run ends here, in this state."""

    def __init__(self, state: State[None]) -> None:
        self.state = state


@flow(name="retrain", validate_parameters=True, on_failure=[notify.on_failure])
def retrain(
    corpus: str = "",
    overrides: dict[str, Any] = {},  # noqa: B006 - never changed; the UI's form shows an empty object, to be filled in
    force: bool = False,
    promote: Literal["promote", "evaluate only"] = "promote",
    needs_approval: Literal["as in params.yaml", "yes", "no"] = _AS_IN_PARAMS,
    reason: Annotated[str, Field(max_length=500)] = "",
) -> State[None]:
    """Retrain if there is a reason, and promote the candidate if it is better than the champion.

    At most one run works in the folder: a run that finds another one (or somebody's `dvc repro`) at work gives way and
    ends as Busy. One that finds no reason ends as NothingNew within seconds.

    Args:
        corpus: The file to train on in this run, in place of data.path in params.yaml. Empty: data.path.
        overrides: Values of params.yaml for this run alone, by key: {"finetune.epochs": 1, "evaluate.seed": 7}. They
            are checked like the file itself; afterwards the file is as it was.
        force: Run every stage, also where nothing changed.
        promote: Whether a candidate that passes the verdict becomes the champion, or is only made and measured.
        needs_approval: Whether a person must approve the promotion: yes, no, or what retrain.needs_approval says.
        reason: Why you start this run, in a sentence; it is kept in the registry's history (at most 500 characters).
    """
    stages.end_with_worker()
    runs.end_without_traceback()
    log = get_run_logger()
    try:
        if _newer_slot_is_due():
            return Cancelled(name="Missed", message="a newer slot of the schedule is due, and one run catches up")
        with _claimed(), overriding.applied_overrides(ROOT, _changes(corpus, overrides), log.warning):
            stages.free_locks(ROOT)
            why = triggers.find_reason(ROOT, **triggers.run_origin(flow_run.tags, reason or None))
            runs.rename(why.sentence)
            log.info("why: %s", why.sentence)
            if not (why.run or force):
                return Completed(name="NothingNew", message=why.sentence)
            ended, recorded = _run_stages(force, why.sentence, log.warning)
            message = f"{why.sentence}. {_summary(ended)}"
            if promote == "evaluate only":
                _show(None)
                return Completed(message=message)
            decision: Decision = _result(_judge(return_state=True))
            asks = params.load().retrain.needs_approval if needs_approval == _AS_IN_PARAMS else needs_approval == "yes"
            if not (asks and decision.verdict.promoted):
                return _end(decision, recorded, why.sentence, message)
        # A person may take a day, so the folder is free meanwhile; `carry_out` finds out if the candidate was replaced.
        from flows.runtime import approval

        wanted = params.load().retrain
        asked = f"candidate {short(decision.verdict.candidate['version'])}\n{notify.run_url(flow_run.id)}"
        notify.notify("a promotion waits for approval", asked, block=wanted.notify, log=log.warning)
        _show(decision)  # before the question: whoever answers sees what it is about
        runs.rename(f"WAITS for approval: {why.sentence}")
        answer = approval.request_approval(decision, wanted, log.info)
        runs.rename(why.sentence)
        with _claimed():
            decided = decision if answer.approved else approval.with_rejection(decision, answer)
            return _end(decided, recorded, f"{why.sentence}; {answer}", message, who=answer.by)
    except _Ended as end:
        return end.state
    except workspace.Busy as busy:
        # As Prefect itself ends a run that a deployment's limit keeps out: grey, neither a success nor a failure that
        # somebody must look at, and with no part in "last successful run".
        return Cancelled(name="Busy", message=f"gave way: {busy}")
    except UserError as error:
        return Failed(message=str(error))


def _claimed() -> AbstractContextManager[None]:
    return workspace.claim(ROOT, f"the retraining {flow_run.name}", _PATIENCE)


def _newer_slot_is_due() -> bool:
    """Tell whether the schedule that started this run has a later slot that is due as well, as after an outage."""
    slot, now = flow_run.scheduled_start_time, datetime.now(UTC)
    if "auto-scheduled" not in flow_run.tags or slot is None or (now - slot).total_seconds() < _LATE:
        return False
    due = FlowRunFilterExpectedStartTime.model_validate({"after_": slot, "before_": now})
    waiting = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    with get_client(sync_client=True) as client:
        later = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(expected_start_time=due, state=waiting),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[flow_run.deployment_id])),
        )
    return any(run.auto_scheduled and str(run.id) != flow_run.id for run in later)


def _changes(corpus: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return all changes of params.yaml; the corpus is one."""
    if not corpus:
        return overrides
    if clash := {"data", "data.path"} & dict(overriding.flatten(overrides)).keys():
        raise UserError(f"found a corpus and an override of {clash.pop()}; give one of them")
    return {**overrides, "data.path": corpus}


def _run_stages(
    force: bool, why: str, say: Callable[[str], None]
) -> tuple[dict[str, State[Any]], provenance.RecordedInputs | None]:
    """Run DVC's nodes one after the other; return how each ended, and where their inputs are recorded.

    Raises _Ended with the state of the first that does not complete.
    """
    wanted = params.load().retrain
    minutes = wanted.minutes.model_dump(by_alias=True)
    nodes = stages.graph(ROOT)
    ended: dict[str, State[Any]] = {}

    def run(some: list[stages.Node]) -> None:
        for node in some:
            stage = stages.stage(node, wanted.retries, wanted.retry_seconds)
            upstream = [ended[name] for name in node.after if name in ended]
            state: State[Any] = stage(node.name, force, minutes.get(node.name), return_state=True, wait_for=upstream)
            ended[node.name] = state
            if not state.is_completed():
                raise _Ended(Failed(name=state.name or "Failed", message=state.message))

    run([node for node in nodes if node.is_data])
    recorded = provenance.record_inputs(ROOT, why, say)
    with provenance.export_revision(recorded):
        run([node for node in nodes if not node.is_data])
    return ended, recorded


@task(name="verdict", task_run_name="verdict", cache_policy=NO_CACHE, persist_result=False)
def _judge() -> State[Any]:
    """Compare the candidate with the champion."""
    from pipeline import promote
    from pipeline.verdict import rendering

    try:
        decision = promote.decide(params.load(), Registry(ROOT))
    except UserError as error:
        return Failed(message=str(error))
    said = rendering.summary(decision.verdict)
    return Completed(name="Yes" if decision.verdict.promoted else "No", message=said, data=decision)


@task(name="promotion", task_run_name="promotion", cache_policy=NO_CACHE, persist_result=False)
def _carry_out(decision: "Decision", why: str, who: str | None) -> State[Any]:
    """Do what the verdict says, and return the new version, if there is one."""
    from pipeline import promote

    try:
        new = promote.carry_out(decision, why=why, who=who)
    except UserError as error:
        return Failed(message=str(error))
    return Completed(message=f"the champion is {short(new.tag)}" if new else "the champion stays", data=new)


def _result(state: State[Any]) -> Any:
    """Return what a task returned; raises _Ended, with its sentence, where it did not complete."""
    if not state.is_completed():
        raise _Ended(Failed(message=state.message))
    return state.result()


def _end(
    decision: "Decision", recorded: provenance.RecordedInputs | None, why: str, message: str, who: str | None = None
) -> State[None]:
    """Carry the verdict out, record and show it, pack the bento where that is asked for; return the run's state."""
    from pipeline.verdict import rendering

    log = get_run_logger()
    new: Version | None = _result(_carry_out(decision, why, who, return_state=True))
    said = rendering.summary(decision.verdict)
    trailers = {
        "Version": new.version if new else decision.verdict.candidate["version"],
        "Verdict": "promoted" if new else "not promoted",
        "Prefect-Run": flow_run.id,
    }
    provenance.record_result(ROOT, recorded, said, trailers, log.warning)
    _show(decision)
    if new and params.load().retrain.bento:
        _result(_pack(new.version, return_state=True))
    return Completed(name="Promoted" if new else "NotPromoted", message=f"{message}. {said}")


def _show(decision: "Decision | None") -> None:
    from flows.runtime import artifacts

    service = os.environ.get("SERVICE_URL")  # of `make up`
    artifacts.write_all(decision, get_run_logger().warning, registry=Registry(ROOT), service=service)


@task(name="bento", task_run_name="bento", cache_policy=NO_CACHE)
def _pack(version: str) -> State[None]:
    """Pack this version, which has just become the champion, as a bento of the same name; once."""
    command = [sys.executable, "-m", "serving.pack", version]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        return Failed(message=f"the version was promoted, but no bento could be made of it: {_last_line(done)}")
    return Completed(message=_last_line(done))


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = f"{done.stderr}\n{done.stdout}".split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it ended without a word").removeprefix("error: ")


def _summary(ended: Mapping[str, State[Any]]) -> str:
    """Return which nodes ran, came from DVC's cache, were skipped, in one line."""
    words = {"Completed": "ran", "Cached": "from DVC's run cache", "Skipped": "unchanged"}
    parts = []
    for name, word in words.items():
        nodes = [node for node, state in ended.items() if state.name == name]
        if nodes:
            parts.append(f"{word}: {', '.join(nodes)}")
    return "; ".join(parts)
