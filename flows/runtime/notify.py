"""Notices of what somebody should look at: through the Prefect block that `retrain.notify` names, to Slack, e-mail, ...

A notice names the stage, the line that matters and the run's page. It holds no text of the corpus: what looks like
personal data or a key is struck out, long quotations are left out. A notice that cannot be sent is a line in the log.

`on_failure` is for runs that fail; a killed one runs nothing any more, so for these the server has an automation, see
`crash_notice_automation`.
"""

import re
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.events.actions import CallWebhook, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.urls import url_for

from pipeline import escape, params
from pipeline.command import UserError
from pipeline.redaction import redact

NONE = "none"
_LONGEST = 500  # characters of the line that matters
_QUOTED = re.compile(r"(?P<mark>['\"]).{41,}?(?P=mark)")  # longer than names of columns, files and settings are
_WEBHOOK = "webhook"  # the only block that is no notification block and can be used: it posts JSON
_AUTOMATION = "tell when a run crashed"


def notify(subject: str, body: str, *, block: str, log: Callable[[str], None]) -> bool:
    """Send a notice through `block`, a value of `retrain.notify`; return whether it went out. Never raises.

    `log` gets a sentence where it did not. It names neither the address nor what the other side said: both may hold
    secrets, as the address of a Slack webhook does.
    """
    if block == NONE:
        return False
    try:
        _send(Block.load(block), subject, body)
    except ValueError as error:  # Prefect's words for a block that is not there, or a name without a slash
        log(f"retrain.notify: no notice was sent through {block}: {str(error).splitlines()[0]}")
    except httpx.HTTPStatusError as error:
        log(f"retrain.notify: no notice was sent through {block}: it answered {error.response.status_code}")
    except Exception as error:  # blocks raise what their libraries do; a run must not fail for want of a notice
        log(f"retrain.notify: no notice was sent through {block}: {type(error).__name__}")
    else:
        return True
    return False


def on_failure(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - Prefect's names
    """Tell of a run that failed; a hook for `@flow(on_failure=[...])`."""
    log = flow_run_logger(flow_run).warning
    try:
        wanted = params.load().retrain.notify
    except UserError as error:
        log(f"no notice was sent: {error}")
        return
    notify(*failure_notice(flow_run.name, state, run_url(str(flow_run.id))), block=wanted, log=log)


def failure_notice(run: str, state: State[Any], page: str) -> tuple[str, str]:
    """Return subject and body of the notice on a failed run; its state's message is "stage: the line that matters"."""
    how = "failed" if state.name == "Failed" else f"ended as {state.name}"
    return f"{run} {how}", f"{redact_line(state.message or 'it gave no reason')}\n{page}"


def redact_line(line: str) -> str:
    """Return the first line of `line` without personal data, keys, long quotations, and of bounded length."""
    first = escape.terminal(next(iter(redact(line).strip().splitlines()), ""))
    said = _QUOTED.sub("\N{HORIZONTAL ELLIPSIS}", first)
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} \N{HORIZONTAL ELLIPSIS}"


def run_url(run: str) -> str:
    """Return the address of a run's page in the UI, for its id."""
    return url_for("flow-run", obj_id=UUID(run)) or ""


def crash_notice_automation(block: str, flows: list[str], log: Callable[[str], None]) -> None:
    """Have the server tell through `block` of each run of `flows` that crashed; with "none", of none.

    To be called when the server is up, and again after `retrain.notify` changed: there is at most one such automation.
    `log` gets a sentence where the block is not there. Raises what Prefect's client raises where the server is not.
    """
    with get_client(sync_client=True) as client:
        there = client.read_automations_by_name(_AUTOMATION)
        wanted = None if block == NONE else _automation(client, block, flows, log)
        for superfluous in there[1 if wanted else 0 :]:
            client.delete_automation(superfluous.id)
        if wanted and there:
            client.update_automation(there[0].id, wanted)
        elif wanted:
            client.create_automation(wanted)


def _automation(
    client: SyncPrefectClient, block: str, flows: list[str], log: Callable[[str], None]
) -> AutomationCore | None:
    kind, _, name = block.partition("/")
    if not kind or not name:
        log(f"retrain.notify: found {block}; expected none, or a block's type and name, as in slack-webhook/NAME")
        return None
    try:
        found = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        log(f"retrain.notify: found {block}, but the server has no such block; make it in the UI under Blocks")
        return None
    # Not a failure's message, which may be anything: a crash's is the server's, the engine's or that of
    # flows.runtime.zombie_runs.
    subject, body = 'flow_run.name ~ " crashed"', 'flow_run.state.message|truncate(300) ~ "\\n" ~ flow_run|ui_url'
    action: CallWebhook | SendNotification
    if kind == _WEBHOOK:
        payload = f'{{{{ {{"subject": {subject}, "body": {body}}}|tojson }}}}'
        action = CallWebhook(block_document_id=found.id, payload=payload)
    else:
        action = SendNotification(block_document_id=found.id, subject=f"{{{{ {subject} }}}}", body=f"{{{{ {body} }}}}")
    return AutomationCore(
        name=_AUTOMATION,
        description="Of `make up`, for retrain.notify in params.yaml: a run that was killed cannot tell of it itself.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": flows},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[action],
    )


def _send(block: Any, subject: str, body: str) -> None:
    if isinstance(block, Webhook):
        answer: Any = run_coro_as_sync(block.call({"subject": subject, "body": body}))
        answer.raise_for_status()
        return
    if not isinstance(block, NotificationBlock):
        raise ValueError(f"a {type(block).__name__} cannot notify; take slack-webhook, custom-webhook, sendgrid-email")
    with block.raise_on_failure():
        cast(Any, block).notify(body, subject)  # a coroutine in asynchronous flows alone
