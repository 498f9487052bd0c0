"""Notices, sent to a local HTTP server through blocks on a real Prefect server."""

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
    """A local HTTP server and the JSON that it received."""

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
    """Return the names of blocks that post to `inbox`, by type."""
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
def test_each_kind_of_block_sends_a_notice(blocks: dict[str, str], inbox: Inbox, kind: str) -> None:
    logged: list[str] = []
    assert notify.notify("red-fox failed", "validate: line 3", block=blocks[kind], log=logged.append)
    (received,) = inbox.received
    subject, body = received.get("subject", received.get("title")), received.get("body", received.get("message"))
    assert (subject, body) == ("red-fox failed", "validate: line 3")
    assert logged == []


def test_none_sends_and_logs_nothing(inbox: Inbox) -> None:
    logged: list[str] = []
    assert not notify.notify("a", "b", block="none", log=logged.append)
    assert (inbox.received, logged) == ([], [])


@pytest.mark.parametrize("kind", ["custom-webhook", "slack-webhook", "webhook"])
def test_a_refused_notice_logs_one_line_without_the_address(
    blocks: dict[str, str], inbox: Inbox, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.answer = 404
    logged: list[str] = []
    assert not notify.notify("a", "b", block=blocks[kind], log=logged.append)
    assert len(inbox.received) == 1
    assert len(logged) == 1
    assert logged[0].startswith(f"retrain.notify: no notice was sent through {blocks[kind]}: ")
    assert "T0KEN" not in logged[0] + caplog.text


def test_unusable_blocks_are_logged_and_never_raise(blocks: dict[str, str], inbox: Inbox) -> None:
    logged: list[str] = []
    inbox.server.shutdown()
    inbox.server.server_close()
    for block in (blocks["custom-webhook"], blocks["secret"], "slack-webhook/missing", "nonsense", "no-such-type/x"):
        assert not notify.notify("a", "b", block=block, log=logged.append)
    assert len(logged) == 5
    assert "ConnectError" in logged[0]
    assert "a Secret sends no notices; use slack-webhook" in logged[1]
    assert "missing" in logged[2]


def test_a_failed_run_sends_stage_line_and_page_but_no_corpus_text(
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


def test_a_failed_run_ends_as_failed_without_its_notice(
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


def test_redacted_lines_have_a_maximum_length() -> None:
    assert notify.redact_line("x" * 10_000) == "x" * 500 + " …"
    assert notify.redact_line("column 'text' is not there") == "column 'text' is not there"
    assert notify.redact_line("") == ""


def automations(prefect: Prefect) -> list[str]:
    """Return the names of the server's automations for crash notices; other tests add triggers."""
    return [one["name"] for one in prefect.post("automations/filter") if one["name"] == "tell when a run crashed"]


def crash(prefect: Prefect, name: str) -> dict[str, Any]:
    """Create a crashed run of the flow `name`; return it."""
    run: dict[str, Any] = prefect.post("flow_runs/", flow_id=prefect.post("flows/", name=name)["id"])
    for state in ({"type": "RUNNING"}, {"type": "CRASHED", "message": 'its "process" is gone'}):
        prefect.post(f"flow_runs/{run['id']}/set_state", state=state, force=True)
    return run


@pytest.mark.parametrize("kind", ["custom-webhook", "webhook"])
def test_the_server_sends_one_notice_for_each_crashed_run(
    prefect: Prefect, blocks: dict[str, str], inbox: Inbox, kind: str
) -> None:
    logged: list[str] = []
    notify.crash_notice_automation(blocks[kind], ["mine"], logged.append)
    notify.crash_notice_automation(blocks[kind], ["mine"], logged.append)
    assert len(automations(prefect)) == 1
    own_runs: dict[str, str] = {}

    def is_told() -> bool:  # the server takes a moment to listen for it
        crash(prefect, "somebody-elses")
        run = crash(prefect, "mine")
        own_runs[f"{run['name']} crashed"] = run["id"]
        return within(10, lambda: bool(inbox.received))

    assert within(300, is_told)
    subjects = [notice["subject"] for notice in inbox.received]
    assert own_runs.keys() >= set(subjects)
    assert len(subjects) == len(set(subjects))
    line, page = inbox.received[0]["body"].splitlines()
    assert line == 'its "process" is gone'
    assert page.endswith(f"/runs/flow-run/{own_runs[subjects[0]]}")
    assert logged == []
    notify.crash_notice_automation("none", ["mine"], logged.append)
    assert automations(prefect) == []


def test_a_missing_block_makes_no_automation_and_is_logged(prefect: Prefect, blocks: dict[str, str]) -> None:
    logged: list[str] = []
    for block in ("slack-webhook/missing", "nonsense", "no-such-type/x"):
        notify.crash_notice_automation(block, ["mine"], logged.append)
    assert automations(prefect) == []
    assert len(logged) == 3
    assert "create it in the UI under Blocks" in logged[0]
