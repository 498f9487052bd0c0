"""The time limit of a request: it ends slow ones, and keeps nothing of those that are over."""

import asyncio
import gc
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

import tests.serving.conftest  # noqa: F401 - sets PROMETHEUS_MULTIPROC_DIR before bentoml is imported
from serving.request_timeout import RequestTimeoutMiddleware


@pytest.mark.parametrize("times_out", [False, True])
def test_nothing_of_a_request_is_kept_after_it(times_out: bool) -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if times_out:
            await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.02)  # a stream goes on for longer than the limit
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> int:
        before = set(map(id, _timers()))
        await RequestTimeoutMiddleware(app, 0.01 if times_out else 3600)({"type": "http"}, receive, send)
        gc.collect()
        return len([timer for timer in _timers() if id(timer) not in before])

    assert asyncio.run(run()) == 0
    assert sent[0]["status"] == (504 if times_out else 200)


def _timers() -> list[asyncio.TimerHandle]:
    scheduled: Any = asyncio.get_running_loop()
    return [timer for timer in scheduled._scheduled if not timer.cancelled()]


def test_the_service_uses_it_in_place_of_bentomls(client: TestClient) -> None:
    import service

    the_service: Any = service.ModelService
    layer: Any = the_service.to_asgi()
    layers = set()
    while layer is not None:
        layers.add(type(layer).__name__)
        layers |= {one.cls.__name__ for one in getattr(layer, "user_middleware", [])}
        layer = getattr(layer, "_app", None) or getattr(layer, "app", None)
    assert "RequestTimeoutMiddleware" in layers
    assert "TimeoutMiddleware" not in layers
