"""Notices, sent to a real HTTP server on this machine through blocks that a real Prefect server keeps."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prefect import flow
from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.blocks.system import Secret
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import State
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed
from pydantic import SecretStr

from flows.runtime import notify
from tests.conftest import Workspace
from tests.flows.conftest import Prefect, within

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),  # importing apprise
]


@pytest.fixture(autouse=True, scope="module")
def logs_are_sent(prefect: Prefect) -> Iterator[None]:
    """Send what Prefect logs while its server is still there."""
    yield
    APILogHandler().flush()


class Inbox:
    """What a server on this machine was sent."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.answer = 200
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                inbox.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(inbox.answer)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.server.shutdown()
    inbox.server.server_close()


@pytest.fixture
def blocks(prefect: Prefect, inbox: Inbox) -> Iterator[dict[str, str]]:
    """Return the names of blocks that lead to the inbox, by their kind."""
    name = f"inbox-{time.time_ns()}"
    secret = "T0KEN"  # noqa: S105 - of no use
    made: dict[str, Block] = {
        "custom-webhook": CustomWebhookNotificationBlock(  # type: ignore[call-arg]  # its headers have a default
            name=name, url=f"http://{inbox.address}/{secret}", json_data={"subject": "{{subject}}", "body": "{{body}}"}
        ),
        # A Slack block sends through apprise, whose address of plain JSON this is.
        "slack-webhook": SlackWebhook(url=SecretStr(f"json://{inbox.address}/{secret}")),
        "webhook": Webhook(url=SecretStr(f"http://{inbox.address}/{secret}")),
        "secret": Secret(value=SecretStr("x")),
    }
    with temporary_settings({PREFECT_API_URL: prefect.environment["PREFECT_API_URL"]}):
        for block in made.values():
            block.save(name)
        yield {kind: f"{kind}/{name}" for kind in made}


@pytest.mark.parametrize("kind", ["custom-webhook", "slack-webhook", "webhook"])
def test_a_notice_goes_through_each_kind_of_block(blocks: dict[str, str], inbox: Inbox, kind: str) -> None:
    said: list[str] = []
    assert notify.notify("red-fox failed", "validate: line 3", block=blocks[kind], log=said.append)
    (received,) = inbox.received
    subject, body = received.get("subject", received.get("title")), received.get("body", received.get("message"))
    assert (subject, body) == ("red-fox failed", "validate: line 3")
    assert said == []


def test_none_sends_nothing_and_says_nothing(inbox: Inbox) -> None:
    said: list[str] = []
    assert not notify.notify("a", "b", block="none", log=said.append)
    assert (inbox.received, said) == ([], [])


@pytest.mark.parametrize("kind", ["custom-webhook", "slack-webhook", "webhook"])
def test_a_refusal_is_one_line_in_the_log_without_the_address(
    blocks: dict[str, str], inbox: Inbox, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.answer = 404
    said: list[str] = []
    assert not notify.notify("a", "b", block=blocks[kind], log=said.append)
    assert len(inbox.received) == 1
    assert len(said) == 1
    assert said[0].startswith(f"retrain.notify: no notice was sent through {blocks[kind]}: ")
    assert "T0KEN" not in said[0] + caplog.text


def test_what_cannot_be_sent_to_is_said_and_never_raised(blocks: dict[str, str], inbox: Inbox) -> None:
    said: list[str] = []
    inbox.server.shutdown()
    inbox.server.server_close()
    for block in (blocks["custom-webhook"], blocks["secret"], "slack-webhook/missing", "nonsense", "no-such-type/x"):
        assert not notify.notify("a", "b", block=block, log=said.append)
    assert len(said) == 5
    assert "ConnectError" in said[0]
    assert "a Secret sends no notices; use slack-webhook" in said[1]
    assert "missing" in said[2]


def test_a_run_that_fails_tells_the_stage_the_line_and_its_page_but_no_text_of_the_corpus(
    prefect: Prefect, blocks: dict[str, str], inbox: Inbox, workspace: Workspace
) -> None:
    workspace.set(retrain__notify=blocks["custom-webhook"])
    text = "Once upon a time there was a king who could not find his golden crown."

    @flow(name="fails", on_failure=[notify.on_failure])
    def fails() -> State[None]:
        return Failed(message=f"validate: line 3 has '{text}', of jane.doe@example.org; mend it\n  File x\n{text}")

    run = fails(return_state=True).state_details.flow_run_id
    (received,) = inbox.received
    line, page = received["body"].splitlines()
    assert received["subject"].endswith(" failed")
    assert line == "validate: line 3 has …, of [email]; mend it"
    assert page.startswith("http://")
    assert page.endswith(f"/runs/flow-run/{run}")


def test_a_run_that_fails_ends_as_failed_also_where_no_notice_can_be_sent(
    prefect: Prefect, blocks: dict[str, str], workspace: Workspace
) -> None:
    workspace.set(retrain__notify="slack-webhook/missing")

    @flow(name="fails", on_failure=[notify.on_failure])
    def fails() -> State[None]:
        return Failed(name="TimedOut", message="finetune took longer than 3 minutes")

    run = str(fails(return_state=True).state_details.flow_run_id)
    assert prefect.state(run)["name"] == "TimedOut"
    assert any("no notice was sent through slack-webhook/missing" in line for line in prefect.logs(run))
    (workspace.folder / "params.yaml").write_text("nonsense: 1")
    assert fails(return_state=True).name == "TimedOut"


def test_lines_are_bounded() -> None:
    assert notify.redact_line("x" * 10_000) == "x" * 500 + " …"
    assert notify.redact_line("column 'text' is not there") == "column 'text' is not there"
    assert notify.redact_line("") == ""


def automations(prefect: Prefect) -> list[str]:
    """Return the names of those of the server that tell of crashes; other tests deploy triggers to it."""
    return [one["name"] for one in prefect.post("automations/filter") if one["name"] == "tell when a run crashed"]


def crash(prefect: Prefect, name: str) -> dict[str, Any]:
    """Have a run of the flow `name` crash; return the run."""
    run: dict[str, Any] = prefect.post("flow_runs/", flow_id=prefect.post("flows/", name=name)["id"])
    for state in ({"type": "RUNNING"}, {"type": "CRASHED", "message": 'its "process" is gone'}):
        prefect.post(f"flow_runs/{run['id']}/set_state", state=state, force=True)
    return run


@pytest.mark.parametrize("kind", ["custom-webhook", "webhook"])
def test_the_server_tells_of_a_run_that_was_killed(
    prefect: Prefect, blocks: dict[str, str], inbox: Inbox, kind: str
) -> None:
    said: list[str] = []
    notify.crash_notice_automation(blocks[kind], ["mine"], said.append)
    notify.crash_notice_automation(blocks[kind], ["mine"], said.append)
    assert len(automations(prefect)) == 1
    mine: dict[str, str] = {}

    def is_told() -> bool:  # the server takes a moment to listen for it
        crash(prefect, "somebody-elses")
        run = crash(prefect, "mine")
        mine[f"{run['name']} crashed"] = run["id"]
        return within(10, lambda: bool(inbox.received))

    assert within(300, is_told)
    told = [notice["subject"] for notice in inbox.received]
    assert mine.keys() >= set(told)
    assert len(told) == len(set(told))
    line, page = inbox.received[0]["body"].splitlines()
    assert line == 'its "process" is gone'
    assert page.endswith(f"/runs/flow-run/{mine[told[0]]}")
    assert said == []
    notify.crash_notice_automation("none", ["mine"], said.append)
    assert automations(prefect) == []


def test_a_block_that_is_not_there_makes_no_automation_and_is_said(prefect: Prefect, blocks: dict[str, str]) -> None:
    said: list[str] = []
    for block in ("slack-webhook/missing", "nonsense", "no-such-type/x"):
        notify.crash_notice_automation(block, ["mine"], said.append)
    assert automations(prefect) == []
    assert len(said) == 3
    assert "create it in the UI under Blocks" in said[0]
