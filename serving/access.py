"""Access control around the whole app, BentoML's own routes included: hosts, keys, rate and body limits.

From the outside in: CORS, hosts and web pages, size, API key, rate, upload. See `wrap`.
"""

import asyncio
import contextlib
import ipaddress
import math
import os
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from urllib.parse import urlsplit

from bentoml.exceptions import BentoMLException
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.params import Service
from serving import telemetry
from serving.errors import ApiError
from serving.http_rules import wants_page
from serving.keys import Keys

# Without a key: probes, and pages that hold nothing of the model and on which a person enters the key.
_OPEN = ("/livez", "/readyz", "/healthz", "/playground", "/docs", "/docs.json")
_OPEN_BELOW = ("/static_content/", "/playground/")
_EXPOSED_HEADERS = (
    "X-Request-Id",
    "X-Model-Version",
    "X-Data-Hash",
    "X-Seed",
    "X-Engine",
    "X-Prompt-Tokens",
    "X-Completion-Tokens",
    "Retry-After",
)
MAX_CALLERS = 10_000  # whose rate is remembered: 2 MB
_LINGER_SECONDS = 2.0  # in which the rest of a refused body is still read


def wrap(app: ASGIApp, settings: Service) -> ASGIApp:
    """Return `app` behind all guards."""
    keys = Keys()
    app = _BodyBuffer(app, settings.max_body_bytes, settings.upload_seconds)
    if settings.requests_per_minute:
        app = RateLimitGuard(app, settings.requests_per_minute)
    app = _ApiKeyGuard(app, keys) if keys else app
    app = _BodySizeGuard(app, settings.max_body_bytes)
    if not keys and not allows_anonymous(settings):
        app = _LocalhostGuard(app, settings.allow_origins)
    if settings.allow_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.allow_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Api-Key", "X-Request-Id"),
            expose_headers=_EXPOSED_HEADERS,
        )
    return _RejectWebSockets(app)


def allows_anonymous(settings: Service) -> bool:
    """Return whether everyone is allowed, by the settings or ALLOW_ANONYMOUS; raises BentoMLException."""
    value = os.environ.get("ALLOW_ANONYMOUS", "false").lower()
    if value not in ("true", "false"):
        raise BentoMLException(f"ALLOW_ANONYMOUS is {value!r}, expected true or false")
    return settings.allow_anonymous or value == "true"


def is_loopback(host: str | None) -> bool:
    """Return whether `host` is a name or address of this machine that no other machine reaches."""
    if host is None or host == "localhost" or host.endswith(".localhost"):
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_open(path: str) -> bool:
    """Return whether `path` is available without a key."""
    return path in _OPEN or path.startswith(_OPEN_BELOW)


class _RejectWebSockets:
    """Rejects WebSockets, which no route uses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)


class Guard(ABC):
    """ASGI middleware that passes a request on, or answers with the ApiError that `check` raises."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            try:
                self.check(scope, Headers(scope=scope))
            except ApiError as error:
                await self.refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    @abstractmethod
    def check(self, scope: Scope, headers: Headers) -> None:
        """Raise ApiError for a request that is refused."""

    async def refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request."""
        await error.answer()(scope, receive, send)


class _LocalhostGuard(Guard):
    """Without keys: allows requests whose Host is this machine, and web pages from here or from an allowed origin.

    Otherwise any web page that a person on this machine opens could use the model: browsers send simple requests
    without a preflight, and with DNS rebinding to 127.0.0.1 the page could read the answers too.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(app)
        self._origins = origins

    def check(self, scope: Scope, headers: Headers) -> None:
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not is_loopback(_hostname(host)):
            raise ApiError(
                403,
                "without API keys the service answers requests to localhost only; configure keys, or allow_anonymous",
                code="host_not_allowed",
            )
        if origin is not None and not {origin, "*"} & set(self._origins) and _host_and_port(origin) != host:
            raise ApiError(403, "this origin is not in the service's allow_origins", code="origin_not_allowed")


def _host_and_port(origin: str) -> str:
    """Return the Host header that belongs to an Origin header."""
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


class _ApiKeyGuard(Guard):
    """Requires an API key."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        super().__init__(app)
        self._keys = keys

    def check(self, scope: Scope, headers: Headers) -> None:
        if is_open(scope["path"]) or wants_page(scope):
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        name = self._keys.name(key) if key else None
        if name is None:
            problem = "unknown API key" if key else "an API key is required"
            raise ApiError(
                401,
                f"{problem}: send it as `Authorization: Bearer KEY`, or as `X-Api-Key: KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope["api_key"] = name
        if request := telemetry.current.get():
            request.key = name


class RateLimitGuard(Guard):
    """Limits each key, or without keys each address, to a number of requests a minute: a token bucket."""

    def __init__(self, app: ASGIApp, per_minute: int) -> None:
        """Wrap `app`."""
        super().__init__(app)
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens and when, oldest first

    def check(self, scope: Scope, headers: Headers) -> None:
        """Take a token from the caller's bucket; raises ApiError when it is empty."""
        if is_open(scope["path"]) or wants_page(scope):
            return
        caller = scope.get("api_key") or _network(scope)
        now = time.monotonic()
        tokens, then = self._buckets.get(caller, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - then) * self._per_second)
        is_refused = tokens < 1
        self._buckets[caller] = (tokens if is_refused else tokens - 1, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        if is_refused:
            wait = math.ceil((1 - tokens) / self._per_second)
            raise ApiError(
                429,
                f"more than {self._capacity:g} requests a minute; try again in {wait} s",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(wait)},
            )


def _network(scope: Scope) -> str:
    """Return the caller's address; for IPv6 its /64 network, which belongs to one caller."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a Unix socket
        return str(host)
    address = getattr(address, "ipv4_mapped", None) or address  # else all of IPv4 would be one network
    return str(ipaddress.ip_network((address, 64 if address.version == 6 else 32), strict=False))


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413, f"the body is longer than {max_bytes} bytes", code="body_too_large", headers={"Connection": "close"}
    )


class _BodySizeGuard(Guard):
    """Refuses a body whose Content-Length is too large, before any of it is read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        super().__init__(app)
        self._max_bytes = max_bytes

    def check(self, scope: Scope, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:  # h11 refuses other values
            raise _too_large(self._max_bytes)

    async def refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        await _refuse_and_linger(error, scope, receive, send)


class _BodyBuffer:
    """Reads the whole body before the app does, within bounds of size and time."""

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not {"content-length", "transfer-encoding"} & set(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        more = True
        try:
            async with asyncio.timeout(self._seconds):
                while more and len(body) <= self._max_bytes:
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
        if len(body) > self._max_bytes:
            await _refuse_and_linger(_too_large(self._max_bytes), scope, receive, send, more)
            return
        buffered: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def receive_buffered() -> Message:
            nonlocal buffered
            message, buffered = buffered, None
            return message or await receive()

        await self._app(scope, receive_buffered, send)


async def _refuse_and_linger(error: ApiError, scope: Scope, receive: Receive, send: Send, more: bool = True) -> None:
    """Answer at once, then read and discard the body for a while.

    A connection that is closed with unread data is reset, and the client may never see the answer.
    """

    async def send_unfinished(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await error.answer()(scope, receive, send_unfinished)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while more:
                message = await receive()
                more = message.get("more_body", False)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
