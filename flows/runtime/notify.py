"""Notices through the Prefect block that `retrain.notify` names: Slack, e-mail, a webhook.

A notice names the stage, the line that explains the failure, and the run's page. It holds no text of the corpus:
personal data and keys are redacted and long quotations left out. A notice that cannot be sent is a line in the log.

`on_failure` is a hook for runs that fail. A killed run executes no hook, so `crash_notice_automation` makes the server
send those notices.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast

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

from flows.runtime.runs import run_url
from pipeline import escape, params
from pipeline.command import UserError
from pipeline.redaction import redact

NONE = "none"
_MAX_LINE = 500  # characters
_LONG_QUOTATION = re.compile(r"(?P<mark>['\"]).{41,}?(?P=mark)")  # longer than names of columns, files and settings
_WEBHOOK = "webhook"  # the one usable block that is no notification block: it posts JSON
_AUTOMATION = "tell when a run crashed"


def notify(subject: str, body: str, *, block: str, log: Callable[[str], None]) -> bool:
    """Send a notice and return whether it was sent; never raises.

    Args:
        subject: The first line.
        body: The rest.
        block: A value of `retrain.notify`.
        log: Called with a sentence if the notice was not sent. It contains neither the address nor the response, which
            may hold secrets: the address of a Slack webhook is one.
    """
    if block == NONE:
        return False
    try:
        _send(Block.load(block), subject, body)
    except ValueError as error:  # Prefect's message for a block that does not exist, or a name without a slash
        log(f"retrain.notify: no notice was sent through {block}: {str(error).splitlines()[0]}")
    except httpx.HTTPStatusError as error:
        log(f"retrain.notify: no notice was sent through {block}: the response was {error.response.status_code}")
    except Exception as error:  # blocks raise whatever their libraries raise; a run must not fail for a notice
        log(f"retrain.notify: no notice was sent through {block}: {type(error).__name__}")
    else:
        return True
    return False


def on_failure(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - Prefect's names
    """Send a notice about a failed run; a hook for `@flow(on_failure=[...])`."""
    log = flow_run_logger(flow_run).warning
    try:
        block = params.load().retrain.notify
    except UserError as error:
        log(f"no notice was sent: {error}")
        return
    notify(*failure_notice(flow_run.name, state, run_url(str(flow_run.id))), block=block, log=log)


def failure_notice(run: str, state: State[Any], page: str) -> tuple[str, str]:
    """Return subject and body of the notice about a failed run, whose state's message is "stage: line"."""
    outcome = "failed" if state.name == "Failed" else f"ended as {state.name}"
    return f"{run} {outcome}", f"{redact_line(state.message or 'no reason was given')}\n{page}"


def redact_line(text: str) -> str:
    """Return the first line of `text`, at most 500 characters, without personal data, keys and long quotations."""
    first = escape.terminal(next(iter(redact(text).strip().splitlines()), ""))
    line = _LONG_QUOTATION.sub("\N{HORIZONTAL ELLIPSIS}", first)
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]} \N{HORIZONTAL ELLIPSIS}"


def crash_notice_automation(block: str, flows: list[str], log: Callable[[str], None]) -> None:
    """Make the server send a notice for each crashed run; there is at most one such automation.

    Call it when the server is up, and again after `retrain.notify` changed. Raises what Prefect's client raises if the
    server does not answer.

    Args:
        block: A value of `retrain.notify`; "none" removes the automation.
        flows: The names of the flows.
        log: Called with a sentence if the block does not exist.
    """
    with get_client(sync_client=True) as client:
        existing = client.read_automations_by_name(_AUTOMATION)
        automation = None if block == NONE else _automation(client, block, flows, log)
        for superfluous in existing[1 if automation else 0 :]:
            client.delete_automation(superfluous.id)
        if automation and existing:
            client.update_automation(existing[0].id, automation)
        elif automation:
            client.create_automation(automation)


def _automation(
    client: SyncPrefectClient, block: str, flows: list[str], log: Callable[[str], None]
) -> AutomationCore | None:
    kind, _, name = block.partition("/")
    if not kind or not name:
        log(f"retrain.notify: {block}: expected none, or a block's type and name, such as slack-webhook/NAME")
        return None
    try:
        document = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        log(f"retrain.notify: the server has no block {block}; create it in the UI under Blocks")
        return None
    # Unlike the message of a failure, a crash's is never text of the corpus: the server, Prefect's engine or
    # flows.runtime.zombie_runs writes it.
    subject, body = 'flow_run.name ~ " crashed"', 'flow_run.state.message|truncate(300) ~ "\\n" ~ flow_run|ui_url'
    action: CallWebhook | SendNotification
    if kind == _WEBHOOK:
        payload = f'{{{{ {{"subject": {subject}, "body": {body}}}|tojson }}}}'
        action = CallWebhook(block_document_id=document.id, payload=payload)
    else:
        action = SendNotification(
            block_document_id=document.id, subject=f"{{{{ {subject} }}}}", body=f"{{{{ {body} }}}}"
        )
    return AutomationCore(
        name=_AUTOMATION,
        description="Made by `fresh up` for retrain.notify in params.yaml: a killed run cannot send a notice itself.",
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
        asyncio.run(_call(block, {"subject": subject, "body": body}))
        return
    if not isinstance(block, NotificationBlock):
        raise ValueError(
            f"a {type(block).__name__} sends no notices; use slack-webhook, custom-webhook, sendgrid-email"
        )
    with block.raise_on_failure():
        cast(Any, block).notify(body, subject)  # a coroutine only within asynchronous flows


async def _call(block: Webhook, payload: dict[str, str]) -> None:
    response = await block.call(payload)
    response.raise_for_status()
