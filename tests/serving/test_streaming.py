"""Server-sent events, over the whole service and over an engine whose tokens the test scripts."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serving import app as app_module
from serving import errors, streaming
from serving.engines.protocol import EngineError
from serving.model_folder import ModelFolder
from serving.model_loader import LoadedModel
from tests.serving.conftest import DATA, PROMPT, service_settings
from tests.serving.test_generation import ScriptedEngine, run

PRIVATE = "the prompt that nobody may log"


def events(body: str) -> list[Any]:
    """Return what a client reads: objects, `[DONE]`, and errors as (error, object)."""
    read: list[Any] = []
    assert body.endswith("\n\n")
    for block in body[:-2].split("\n\n"):
        *kind, data = block.split("\n")
        assert data.startswith("data: ")
        content = data[6:] if data == "data: [DONE]" else json.loads(data[6:])
        read.append((kind[0], content) if kind else content)
    return read


@pytest.mark.parametrize("body", [{}, {"max_new_tokens": 32, "top_k": 0, "temperature": 3}, {"stop": ["e", "the"]}])
def test_a_joined_stream_equals_the_answer_without_streaming(client: TestClient, body: dict[str, Any]) -> None:
    body = {"prompt": PROMPT, "max_new_tokens": 16, "seed": 1, **body}
    whole = client.post("/generate", json=body)
    streamed = client.post("/generate", json={**body, "stream": True})
    assert streamed.headers["content-type"].split(";")[0] == "text/event-stream"
    *texts, last, done = events(streamed.text)
    assert done == "[DONE]"
    assert all(list(text) == ["text"] and text["text"] for text in texts)
    assert last["text"] == ""
    assert {**last, "text": "".join(text["text"] for text in texts)} == whole.json()
    for name in ("X-Model-Version", "X-Data-Hash", "X-Seed", "X-Engine", "X-Prompt-Tokens"):
        assert streamed.headers[name] == whole.headers[name], name


def test_unicode_line_ends_survive_a_stream_read_line_by_line() -> None:
    event = {"text": "a\N{LINE SEPARATOR}b\N{PARAGRAPH SEPARATOR}c\N{NEXT LINE}d\x0b\x0c\x1c\x1d\x1e\N{SNOWMAN}"}
    data, empty = streaming.encode_event(event).decode().splitlines()
    assert json.loads(data.removeprefix("data: ")) == event
    assert empty == ""


def test_headers_repeat_the_body(client: TestClient) -> None:
    response = client.post("/generate", json={"prompt": PROMPT, "max_new_tokens": 8})
    answer = response.json()
    assert response.headers["X-Model-Version"] == answer["model"]
    assert response.headers["X-Data-Hash"] == answer["data"] == DATA
    assert response.headers["X-Seed"] == str(answer["seed"])
    assert response.headers["X-Engine"] == answer["engine"]
    assert response.headers["X-Prompt-Tokens"] == str(answer["usage"]["prompt_tokens"])
    assert response.headers["X-Completion-Tokens"] == str(answer["usage"]["completion_tokens"])


def test_an_error_before_the_first_token_has_a_status(client: TestClient) -> None:
    refused = client.post("/generate", json={"prompt": PROMPT, "max_new_tokens": 64, "stream": True})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"


class FakeServedModel:
    """One model that is always available, and counts its leases."""

    status, folder, refusal, swaps = "up", None, None, 0

    def __init__(self, engine: ScriptedEngine) -> None:
        self.loaded = LoadedModel(engine, "v1", None, ModelFolder(Path(), "a test"), "champion")
        self.leases = 0

    @asynccontextmanager
    async def acquire(self, name: str | None = None) -> Any:
        self.leases += 1
        try:
            yield self.loaded
        finally:
            self.leases -= 1

    def names(self) -> list[str]:
        return ["champion"]


class Call:
    """A request to the app as a server passes it on, whose client may disconnect."""

    def __init__(self, app: Any, **body: Any) -> None:
        self.started: dict[str, Any] = {}
        self.body = b""
        self._sent = asyncio.Event()
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        content = json.dumps({"prompt": PRIVATE, "max_new_tokens": 16, **body}).encode()
        self._messages.put_nowait({"type": "http.request", "body": content})
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "path": "/generate", "raw_path": b"/generate", "query_string": b"", "root_path": "", "scheme": "http",
            "headers": [(b"content-type", b"application/json")], "client": ("test", 1), "server": ("test", 80),
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._messages.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.started = message
        else:
            self.body += message["body"]
        self._sent.set()

    async def reads(self, text: str) -> None:
        """Wait until `text` was sent."""
        while text.encode() not in self.body:
            self._sent.clear()
            await self._sent.wait()

    def disconnects(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return int(self.started["status"])


@pytest.fixture
def engine(tiny_gpt2: Path) -> ScriptedEngine:
    return ScriptedEngine(tiny_gpt2)


@pytest.fixture
def served(engine: ScriptedEngine) -> FakeServedModel:
    return FakeServedModel(engine)


def make_app(served: FakeServedModel, **limits: Any) -> Any:
    make: Any = app_module.make_app
    app: FastAPI = make("causal_lm", served, service_settings(**limits))
    return errors.ErrorFormatMiddleware(app)


@pytest.fixture
def app(served: FakeServedModel) -> Any:
    return make_app(served)


async def submitted(engine: ScriptedEngine) -> None:
    """Wait until the engine has a request."""
    while not engine.prompt:
        await asyncio.sleep(0)


def test_each_token_is_sent_as_soon_as_it_is_generated(
    app: Any, engine: ScriptedEngine, served: FakeServedModel
) -> None:
    async def listen() -> None:
        call = Call(app, stream=True)
        await submitted(engine)
        assert not call.started
        for word in ("the", " quick", " fox"):
            engine.write(word)
            await call.reads(json.dumps({"text": word}, separators=(",", ":")))
        engine.stream.end("length")
        await call.task
        assert events(call.body.decode())[-1] == "[DONE]"
        assert served.leases == 0

    run(listen)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [[], ["the"]])
def test_a_disconnect_frees_engine_and_model_at_once(
    app: Any, engine: ScriptedEngine, served: FakeServedModel, stream: bool, words: list[str]
) -> None:
    async def leave() -> None:
        call = Call(app, stream=stream)
        await submitted(engine)
        for word in words:
            engine.write(word)
        if stream and words:
            await call.reads("the")
        await asyncio.sleep(0.01)
        assert not engine.stream.cancelled
        assert served.leases == 1
        call.disconnects()
        await asyncio.wait_for(call.task, 1)
        assert engine.stream.cancelled
        assert served.leases == 0

    run(leave)


def test_a_request_cancelled_by_the_server_frees_engine_and_model(
    app: Any, engine: ScriptedEngine, served: FakeServedModel
) -> None:
    async def give_up() -> None:
        for stream in (False, True):
            call = Call(app, stream=stream)
            await submitted(engine)
            await asyncio.sleep(0.01)
            call.task.cancel()
            await asyncio.wait({call.task})
            assert engine.stream.cancelled
            assert served.leases == 0
            engine.prompt = ()

    run(give_up)


@pytest.mark.parametrize(
    ("fail", "status", "code"),
    [
        (lambda engine: engine.stream.end(None, EngineError("out of memory")), 500, "engine_error"),
        (lambda _: None, 504, "timeout"),
        (lambda engine: engine.stream.push(PRIVATE), 500, "internal_server_error"),
    ],
    ids=["engine", "time", "crash"],
)
@pytest.mark.parametrize("words", [[], ["the"]])
def test_a_failure_is_a_status_before_the_first_token_and_an_error_event_after_it(
    engine: ScriptedEngine,
    served: FakeServedModel,
    words: list[str],
    fail: Callable[[ScriptedEngine], Awaitable[None]],
    status: int,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(served, first_token_seconds=0.2, timeout=0.2)
    monkeypatch.setattr(logging.getLogger("bentoml"), "propagate", True)

    async def listen() -> None:
        call = Call(app, stream=True)
        await submitted(engine)
        for word in words:
            engine.write(word)
            await call.reads(word)
        fail(engine)
        await call.task
        if words:
            assert call.status == 200
            *_, (kind, content) = events(call.body.decode())
            assert kind == "event: error"
        else:
            assert call.status == status
            content = json.loads(call.body)
        assert list(content["error"]) == ["message", "type", "param", "code"]
        assert content["error"]["code"] == code
        assert PRIVATE not in call.body.decode() + caplog.text
        assert engine.stream.cancelled
        assert served.leases == 0

    run(listen)


def test_a_client_that_does_not_read_is_cut_off(
    engine: ScriptedEngine, served: FakeServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(served, timeout=0.1)
    monkeypatch.setattr(streaming, "GRACE_SECONDS", 0.1)

    async def hang(message: Any) -> None:
        await asyncio.Event().wait()

    async def unread() -> None:
        monkeypatch.setattr(Call, "_send", lambda _, message: hang(message))
        call = Call(app, stream=True)
        await submitted(engine)
        engine.write("the")
        await asyncio.wait_for(call.task, 2)
        assert engine.stream.cancelled
        assert served.leases == 0

    run(unread)


def test_without_a_first_token_in_time_it_is_504(engine: ScriptedEngine, served: FakeServedModel) -> None:
    app = make_app(served, first_token_seconds=0.05)

    async def wait() -> None:
        call = Call(app)
        await call.task
        assert call.status == 504
        assert engine.stream.cancelled

    run(wait)
