"""Metrics, request ids, logs and traces: what they contain, and what they must not."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from fastapi import APIRouter, FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import metrics, telemetry
from serving.bentoml_internals import BentoMLContainer

SECRET = "my-secret-path"  # noqa: S105 - of a made-up request


def value(name: str, **labels: str) -> float:
    """Return a metric's value in this process."""
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value(f"gpt2_{name}", labels) or 0.0


class PathRecorder:
    """Stands where BentoML's metrics, log and spans do: records the paths that they see."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.seen: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.seen.append((scope["path"], scope["query_string"]))
        await self.app(scope, receive, send)


@pytest.fixture
def recorder() -> PathRecorder:
    app = FastAPI()
    inner = APIRouter()

    @inner.get("/models/{name:path}")
    async def model(name: str, request: Request) -> str:
        return f"{name} {request.query_params} {telemetry.request_id()}"

    app.include_router(inner, prefix="/v1")

    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.url.path)

    static = Mount("/static_content", PlainTextResponse("a file"))
    routes = [Route("/livez", endpoint), static, Mount("/", app)]
    starlette = Starlette(routes=routes)
    return PathRecorder(telemetry.RestorePathMiddleware(starlette))


@pytest.fixture
def http(recorder: PathRecorder) -> TestClient:
    starlette: Any = recorder.app
    return TestClient(telemetry.TelemetryMiddleware(recorder, starlette._app.routes))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The lines of the access log."""
    monkeypatch.setattr(logging.getLogger("bentoml"), "propagate", True)
    caplog.set_level(logging.INFO, telemetry.logger.name)
    return caplog


# Paths


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (f"/v1/models/{SECRET}/b", "/v1/models/{name}"),
        ("/livez", "/livez"),
        (f"/static_content/{SECRET}.css", "/static_content/{path}"),
        (f"/{SECRET}", "/{unmatched}"),
        (f"/v1/models/%0A{SECRET}", "/{unmatched}"),
    ],
)
def test_metrics_log_and_spans_see_the_route_and_never_the_path(
    recorder: PathRecorder, http: TestClient, log: pytest.LogCaptureFixture, path: str, route: str
) -> None:
    http.get(f"{path}?key={SECRET}")
    assert recorder.seen == [(route, b"")]
    assert SECRET not in log.text


def test_a_wrong_method_is_counted_by_its_route(recorder: PathRecorder, http: TestClient) -> None:
    assert http.delete("/v1/models/a").status_code == 405
    assert recorder.seen == [("/v1/models/{name}", b"")]


def test_the_routes_themselves_see_the_path_and_have_no_query_to_parse(http: TestClient) -> None:
    answer = http.get("/v1/models/a%20b/c?x=1", headers={"X-Request-Id": "mine"})
    assert answer.json() == "a b/c  mine"


# Request ids and the log


@pytest.mark.parametrize("valid_id", ["a", "3f2c-11", "trace/1:2=3+4@host_5.6", "x" * 64])
def test_a_valid_id_of_the_caller_is_kept(http: TestClient, valid_id: str) -> None:
    assert http.get("/livez", headers={"X-Request-Id": valid_id}).headers["x-request-id"] == valid_id


@pytest.mark.parametrize("insane", ["", "x" * 65, "a b", "é", '{"a"}', "-x"])
def test_any_other_id_is_replaced_by_a_new_one(http: TestClient, insane: str) -> None:
    given = {"X-Request-Id": insane.encode("latin-1")}
    made = {http.get("/nothing", headers=given).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert insane not in made


def test_each_request_but_a_probe_has_one_line_in_the_log(http: TestClient, log: pytest.LogCaptureFixture) -> None:
    http.get("/livez")
    http.get("/nothing")
    (record,) = [record for record in log.records if record.name == telemetry.logger.name]
    fields: dict[str, Any] = vars(record)["fields"]
    assert (fields["method"], fields["route"], fields["status"]) == ("GET", "/{unmatched}", 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"baggage": f"{SECRET} without a value"},
        {"baggage": f"={SECRET}"},
        {"baggage": f"{SECRET}é=1".encode("latin-1")},
        {"baggage": SECRET * 1000},
        {"baggage": f"{SECRET}={'x' * 5000}"},
        {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": f"{SECRET} without a value"},
        dict.fromkeys(("traceparent", "cookie", "user-agent", "content-type", "referer", "x-forwarded-for"), SECRET),
    ],
)
def test_no_header_is_in_the_log(
    client: TestClient, log: pytest.LogCaptureFixture, headers: dict[str, str | bytes]
) -> None:
    client.get("/health", headers={name: s if isinstance(s, bytes) else s.encode() for name, s in headers.items()})
    assert "GET /health 200" in log.text
    assert SECRET not in log.text


def test_with_log_format_json_each_line_is_an_object_with_the_request_s_id() -> None:
    program = """
import logging
from bentoml._internal.log import configure_server_logging
configure_server_logging()
from serving import logs, telemetry
logs.configure_logging()
telemetry.current.set(telemetry.RequestContext("id-1"))
logging.getLogger("bentoml.serving").info("two\\nlines", extra={"fields": {"status": 200}})
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("other").exception("failed")
"""
    lines = _run(program, LOG_FORMAT="json").splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first["message"] == "two\nlines"
    assert (first["level"], first["request_id"], first["status"]) == ("info", "id-1", 200)
    assert "ZeroDivisionError" in second["exception"]
    assert "(request=id-1)" in _run(program)


def _run(program: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


# Metrics


def test_a_text_is_waiting_until_its_first_token_then_running_until_its_end() -> None:
    names = ("texts_waiting", "texts_running", "prompt_tokens_total", "completion_tokens_total")
    before = [value(name) for name in names]

    def change() -> list[float]:
        return [value(name) - was for name, was in zip(names, before, strict=True)]

    ended, first = value("texts_total", end="stop"), value("first_token_seconds_count")
    span = metrics.GenerationSpan("v1", 7)
    assert change() == [1, 0, 7, 0]
    span.add_tokens(0)  # a piece that only ends a character
    assert change() == [1, 0, 7, 0]
    span.add_tokens(1)
    assert change() == [0, 1, 7, 0]
    span.add_tokens(2)
    span.end("stop")
    span.end("error")
    assert change() == [0, 0, 7, 3]
    assert value("texts_total", end="stop") == ended + 1
    assert value("first_token_seconds_count") == first + 1
    metrics.GenerationSpan("v1", 0).end("cancelled")
    assert change() == [0, 0, 7, 3]


def test_a_swap_is_counted_and_only_the_served_version_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.service_metrics(), "served", None)
    before = _shown()  # by other tests of this process
    swaps, refusals = value("swaps_total"), value("swap_refusals_total")
    metrics.record_served_model("one", "int8")
    assert value("swaps_total") == swaps
    metrics.count_refused_swap()
    assert (value("swap_refused"), value("swap_refusals_total")) == (1, refusals + 1)
    metrics.record_served_model("one", "int8")  # the pointer went back
    assert (value("swap_refused"), value("swaps_total")) == (0, swaps)
    metrics.record_served_model("two", "int8")
    assert value("swaps_total") == swaps + 1
    assert _shown() - before == {'gpt2_model_info{engine="int8",version="two"} 1.0'}


def _shown() -> set[str]:
    """Return the versions that are shown as served."""
    return {line for line in _exposition().splitlines() if line.startswith("gpt2_model_info{")}


def _exposition() -> str:
    """Return what /metrics answers: BentoML's own text, through TelemetryMiddleware."""

    async def metrics(_: Request) -> PlainTextResponse:
        return PlainTextResponse(BentoMLContainer.metrics_client.get().generate_latest())

    routes = [Route("/metrics", metrics)]
    answer = TestClient(telemetry.TelemetryMiddleware(Starlette(routes=routes), list(routes))).get("/metrics")
    assert int(answer.headers["content-length"]) == len(answer.content)
    return answer.text


def test_codes_of_refusals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.service_metrics(), "error_codes", set())
    for number in range(metrics.MAX_ERROR_CODES + 5):
        metrics.count_error(400, f"made_up_{number}")
    assert value("refusals_total", status="400", code="other") == 5


def test_metrics_of_workers_add_up_without_those_of_killed_ones(tmp_path: Path) -> None:
    program = """
import os, signal
from serving import metrics
metrics.record_served_model("v", "int8")
metrics.GenerationSpan("v", 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    shown = """
from serving import metrics, telemetry
from serving.bentoml_internals import BentoMLContainer
metrics.service_metrics()
async def app(scope, receive, send): pass
if {forget}: telemetry.TelemetryMiddleware(app, [])
print(BentoMLContainer.metrics_client.get().generate_latest().decode())
"""
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            _run(program, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    before = _run(shown.format(forget=False), PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    assert "gpt2_texts_waiting 2.0" in before
    assert 'gpt2_model_info{engine="int8",version="v"} 2.0' in before
    after = _run(shown.format(forget=True), PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    assert "gpt2_prompt_tokens_total 6.0" in after
    assert "gpt2_texts_waiting 0.0" in after
    assert 'version="v"} 2.0' not in after


# Traces


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that BentoML's provider was given."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(BentoMLContainer.tracer_provider, "get", lambda: provider)
    return kept


def test_the_service_makes_one_span_a_request_and_none_for_each_message_of_it(
    client: TestClient, spans: InMemorySpanExporter
) -> None:
    import service

    the_service: Any = service.ModelService
    # `client` has loaded its model, and registered its metrics.
    again = TestClient(the_service.to_asgi(), "http://localhost")
    body = {"prompt": "a", "max_new_tokens": 5, "stream": True}
    with BentoMLContainer.metrics_client.patch(MagicMock()), again.stream("POST", "/generate", json=body) as answer:
        assert len(list(answer.iter_lines())) > 5
    assert [span.name for span in spans.get_finished_spans()] == ["text_completion", "POST /generate"]


def test_the_span_of_a_generation_has_version_and_tokens_and_belongs_to_its_request(
    spans: InMemorySpanExporter,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        span = metrics.GenerationSpan("v1", 7)
        span.add_tokens(2)
        span.end("length")

    with BentoMLContainer.tracer_provider.get().get_tracer("bentoml").start_as_current_span("POST /generate"):
        request: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"id-1")]}
        observed = telemetry.TelemetryMiddleware(telemetry.RestorePathMiddleware(app), [])
        asyncio.run(observed(request, None, None))  # type: ignore[arg-type]
    text, parent = spans.get_finished_spans()
    assert dict(text.attributes or {}) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "v1",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ("length",),
    }
    assert text.parent
    assert parent.context
    assert text.parent.span_id == parent.context.span_id
    assert parent.attributes
    assert parent.attributes["request_id"] == "id-1"
