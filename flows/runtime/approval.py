"""A person's word before a promotion: the run asks in Prefect's UI and waits for the form to be filled in.

Of Prefect's two ways to wait neither does by itself (3.8.8, read and seen):

- `suspend_flow_run` ends the process and starts the flow from its beginning when it is resumed. That needs a deployment
  and a worker, goes through the deployment's limit again (CANCEL_NEW then cancels the run together with the answer),
  would train anew on rows that came meanwhile, and after the time limit nobody is there to do what the default says:
  the server declares the run failed.
- `pause_flow_run` keeps the process, but pausing a run takes its deployment's concurrency lease away, and the engine,
  at its next renewal after at most 225 s, ends a run that has none. Its time limit is the server's too, which races it
  in declaring the run failed; a server that is away for a minute ends it; and it does not hear that it was cancelled.

So the question is a run of its own, `approval`, within the retraining and in its process. It has no deployment, hence
no lease, and is what is paused; the retraining stays Running, keeps its lease, and so keeps the next one from replacing
the candidate meanwhile. Should the process die, the candidate is still in its folder, not yet promoted or refused by
the history, so the next run judges it and asks again.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal, cast
from uuid import UUID

import httpx
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.input import RunInput, keyset_from_paused_state
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL
from prefect.states import Cancelled, Paused
from prefect.utilities.engine import propose_state_sync
from pydantic import Field, ValidationError

from flows.runtime import artifacts, runs, samples
from flows.runtime.artifacts import safe_verdict
from flows.runtime.notify import run_url
from pipeline import params
from pipeline.promote import Decision

_NAME = "approval"
_PAIRS, _LONGEST = 3, 600  # samples in the form, and characters of a text there; the artifact has all
_POLL = 5.0  # seconds between two looks for the answer
_AFTER = timedelta(hours=1)  # how long after our own time limit the server closes a question whose process is gone
_PERSON = "a person in Prefect's UI"


@dataclass(frozen=True)
class Answer:
    """What was decided, by whom, and why."""

    approved: bool
    by: str
    comment: str

    def __str__(self) -> str:
        """Return the answer in one line, for the history and the log."""
        said = f"{'approved' if self.approved else 'rejected'} by {self.by}"
        return f"{said}: {self.comment}" if self.comment else said


class ApprovalForm(RunInput):
    """What the UI asks the person."""

    decision: Literal["approve", "reject"] = Field(description="approve: the candidate becomes the champion")
    name: str = Field(default="", max_length=100, description="Who decides; it is kept in the registry's history")
    comment: str = Field(default="", max_length=500, description="Why; likewise")


def request_approval(decision: Decision, wanted: params.Retrain, log: Callable[[str], None]) -> Answer:
    """Ask a person in Prefect's UI whether the candidate may become the champion, and return the answer.

    Waits `wanted.approval_hours`; what `wanted.approval_default` says is the answer then. Whether to ask at all is the
    caller's to know. To be called in a flow, without the claim on the workspace: others may work there meanwhile, and
    `carry_out` finds out if they replaced the candidate or the champion. A question that was cancelled is a rejection.
    """
    _close_left()
    hours = wanted.approval_hours
    log(f"asks for approval and waits up to {hours:g} hours for it; then the answer is: {wanted.approval_default}")
    version = decision.verdict.candidate["version"]
    answer: Answer = _ask(version, safe_verdict(decision.verdict), hours, wanted.approval_default)
    log(str(answer))
    return answer


def with_rejection(decision: Decision, answer: Answer) -> Decision:
    """Return the decision with the answer's rejection as its verdict, for `carry_out` to put on record."""
    reasons = [f"It was {answer}.", *decision.verdict.reasons]
    return replace(decision, verdict=replace(decision.verdict, promoted=False, reasons=reasons))


@flow(name=_NAME, flow_run_name="WAITS for approval: {version}", persist_result=False, validate_parameters=False)
def _ask(version: str, question: str, hours: float, default: Literal["approve", "reject"]) -> Answer:
    """Show the form on this run's page, and wait for it to be sent.

    Args:
        version: The candidate's.
        question: The verdict.
        hours: How long to wait.
        default: The answer after that.
    """
    ended = "ended without an answer"
    try:
        answer = _wait(version, question, hours, default)
        ended = str(answer)
        return answer
    finally:
        runs.rename(f"approval of {version}: {ended}")  # it waits no longer


def _wait(version: str, question: str, hours: float, default: Literal["approve", "reject"]) -> Answer:
    """Pause the current run with the form, and return what a person, or the time limit, answers."""
    log = get_run_logger()
    deadline = time.time() + 3600 * hours  # of the clock on the wall: a machine that sleeps does not stop it
    run_id = UUID(flow_run.id)
    paused: State[None] = Paused(timeout_seconds=int(3600 * hours + _AFTER.total_seconds()), pause_key=version)
    keys = keyset_from_paused_state(paused)
    paused.state_details.run_input_keyset = cast(dict[str, str], keys)
    limit = f"The answer is **{default}** if there is none within {hours:g} hours."
    page = _publish(question)
    shown = f"{samples.markdown(samples.pairs()[:_PAIRS], _LONGEST)}\n[All samples, uncut]({page})"
    form = ApprovalForm.with_initial_data(description=f"{question}\n\n{shown}\n\n{limit}")
    log.info("answer by the button Resume of this page: %s; what it is about: %s", run_url(str(run_id)), page)
    with get_client(sync_client=True) as client:
        form.save(keys, flow_run_id=run_id)  # first: the server accepts no answer without it
        state: State[None] = propose_state_sync(client, paused, flow_run_id=run_id)
        was_away, ran_out = False, False
        while True:
            try:
                state = client.read_flow_run(run_id).state or state
                if state.is_running():
                    break
                if state.is_final() or state.is_cancelling():
                    return Answer(False, _PERSON, f"the question was ended as {state.name}")
                if time.time() >= deadline and not ran_out:
                    # As the UI does it, so that the server knows which was first, a person or the time limit.
                    given = client.resume_flow_run(run_id, run_input={"decision": default})
                    ran_out = given.status == SetStateStatus.ACCEPT
                    continue
                was_away = False
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if not was_away:
                    log.warning("Prefect's server did not answer (%s); the question stands", type(error).__name__)
                was_away = True
            time.sleep(max(0.1, min(_POLL, deadline - time.time())) if not was_away else _POLL)
        if ran_out:
            return Answer(default == "approve", f"the time limit of {hours:g} hours", "nobody answered")
        try:
            filled = cast(ApprovalForm, ApprovalForm.load(keys, flow_run_id=run_id))
        except ValidationError:
            return Answer(False, _PERSON, "the run was resumed without the form")
    by = " ".join(filled.name.split())
    return Answer(
        filled.decision == "approve", f"{by} (in Prefect's UI)" if by else _PERSON, " ".join(filled.comment.split())
    )


def _publish(question: str) -> str:
    """Show verdict, addresses and all samples, uncut, as an artifact of this run; return the artifact's page."""
    service = os.environ.get("SERVICE_URL")  # of `make up`
    links = artifacts.link_lines(service)
    markdown = f"{question}\n\n## Links\n\n{links}\n\n## Samples\n\n{samples.markdown(samples.pairs())}"
    made = create_markdown_artifact(markdown, "approval", "What the question of approval is about")
    return f"{str(PREFECT_UI_URL.value()).rstrip('/')}/artifacts/artifact/{made}"


def _close_left() -> None:
    """Cancel questions of runs that have ended, killed for instance: nobody hears their answer."""
    open_ = FlowRunFilterStateType(any_=[StateType.PAUSED, StateType.RUNNING])
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[_NAME])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=open_)),
        ):
            asked = _parent(client, run)
            if asked and asked.state and asked.state.is_final():
                ended: State[None] = Cancelled(message=f"{asked.name}, which asked, has ended; the next run asks again")
                client.set_flow_run_state(run.id, ended, force=True)


def _parent(client: SyncPrefectClient, run: FlowRun) -> FlowRun | None:
    """Return the run that asked, None where it is gone from the server."""
    if run.parent_task_run_id is None:
        return None
    try:
        task = client.read_task_run(run.parent_task_run_id)
        return client.read_flow_run(task.flow_run_id) if task.flow_run_id else None
    except ObjectNotFound:
        return None
