"""Request ids, the access log, traces and GET /metrics, with bounded labels; never prompts, keys or raw paths."""

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import psutil
from fastapi.routing import iter_route_contexts
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Mount, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import metric_store, metrics

logger = logging.getLogger("bentoml.access")

_UNMATCHED = "/{unmatched}"
_UNLOGGED = ("/metrics", "/healthz", "/livez", "/readyz")  # probes would fill the log
_VALID_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@-]{0,63}")
_ORIGINAL = "fresh_gpt2.original_scope"


@dataclass
class RequestContext:
    """A request, and what its line in the log says about it."""

    id: str
    key: str | None = None  # the name of the API key


current: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def request_id() -> str | None:
    """Return the id of the current request."""
    request = current.get()
    return request.id if request else None


class TelemetryMiddleware:
    """Outermost ASGI middleware: request ids, one line in the log for each request, /metrics, bounded labels.

    BentoML's own metrics, log and spans use the raw path as a label, so that anyone could fill its memory with paths
    that do not exist. Inside, the path is the route's template; `RestorePathMiddleware` restores it for the routes.
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
        given_id = Headers(scope=scope).get("x-request-id", "")
        request = RequestContext(given_id if _VALID_ID.fullmatch(given_id) else secrets.token_hex(8))
        token = current.set(request)
        route = next((template for path, template in self._templates if path.match(scope["path"])), _UNMATCHED)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request.id
            await send(message)

        inner = {**scope, "path": route, "raw_path": route.encode(), "query_string": b"", _ORIGINAL: scope}
        try:
            await self._app(inner, receive, _without_unserved(send_with_id) if route == "/metrics" else send_with_id)
        finally:
            if route not in _UNLOGGED:
                _log_request(scope, request, route, status, time.perf_counter() - began)
            current.reset(token)


def _log_request(scope: Scope, request: RequestContext, route: str, status: int, seconds: float) -> None:
    fields = {
        "method": scope["method"] if scope["method"].isalpha() else "?",
        "route": route,
        "status": status,
        "milliseconds": round(seconds * 1000, 1),
        "client": scope["client"][0] if scope.get("client") else None,
        "key": request.key,
    }
    line = "%(method)s %(route)s %(status)s %(milliseconds)s ms, from %(client)s, key %(key)s"
    logger.info(line, fields, extra={"fields": fields})


class RestorePathMiddleware:
    """Innermost ASGI middleware: restores the requested path, without its query, which no route uses."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if original := scope.get(_ORIGINAL):
            trace.get_current_span().set_attribute("request_id", request_id() or "")
            scope = {**scope, **{part: original[part] for part in ("path", "raw_path") if part in original}}
        await self._app(scope, receive, send)


def trace_whole_requests(app: Starlette) -> None:
    """Have BentoML's `app` make one span for each request, and none for each message of it.

    A streamed answer has hundreds of messages, and an unsampled span takes longer than sending an event.
    """
    for middleware in app.user_middleware:
        if isinstance(middleware.cls, type) and issubclass(middleware.cls, OpenTelemetryMiddleware):
            middleware.kwargs["exclude_spans"] = ["receive", "send"]


def templates(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[re.Pattern[str], str]]:
    """Yield the path template of each route, such as /v1/models/{model}, with the pattern that matches its paths."""
    for route in iter_route_contexts(routes):
        path = prefix + (route.path or "")
        if not isinstance(route.original_route, Mount):
            pattern, template, _ = compile_path(path)
            yield pattern, template
        elif inner := route.original_route.routes:
            yield from templates(inner, path)
        else:  # files
            pattern, template, _ = compile_path(path + "/{path:path}")
            yield pattern, template


def _without_unserved(send: Send) -> Send:
    """Return a `send` that drops versions that no worker serves: prometheus_client cannot remove a label."""
    start: Message | None = None

    async def send_filtered(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        assert start is not None
        lines = message.get("body", b"").splitlines(keepends=True)
        prefix = (metrics.MODEL_INFO + "{").encode()
        body = b"".join(line for line in lines if not (line.startswith(prefix) and line.endswith(b" 0.0\n")))
        MutableHeaders(scope=start)["Content-Length"] = str(len(body))
        await send(start)
        await send({**message, "body": body})

    return send_filtered


def _forget_dead_workers() -> None:
    """Delete the gauges of killed workers, which nobody else resets."""
    folder = os.environ.get(metric_store.FOLDER)
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        if not psutil.pid_exists(int(file.stem.rpartition("_")[2])):
            file.unlink(missing_ok=True)
