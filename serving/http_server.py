"""uvicorn as BentoML's worker runs it, with bounds on the size and time of request heads and on connections.

The worker makes its `uvicorn.Config` itself and leaves no way to set these options, and neither uvicorn nor httptools
bounds a request head. `install` replaces `uvicorn.Config`, which makes uvicorn use `BoundedProtocol`. This module alone
uses uvicorn's internals; tests/serving/test_http_server.py runs each of them.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pipeline.params import Service
from serving.errors import ApiError

_MAX_FIELDS = 100  # header fields of a request, as in Apache
_MAX_PIPELINED = 16  # requests that one connection may send before the first is answered
_LINGER_SECONDS = 2.0  # in which a refused client's data is still read; a reset could discard the answer
STALLED_SECONDS = 30.0  # in which a client must read some of its answer (48 kB at most)

_turns = itertools.count(1)  # the order in which connections began to wait; the loop's clock is too coarse


class Config(uvicorn.Config):
    """uvicorn's options with ours: bounded, no WebSockets, forwarded headers left to `serving.proxies`."""

    def __init__(self, *arguments: Any, settings: Service, **options: Any) -> None:
        """Take uvicorn's own arguments; ours win."""
        self.settings = settings
        fixed = {"http": BoundedProtocol, "ws": "none", "proxy_headers": False}
        super().__init__(*arguments, **{**options, **fixed})


def install(settings: Service) -> Callable[[int], None]:
    """Make BentoML's worker, which runs in this process, use `Config`.

    Returns a function that bounds the seconds in which the server may end after its signal.
    """
    configs: list[Config] = []

    def make_config(*arguments: Any, **options: Any) -> Config:
        configs.append(Config(*arguments, settings=settings, **options))
        return configs[-1]

    def limit_shutdown(seconds: int) -> None:
        for config in configs:
            config.timeout_graceful_shutdown = seconds

    uvicorn.Config = make_config  # type: ignore[misc, assignment]
    return limit_shutdown


class _RefusedError(Exception):
    """Stops the parser; `BoundedProtocol` knows what to answer."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection: refuses heads that are too large or slow; closed when idle, or when its client does not read."""

    def __init__(self, config: Config, *arguments: Any, **options: Any) -> None:
        """Take uvicorn's own arguments."""
        super().__init__(config, *arguments, **options)
        self.settings = config.settings
        self.waiting_since: int | None = None  # a turn, while it waits for a request head; None during a request
        self._refusal: ApiError | None = None  # why the parser was stopped
        self._discards = False  # further data is not read
        self._in_head = False  # part of a request head has come
        self._head_bytes = 0
        self._unparsed_bytes = 0  # since the last part of a body or end of a head
        self._answering: RequestResponseCycle | None = None  # the request being answered; `cycle` is the last one
        self._is_upgrade = False  # the request being parsed offers another protocol
        self._timer: asyncio.TimerHandle | None = None  # closes the connection
        self._stalled_timer: asyncio.TimerHandle | None = None  # likewise, while the client reads nothing

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; above the limit, close the one that has waited longest for a request."""
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) <= self.settings.max_connections:
            return
        waiting = [other for other in self.connections if isinstance(other, BoundedProtocol) and other.waiting_since]
        oldest = min(waiting, key=lambda other: other.waiting_since or 0)
        if oldest is self:  # all others have running requests
            message = "the service has too many connections; try again later"
            self._refuse(ApiError(503, message, code="too_many_connections", headers={"Retry-After": "1"}))
            self.transport.close()
        else:
            oldest.transport.abort()
        self.connections.discard(oldest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        for timer in (self._timer, self._stalled_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client some time to read its answer."""
        super().pause_writing()
        self._stalled_timer = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue: the client reads."""
        super().resume_writing()
        if self._stalled_timer:
            self._stalled_timer.cancel()

    def _wait_for_head(self) -> None:
        """Close the connection unless a complete request head arrives in time."""
        self.waiting_since = next(_turns)
        self._close_in(self.settings.head_seconds)

    def _close_in(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _on_timeout(self) -> None:
        if self.transport.is_closing() or self._discards:
            self.transport.abort()
        elif self._in_head:
            message = f"the request head did not arrive within {self.settings.head_seconds:g} s"
            self._refuse(ApiError(408, message, code="head_timeout"))
        else:
            self.transport.close()
            self._close_in(_LINGER_SECONDS)

    def _refuse(self, error: ApiError) -> None:
        """Answer with `error`, after the request being answered, and close."""
        answer = error.answer()
        self._discards = True
        cycle: RequestResponseCycle | None = self.cycle
        if self.pipeline and self.cycle.more_body:  # the fault is in the body of a pipelined request: drop that one
            self.pipeline.popleft()
            cycle = self.pipeline[0][0] if self.pipeline else self._answering
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
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    # Incoming data

    def data_received(self, data: bytes) -> None:
        """Parse the data, within bounds."""
        if self._discards:
            return
        self._unset_keepalive_if_required()
        self._unparsed_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal or ApiError(400, "this is not a valid HTTP request", code="bad_http"))
        else:
            if self._unparsed_bytes > self.settings.max_head_bytes:  # an endless header, trailer or chunk extension
                self._refuse(self._too_large())

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request as if it offered no other protocol (RFC 9110, 7.8); the parser would drop its body."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(ApiError(405, "the service is not a proxy", code="method_not_allowed"))
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        self._is_upgrade = False
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._stop(ApiError(400, f"more than {_MAX_PIPELINED} requests are pipelined", code="bad_http"))
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's path."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer after a chunked body is not one."""
        if self._in_head:
            self._count(len(name) + len(value) + len(": \r\n"))
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_head = False
        self._unparsed_bytes = 0
        self._is_upgrade = self.parser.should_upgrade()
        if not self._is_upgrade:
            self.waiting_since = None
            if self._timer:
                self._timer.cancel()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._unparsed_bytes = 0
        if not self._is_upgrade:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else a pipelined one follows
            self._wait_for_head()

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > self.settings.max_head_bytes or len(self.headers) >= _MAX_FIELDS:
            self._stop(self._too_large())

    def _too_large(self) -> ApiError:
        message = f"the request head is longer than {self.settings.max_head_bytes} bytes or {_MAX_FIELDS} fields"
        return ApiError(431, message, code="head_too_large")

    def _stop(self, refusal: ApiError) -> None:
        self._refusal = refusal
        raise _RefusedError
