"""What can be seen of the service from outside: metrics, request ids, logs and traces; never a text, never a key.

    text = Writing(loaded.version, prompt_tokens)  # generation: when a request was handed to the engine
    text.wrote(tokens)                             # with every piece; the first call is the first token
    text.end("stop")                               # or length, cancelled, error; always, and best in a `finally`
    refused(status, code)                          # errors: once for every answer that is an error
    serving(version, engine)                       # swaps: whenever all is well; a new version counts as a swap
    swap_refused()                                 # swaps: a version was not taken over; `serving` clears it
    request_id()                                   # anywhere in a request: its id, or None

Metrics are made once a process, at import, in the place that `metric_store` chooses. Seen answers /metrics with
what BentoML has, less the versions that no worker serves any more.
"""

import json
import logging
import os
import re
import secrets
import time
import traceback
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from bentoml._internal.configuration.containers import BentoMLContainer
from fastapi.routing import iter_route_contexts
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.trace import Status, StatusCode
from prometheus_client import Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Mount, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import metric_store
from serving.engines.protocol import FinishReason

logger = logging.getLogger("bentoml.access")

Outcome = FinishReason | Literal["cancelled", "error"]

_NAMESPACE = "gpt2"
_INFO = f"{_NAMESPACE}_model_info"
_MOST_CODES = 100  # of refusals; the rest is counted as `other`
_UNMATCHED = "/{unmatched}"
_QUIET = ("/metrics", "/healthz", "/livez", "/readyz")  # no line in the log for each probe
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@-]{0,63}")
# 0.0002 s a token is the fastest engine on the smallest model, 60 s the longest wait that anybody configures.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

metric_store.prepare()
_prompt_tokens = Counter("prompt_tokens", "Tokens read", namespace=_NAMESPACE)
_completion_tokens = Counter("completion_tokens", "Tokens written", namespace=_NAMESPACE)
_texts = Counter("texts", "Texts by how they ended", ["end"], namespace=_NAMESPACE)
_first_token = Histogram(
    "first_token_seconds", "From the engine's call to the first token", namespace=_NAMESPACE, buckets=_SECONDS
)
_token = Histogram(
    "token_seconds", "Between two tokens, on average over a text", namespace=_NAMESPACE, buckets=_TOKEN_SECONDS
)
_waiting = Gauge("texts_waiting", "Texts without a first token yet", namespace=_NAMESPACE, multiprocess_mode="livesum")
_running = Gauge("texts_running", "Texts being written", namespace=_NAMESPACE, multiprocess_mode="livesum")
_info = Gauge(
    "model_info", "Workers that serve this version", ["version", "engine"], namespace=_NAMESPACE,
    multiprocess_mode="livesum",
)  # fmt: skip
_swaps = Counter("swaps", "Versions taken over while serving", namespace=_NAMESPACE)
_swap_refusals = Counter("swap_refusals", "Versions that were not taken over", namespace=_NAMESPACE)
_swap_refused = Gauge(
    "swap_refused", "1 while the champion is not served because it was refused", namespace=_NAMESPACE,
    multiprocess_mode="livemax",
)  # fmt: skip
_refusals = Counter("refusals", "Answers that are errors", ["status", "code"], namespace=_NAMESPACE)


class GenerationSpan:
    """One text, from the call of the engine to its end: its metrics and its span."""

    def __init__(self, version: str, prompt_tokens: int) -> None:
        """Begin: count a text that waits for its first token."""
        self._began = time.perf_counter()
        self._first: float | None = None
        self._tokens = 0
        self._ended = False
        _prompt_tokens.inc(prompt_tokens)
        _waiting.inc()
        # BentoML's provider, which samples nothing unless configured; the names are OpenTelemetry's for generative AI.
        self._span = (
            BentoMLContainer.tracer_provider.get()
            .get_tracer("serving")
            .start_span(
                "text_completion",
                attributes={
                    "gen_ai.operation.name": "text_completion",
                    "gen_ai.request.model": version,
                    "gen_ai.usage.input_tokens": prompt_tokens,
                },
            )
        )

    def wrote(self, tokens: int) -> None:
        """Count further tokens."""
        if not tokens or self._ended:
            return
        self._tokens += tokens
        if self._first is None:
            self._first = time.perf_counter()
            _first_token.observe(self._first - self._began)
            self._span.add_event("first token")
            _waiting.dec()
            _running.inc()

    def end(self, outcome: Outcome) -> None:
        """End; a second call is no matter."""
        if self._ended:
            return
        self._ended = True
        _texts.labels(outcome).inc()
        _completion_tokens.inc(self._tokens)
        if self._first is None:
            _waiting.dec()
        else:
            _running.dec()
            if self._tokens > 1:
                _token.observe((time.perf_counter() - self._first) / (self._tokens - 1))
        self._span.set_attribute("gen_ai.usage.output_tokens", self._tokens)
        self._span.set_attribute("gen_ai.response.finish_reasons", [outcome])
        if outcome == "error":
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


_codes: set[str] = set()


def count_error(status: int, code: str | None) -> None:
    """Count an answer that is an error."""
    label = code or "none"
    if label not in _codes and len(_codes) >= _MOST_CODES:
        label = "other"
    _codes.add(label)
    _refusals.labels(status, label).inc()


_served: tuple[str, str] | None = None


def record_served_model(version: str, engine: str) -> None:
    """Note that this worker serves `version`, and that nothing is wrong with that."""
    global _served
    _swap_refused.set(0)
    if _served == (version, engine):
        return
    if _served:
        _info.labels(*_served).set(0)
        _swaps.inc()
    _info.labels(version, engine).set(1)
    _served = (version, engine)


def count_refused_swap() -> None:
    """Note that a version was not taken over."""
    _swap_refusals.inc()
    _swap_refused.set(1)


@dataclass
class RequestContext:
    """A request from outside, and what its line in the log says about it."""

    id: str
    key: str | None = None  # the name of the API key


_visit: ContextVar[RequestContext | None] = ContextVar("visit", default=None)


def current_request() -> RequestContext | None:
    """Return the request that is being answered."""
    return _visit.get()


def request_id() -> str | None:
    """Return the id of the request that is being answered."""
    current = _visit.get()
    return current.id if current else None


class TelemetryMiddleware:
    """ASGI middleware, outermost: request ids, one line in the log a request, /metrics, bounded labels.

    BentoML's own metrics, log and spans have the raw path as a label, so that anyone could fill its memory with paths
    that do not exist. Inside of here the path is its route's; `Unseen` gives the real one back to the routes.
    """

    def __init__(self, app: ASGIApp, routes: list[BaseRoute]) -> None:
        """Wrap `app`, whose routes are `routes`."""
        self._app = app
        self._templates = list(templates(routes))
        _forget_dead_workers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        current = RequestContext(given if _SANE_ID.fullmatch(given) else secrets.token_hex(8))
        token = _visit.set(current)
        route = next((template for path, template in self._templates if path.match(scope["path"])), _UNMATCHED)
        status = 0

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = current.id
            await send(message)

        inner = {**scope, "path": route, "raw_path": route.encode(), "query_string": b"", _REAL: scope}
        try:
            await self._app(inner, receive, _live_metrics(with_id) if route == "/metrics" else with_id)
        finally:
            if route not in _QUIET:
                fields = {
                    "method": scope["method"] if scope["method"].isalpha() else "?",
                    "route": route,
                    "status": status,
                    "milliseconds": round((time.perf_counter() - began) * 1000, 1),
                    "client": scope["client"][0] if scope.get("client") else None,
                    "key": current.key,
                }
                logger.info(
                    "%(method)s %(route)s %(status)s %(milliseconds)s ms, from %(client)s, key %(key)s",
                    fields,
                    extra={"fields": fields},
                )
            _visit.reset(token)


_REAL = "fresh_gpt2.real_scope"


class RestorePathMiddleware:
    """ASGI middleware, innermost: the path as it was asked for, without its query: no route has one to parse."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if real := scope.get(_REAL):
            trace.get_current_span().set_attribute("request_id", request_id() or "")
            scope = {**scope, **{part: real[part] for part in ("path", "raw_path") if part in real}}
        await self._app(scope, receive, send)


def trace_whole_requests(app: Starlette) -> None:
    """Have BentoML's `app` make a span a request, and none for each message of it.

    A streamed answer would have hundreds, and making one, though it goes nowhere, takes longer than sending an event.
    """
    for middleware in app.user_middleware:
        if isinstance(middleware.cls, type) and issubclass(middleware.cls, OpenTelemetryMiddleware):
            middleware.kwargs["exclude_spans"] = ["receive", "send"]


def templates(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[re.Pattern[str], str]]:
    """Yield the paths of all routes, with their parameters' names in the place of values, and what matches them."""
    for route in iter_route_contexts(routes):
        path = prefix + (route.path or "")
        if not isinstance(route.original_route, Mount):
            matching, template, _ = compile_path(path)
            yield matching, template
        elif inner := route.original_route.routes:
            yield from templates(inner, path)
        else:  # files
            matching, template, _ = compile_path(path + "/{path:path}")
            yield matching, template


def _live_metrics(send: Send) -> Send:
    """Return a `send` that leaves out versions that no worker serves: prometheus_client cannot remove a label."""
    start: Message | None = None

    async def filtered(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        assert start is not None
        lines = message.get("body", b"").splitlines(keepends=True)
        gone = (_INFO + "{").encode()
        body = b"".join(line for line in lines if not (line.startswith(gone) and line.endswith(b" 0.0\n")))
        MutableHeaders(scope=start)["Content-Length"] = str(len(body))
        await send(start)
        await send({**message, "body": body})

    return filtered


def _forget_dead_workers() -> None:
    """Drop the gauges of workers that were killed: nobody else takes back what they still had in hand."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        if not psutil.pid_exists(int(file.stem.rpartition("_")[2])):
            file.unlink(missing_ok=True)


class _RequestIdFilter(logging.Filter):
    """Adds the request's id to BentoML's lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        if request := request_id():
            record.trace_msg = f"{getattr(record, 'trace_msg', '')} (request={request})"
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line)


def configure_logging() -> None:
    """Add request ids to BentoML's log; with LOG_FORMAT=json make each of its lines a JSON object."""
    for name in ("opentelemetry.baggage", "opentelemetry.trace"):
        logging.getLogger(name).setLevel(logging.ERROR)  # their warnings quote headers, also of callers without a key
    names = ("bentoml", "circus", "uvicorn.error", None)
    for handler in {handler for name in names for handler in logging.getLogger(name).handlers}:
        handler.addFilter(_RequestIdFilter())
        if os.environ.get("LOG_FORMAT") == "json":
            handler.setFormatter(JsonLines())
