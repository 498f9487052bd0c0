"""uvicorn as BentoML's worker runs it, with bounds: request heads in size and time, connections in number.

The worker makes its `uvicorn.Config` itself and leaves no way to set these options, and neither uvicorn nor httptools
bounds a request head. `install` replaces `uvicorn.Config` by `Config`, which makes uvicorn use `BoundedProtocol`. Only
this module knows uvicorn's internals; tests/serving/test_http_server.py runs each of them.
"""

import asyncio
import functools
import itertools
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pipeline.params import Service
from serving.errors import ApiError
from serving.settings import LIMITS

_MAX_FIELDS = 100  # header fields of a request, as in Apache
_MAX_PIPELINED = 16  # requests that one connection may send before the first is answered
_LINGER_SECONDS = 2.0  # for what a refused client still sends; a reset could take the answer with it
_STALLED_SECONDS = 30.0  # in which a client must read some of its answer (48 kB at most)

_turns = itertools.count(1)  # the order in which connections began to wait; the loop's clock has milliseconds only


class Config(uvicorn.Config):
    """uvicorn's options with ours: bounded, no WebSockets, forwarded headers left to `serving.proxies`."""

    def __init__(self, *arguments: Any, limits: Service = LIMITS, **options: Any) -> None:
        """Take uvicorn's own arguments; ours win."""
        self.limits = limits
        ours = {"http": BoundedProtocol, "ws": "none", "proxy_headers": False}
        super().__init__(*arguments, **{**options, **ours})


def install(limits: Service = LIMITS) -> None:
    """Make BentoML's worker, which runs in this process, use `Config`."""
    uvicorn.Config = functools.partial(Config, limits=limits)  # type: ignore[misc, assignment]


class _RefusedError(Exception):
    """Stops the parser; `BoundedProtocol` knows what to answer."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection: refuses heads that are too large or too slow, and is closed when idle or when not read from."""

    def __init__(self, config: Config, *arguments: Any, **options: Any) -> None:
        """Take what uvicorn passes."""
        super().__init__(config, *arguments, **options)
        self.limits = config.limits
        self.waiting: int | None = None  # since when, for a whole request head; None while a request is answered
        self._refusal: ApiError | None = None  # why the parser was stopped
        self._discards = False  # what still comes is not read
        self._in_head = False  # some of a request head has come, but not all
        self._head = 0  # bytes of it
        self._undecided = 0  # bytes that came since the last piece of a body or end of a head
        self._answered: RequestResponseCycle | None = None  # the request whose answer is under way; `cycle` is the last
        self._upgrade = False  # the request that is parsed offers another protocol
        self._timer: asyncio.TimerHandle | None = None  # closes the connection
        self._stalled: asyncio.TimerHandle | None = None  # likewise, while the client reads nothing

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for a new connection: the one that has waited longest for a request is closed."""
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) <= self.limits.max_connections:
            return
        waiting = [other for other in self.connections if isinstance(other, BoundedProtocol) and other.waiting]
        oldest = min(waiting, key=lambda other: other.waiting or 0)
        if oldest is self:  # all others have requests that run
            message = "the service has as many connections as it takes; come back later"
            self._refuse(ApiError(503, message, code="too_many_connections", headers={"Retry-After": "1"}))
            self.transport.close()
        else:
            oldest.transport.abort()
        self.connections.discard(oldest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all timers."""
        for timer in (self._timer, self._stalled):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give a client that does not read its answer some time."""
        super().pause_writing()
        self._stalled = self.loop.call_later(_STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()

    def _wait_for_head(self) -> None:
        """Close the connection unless a whole request head comes in time."""
        self.waiting = next(_turns)
        self._close_in(self.limits.head_seconds)

    def _close_in(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        if self.transport.is_closing() or self._discards:
            self.transport.abort()
        elif self._in_head:
            message = f"the request head did not arrive within {self.limits.head_seconds:g} s"
            self._refuse(ApiError(408, message, code="head_timeout"))
        else:
            self.transport.close()
            self._close_in(_LINGER_SECONDS)

    def _refuse(self, error: ApiError) -> None:
        """Answer with `error`, after the request that is being answered, and close."""
        answer = error.answer()
        self._discards = True
        cycle: RequestResponseCycle | None = self.cycle
        if (
            self.pipeline and self.cycle.more_body
        ):  # the fault is in the body of one that was sent ahead: it is not begun
            self.pipeline.popleft()
            cycle = self.pipeline[0][0] if self.pipeline else self._answered
        if cycle and not cycle.response_complete:
            if not cycle.more_body or cycle.response_started:
                cycle.keep_alive = False
                return
            cycle.disconnected = True  # the fault is in its own body
            cycle.message_event.set()
        fields = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(answer.body))
        self._close_in(_LINGER_SECONDS)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Parse what came, within bounds."""
        if self._discards:
            return
        self._unset_keepalive_if_required()
        self._undecided += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal or ApiError(400, "this is no valid HTTP request", code="bad_http"))
        else:
            if self._undecided > self.limits.max_head_bytes:  # endless header, trailers or chunk extension
                self._refuse(self._too_large())

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request as if it offered no other protocol (RFC 9110, 7.8); the parser would drop its body."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(ApiError(405, "the service is no proxy", code="method_not_allowed"))
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._upgrade = False
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._stop(ApiError(400, f"more than {_MAX_PIPELINED} requests were sent ahead", code="bad_http"))
        super().on_message_begin()
        self._in_head = True
        self._head = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's path."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes behind a chunked body (a trailer) is none."""
        if self._in_head:
            self._count(len(name) + len(value) + len(": \r\n"))
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_head = False
        self._undecided = 0
        self._upgrade = self.parser.should_upgrade()
        if not self._upgrade:
            self.waiting = None
            if self._timer:
                self._timer.cancel()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._undecided = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._undecided = 0
        if not self._upgrade:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else another one was sent ahead
            self._wait_for_head()

    def _count(self, length: int) -> None:
        self._head += length
        if self._head > self.limits.max_head_bytes or len(self.headers) >= _MAX_FIELDS:
            self._stop(self._too_large())

    def _too_large(self) -> ApiError:
        message = f"the request head is longer than {self.limits.max_head_bytes} bytes or {_MAX_FIELDS} fields"
        return ApiError(431, message, code="head_too_large")

    def _stop(self, refusal: ApiError) -> None:
        self._refusal = refusal
        raise _RefusedError
