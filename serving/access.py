"""Who may come in, how often and with how much: around the whole app, BentoML's own routes included.

From the outside in: CORS, hosts and web pages, size, API key, rate, upload. See `wrap`.
"""

import asyncio
import contextlib
import ipaddress
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.service.openapi.specification import OpenAPISpecification
from bentoml.exceptions import BentoMLException
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.command import UserError
from pipeline.params import Service
from serving import ports, proxies, supervisor, telemetry
from serving.errors import ApiError
from serving.http_rules import wants_page
from serving.keys import Keys
from serving.settings import LIMITS

logger = logging.getLogger("bentoml.serving")

# Without a key: probes, and pages that hold nothing of the model and on which a person enters the key.
_OPEN = ("/livez", "/readyz", "/healthz", "/playground", "/docs", "/docs.json")
_OPEN_BELOW = ("/static_content/", "/playground/")
_HEADERS_OF_OURS = (
    "X-Request-Id",
    "X-Model-Version",
    "X-Data-Hash",
    "X-Seed",
    "X-Engine",
    "X-Prompt-Tokens",
    "X-Completion-Tokens",
    "Retry-After",
)
_MOST_CALLERS = 10_000  # whose rate is remembered: 2 MB
_LINGER_SECONDS = 2.0  # in which the rest of a body that is too long is thrown away


def wrap(app: ASGIApp, limits: Service = LIMITS) -> ASGIApp:
    """Return `app` behind its doors."""
    keys = Keys()
    app = _BodyBuffer(app, limits.max_body_bytes, limits.upload_seconds)
    if limits.requests_per_minute:
        app = _RateLimitGuard(app, limits.requests_per_minute)
    app = _ApiKeyGuard(app, keys) if keys else app
    app = _BodySizeGuard(app, limits.max_body_bytes)
    if not keys and not _anonymous(limits):
        app = _LocalhostGuard(app, limits.allow_origins)
    if limits.allow_origins:
        app = CORSMiddleware(
            app,
            allow_origins=limits.allow_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Api-Key", "X-Request-Id"),
            expose_headers=_HEADERS_OF_OURS,
        )
    return _RejectWebSockets(app)


def check_start(limits: Service = LIMITS) -> None:
    """Refuse to start with wrong keys or proxies, open to other machines without keys, or on a port that is not free.

    Called where `bentoml serve` runs. Raises BentoMLException, which BentoML prints as a sentence.
    """
    context = click.get_current_context(silent=True)
    if context is None or "host" not in context.params:
        return  # a worker, a build or a test
    proxies.trusted_networks(limits)
    keys = Keys()
    try:
        keys.check()
    except UserError as error:
        raise BentoMLException(str(error)) from None
    if os.environ.get("API_KEYS_FILE"):
        os.environ["API_KEYS_FILE"] = str(Path(os.environ["API_KEYS_FILE"]).absolute())  # workers run elsewhere
    host = context.params["host"] or BentoMLContainer.http.host.get()
    port = BentoMLContainer.http.port.get() if context.params["port"] is None else context.params["port"]
    if not keys and not _anonymous(limits) and not _is_loopback(host):
        raise BentoMLException(
            f"bound to {host}, the service is open to other machines and asks for no API key: set API_KEYS or "
            "API_KEYS_FILE (`python -m serving.keys new NAME` makes a key), bind it to 127.0.0.1, or let everyone in "
            "with ALLOW_ANONYMOUS=true or `allow_anonymous: true` in section `service` of params.yaml"
        )
    if problem := ports.unusable_reason(host, port):
        raise BentoMLException(f"{problem}; give another one: --port N, or BENTOML_PORT")
    supervisor.separate_metrics()
    if not keys and not _is_loopback(host):
        logger.warning("bound to %s without API keys: whoever reaches this machine can use the model", host)


def _anonymous(limits: Service) -> bool:
    found = os.environ.get("ALLOW_ANONYMOUS", "false").lower()
    if found not in ("true", "false"):
        raise BentoMLException(f"ALLOW_ANONYMOUS is {found!r}, expected true or false")
    return limits.allow_anonymous or found == "true"


def _is_loopback(host: str | None) -> bool:
    """Return whether `host` is a name or address of this machine that no other machine reaches."""
    if host is None or host == "localhost" or host.endswith(".localhost"):
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)


class ServedSpecification:
    """An OpenAPI specification, made once: it takes 60 ms, and anyone may ask for it."""

    def __init__(self, specification: OpenAPISpecification, keyed: bool) -> None:
        """Say in `specification` where keys are asked for, so that Swagger's page asks for one, too."""
        self._content: dict[str, Any] = specification.asdict()
        if keyed:
            self._content["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            self._content["security"] = [{"key": []}]
            for path in filter(_is_open, self._content["paths"]):
                for operation in self._content["paths"][path].values():
                    operation["security"] = []

    def asdict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return self._content


class _RejectWebSockets:
    """Lets no WebSocket in: there is none here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)


class _Guard(ABC):
    """ASGI middleware that lets a request in, or answers with the ApiError that `check` raises."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self.check(scope, Headers(scope=scope))
            except ApiError as error:
                await self.refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    @abstractmethod
    def check(self, scope: Scope, headers: Headers) -> None: ...

    async def refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        await error.answer()(scope, receive, send)


class _LocalhostGuard(_Guard):
    """Without keys: lets in who names this machine as the host, and pages from here or from an allowed origin.

    Otherwise any web page that a person on this machine opens could use the model: browsers send simple requests
    without asking, and a page whose host's name is made to point to 127.0.0.1 may read the answers too.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(app)
        self._origins = origins

    def check(self, scope: Scope, headers: Headers) -> None:
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not _is_loopback(_hostname(host)):
            raise ApiError(
                403,
                "without API keys the service answers to localhost only; it can be given keys, or allow_anonymous",
                code="host_not_allowed",
            )
        if origin is not None and not {origin, "*"} & set(self._origins) and _host_and_port(origin) != host:
            raise ApiError(
                403, "web pages of this origin are not in the service's allow_origins", code="origin_not_allowed"
            )


def _host_and_port(origin: str) -> str:
    """Return what a Host header would be for an Origin header."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as "http://["
        return ""


def _hostname(host: str) -> str | None:
    """Return the name in a Host header."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # such as "[::1"
        return None


class _ApiKeyGuard(_Guard):
    """Asks for an API key."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        super().__init__(app)
        self._keys = keys

    def check(self, scope: Scope, headers: Headers) -> None:
        if _is_open(scope["path"]) or wants_page(scope):
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        name = self._keys.name(given) if given else None
        if name is None:
            problem = "this API key is not known" if given else "an API key is needed"
            raise ApiError(
                401,
                f"{problem}: send it as `Authorization: Bearer KEY`, or as `X-Api-Key: KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope["api_key"] = name
        if visit := telemetry.current_request():
            visit.key = name


class _RateLimitGuard(_Guard):
    """Limits each key, or without keys each address, to so many requests a minute: a bucket that fills steadily."""

    def __init__(self, app: ASGIApp, per_minute: int) -> None:
        super().__init__(app)
        self._most = float(per_minute)
        self._per_second = per_minute / 60
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # content and when, the last used last

    def check(self, scope: Scope, headers: Headers) -> None:
        if _is_open(scope["path"]) or wants_page(scope):
            return
        caller = scope.get("api_key") or _network(scope)
        now = time.monotonic()
        content, then = self._buckets.get(caller, (self._most, now))
        content = min(self._most, content + (now - then) * self._per_second)
        refused = content < 1
        self._buckets[caller] = (content if refused else content - 1, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        if refused:
            wait = math.ceil((1 - content) / self._per_second)
            raise ApiError(
                429,
                f"more than {self._most:g} requests a minute; come back in {wait} s",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(wait)},
            )


def _network(scope: Scope) -> str:
    """Return the caller's address; of IPv6 the 64 bits that one caller has for itself."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a Unix socket
        return str(host)
    address = getattr(address, "ipv4_mapped", None) or address  # else all of IPv4 would be one caller
    return str(ipaddress.ip_network((address, 64 if address.version == 6 else 32), strict=False))


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"the body is longer than {most} bytes", code="body_too_large", headers={"Connection": "close"}
    )


class _BodySizeGuard(_Guard):
    """Refuses a body that says that it is too long, before any of it is read."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        super().__init__(app)
        self._most = most

    def check(self, scope: Scope, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._most:  # h11 refuses what is no number
            raise _too_large(self._most)

    async def refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        await _refuse_and_linger(error, scope, receive, send)


class _BodyBuffer:
    """Reads the whole body before the app sees any of it, within bounds of size and time."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self._app = app
        self._most = most
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not {"content-length", "transfer-encoding"} & set(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        more = True
        try:
            async with asyncio.timeout(self._seconds):
                while more and len(body) <= self._most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            reason = f"the body did not arrive within {self._seconds:g} s"
            error = ApiError(408, reason, code="upload_timeout", headers={"Connection": "close"})
            await _refuse_and_linger(error, scope, receive, send)
            return
        if len(body) > self._most:
            await _refuse_and_linger(_too_large(self._most), scope, receive, send, more)
            return
        read: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def again() -> Message:
            nonlocal read
            message, read = read, None
            return message or await receive()

        await self._app(scope, again, send)


async def _refuse_and_linger(error: ApiError, scope: Scope, receive: Receive, send: Send, more: bool = True) -> None:
    """Answer at once, then throw away for a while what still comes.

    A connection that is closed with something unread is reset, and the client may never see the answer.
    """

    async def unfinished(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await error.answer()(scope, receive, unfinished)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while more:
                message = await receive()
                more = message.get("more_body", False)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
