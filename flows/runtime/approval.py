"""A person's approval of a promotion, through a form in Prefect's UI.

Neither of Prefect's own ways to wait (3.8.8) fits. `suspend_flow_run` ends the process and starts the flow anew when it
is resumed, which goes through the deployment's concurrency limit again. `pause_flow_run` gives up the deployment's
concurrency lease, without which the engine ends the run within minutes. So the question is a run of its own within the
retraining's process: `approval`, without a deployment and hence without a lease. The retraining stays Running and keeps
its slot. If the process is killed, the next run judges the same candidate and asks again.
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
from prefect.states import Cancelled, Paused
from pydantic import Field, ValidationError

from flows.runtime import artifacts, prefect_internals, runs, samples
from flows.runtime.artifacts import safe_verdict
from pipeline import params
from pipeline.promote import Decision

POLL_SECONDS = 5.0  # between two reads of the question's state
_FLOW = "approval"
_FORM_SAMPLES, _FORM_CHARACTERS = 3, 600  # samples in the form, and characters of each text; the artifact has all
_SERVER_LIMIT = timedelta(hours=1)  # after our own time limit, the server closes a question whose process is gone
_PERSON = "a person in Prefect's UI"

Default = Literal["approve", "reject"]


@dataclass(frozen=True)
class Answer:
    """The decision, who made it, and why."""

    approved: bool
    by: str
    comment: str

    def __str__(self) -> str:
        """Return the answer in one line, for the history and the log."""
        text = f"{'approved' if self.approved else 'rejected'} by {self.by}"
        return f"{text}: {self.comment}" if self.comment else text


class ApprovalForm(RunInput):
    """The form that the UI shows."""

    decision: Literal["approve", "reject"] = Field(description="approve: the candidate becomes the champion")
    name: str = Field(default="", max_length=100, description="Who decides; kept in the registry's history")
    comment: str = Field(default="", max_length=500, description="Why; kept in the registry's history")


def request_approval(decision: Decision, config: params.Retrain, log: Callable[[str], None]) -> Answer:
    """Ask a person in Prefect's UI whether the candidate may become the champion, and return the answer.

    Call it in a flow and without the claim on the workspace, so that others can work there meanwhile; `carry_out`
    detects a candidate or champion that was replaced. Cancelling the question rejects the candidate.

    Args:
        decision: The verdict to approve.
        config: Says how long to wait, and which answer applies after that.
        log: Called with the request and the answer.
    """
    _cancel_orphaned_questions()
    hours, default = config.approval_hours, config.approval_default
    log(f"waiting up to {hours:g} hours for approval; without an answer the decision is: {default}")
    version = decision.verdict.candidate["version"]
    answer: Answer = _ask(version, safe_verdict(decision.verdict), hours, default)
    log(str(answer))
    return answer


def with_rejection(decision: Decision, answer: Answer) -> Decision:
    """Return the decision with its verdict turned into the person's rejection."""
    reasons = [f"It was {answer}.", *decision.verdict.reasons]
    return replace(decision, verdict=replace(decision.verdict, promoted=False, reasons=reasons))


@flow(name=_FLOW, flow_run_name="WAITS for approval: {version}", persist_result=False, validate_parameters=False)
def _ask(version: str, question: str, hours: float, default: Default) -> Answer:
    """Show the form on this run's page and wait until it is submitted.

    Args:
        version: The candidate's version.
        question: The verdict, as Markdown.
        hours: How long to wait.
        default: The answer after that.
    """
    outcome = "ended without an answer"
    try:
        answer = _wait(version, question, hours, default)
        outcome = str(answer)
        return answer
    finally:
        runs.rename(f"approval of {version}: {outcome}")  # its first name says that it waits


def _wait(version: str, question: str, hours: float, default: Default) -> Answer:
    """Pause the current run with the form, and return the answer of a person or of the time limit."""
    deadline = time.time() + 3600 * hours  # wall-clock time: a suspended machine does not stop it
    run_id = UUID(flow_run.id)
    paused: State[None] = Paused(timeout_seconds=int(3600 * hours + _SERVER_LIMIT.total_seconds()), pause_key=version)
    keys = keyset_from_paused_state(paused)
    paused.state_details.run_input_keyset = cast(dict[str, str], keys)
    form = _form(question, hours, default, str(run_id))
    with get_client(sync_client=True) as client:
        form.save(keys, flow_run_id=run_id)  # before the pause: the server accepts no answer without the form
        prefect_internals.propose_state(client, paused, run_id)
        result = _poll(client, run_id, deadline, default)
        if result == "timed out":
            return Answer(default == "approve", f"the time limit of {hours:g} hours", "nobody answered")
        if isinstance(result, Answer):
            return result
        try:
            filled = cast(ApprovalForm, ApprovalForm.load(keys, flow_run_id=run_id))
        except ValidationError:
            return Answer(False, _PERSON, "the run was resumed without the form")
    name = " ".join(filled.name.split())
    by = f"{name} (in Prefect's UI)" if name else _PERSON
    return Answer(filled.decision == "approve", by, " ".join(filled.comment.split()))


def _form(question: str, hours: float, default: Default, run_id: str) -> type[ApprovalForm]:
    """Return the form with its description; all samples are in an artifact to which the description links."""
    page = _publish(question)
    get_run_logger().info("to answer, press Resume on %s; verdict and samples: %s", runs.run_url(run_id), page)
    shown = f"{samples.markdown(samples.pairs()[:_FORM_SAMPLES], _FORM_CHARACTERS)}\n[All samples, uncut]({page})"
    limit = f"The answer is **{default}** if there is none within {hours:g} hours."
    return ApprovalForm.with_initial_data(description=f"{question}\n\n{shown}\n\n{limit}")


def _poll(
    client: SyncPrefectClient, run_id: UUID, deadline: float, default: Default
) -> Answer | Literal["submitted", "timed out"]:
    """Wait until the question is answered, cancelled or out of time; a server that is away changes nothing."""
    is_away = timed_out = False
    while True:
        try:
            state = client.read_flow_run(run_id).state
            if state is not None and state.is_running():
                return "timed out" if timed_out else "submitted"
            if state is not None and (state.is_final() or state.is_cancelling()):
                return Answer(False, _PERSON, f"the question was ended as {state.name}")
            if time.time() >= deadline and not timed_out:
                # Resume it as the UI does, so that the server decides whether a person or the time limit was first.
                response = client.resume_flow_run(run_id, run_input={"decision": default})
                timed_out = response.status == SetStateStatus.ACCEPT
                continue
            is_away = False
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if not is_away:
                get_run_logger().warning(
                    "Prefect's server did not answer (%s); the question stays open", type(error).__name__
                )
            is_away = True
        time.sleep(max(0.1, min(POLL_SECONDS, deadline - time.time())) if not is_away else POLL_SECONDS)


def _publish(question: str) -> str:
    """Write the verdict, links and all samples as an artifact of this run; return the address of its page."""
    links = artifacts.link_lines(os.environ.get("SERVICE_URL"))  # `fresh up` sets it
    markdown = f"{question}\n\n## Links\n\n{links}\n\n## Samples\n\n{samples.markdown(samples.pairs())}"
    return runs.artifact_url(create_markdown_artifact(markdown, "approval", "The promotion to approve"))


def _cancel_orphaned_questions() -> None:
    """Cancel questions whose retraining has ended, because it was killed for instance."""
    open_states = FlowRunFilterStateType(any_=[StateType.PAUSED, StateType.RUNNING])
    with get_client(sync_client=True) as client:
        for question in client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[_FLOW])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=open_states)),
        ):
            parent = _parent(client, question)
            if parent and parent.state and parent.state.is_final():
                message = f"the run that asked, {parent.name}, has ended; the next run asks again"
                cancelled: State[None] = Cancelled(message=message)
                client.set_flow_run_state(question.id, cancelled, force=True)


def _parent(client: SyncPrefectClient, run: FlowRun) -> FlowRun | None:
    """Return the run that started `run`; None if it was deleted from the server."""
    if run.parent_task_run_id is None:
        return None
    try:
        task = client.read_task_run(run.parent_task_run_id)
        return client.read_flow_run(task.flow_run_id) if task.flow_run_id else None
    except ObjectNotFound:
        return None
