"""Long answers: server-sent events, and clients that disconnect meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving import metrics
from serving.errors import ApiError, error_for_status, log_crash

T = TypeVar("T")
Event = Mapping[str, Any]  # a JSON object

_CLIENT_CLOSED_REQUEST = 499  # for the log and the metrics; nobody reads the answer
GRACE_SECONDS = 5.0  # after the timeout, in which the error event can still be read


async def _request_resources() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


# A route's argument: a stack for a model's lease and for generations, closed after the answer or a disconnect.
RequestResources = Annotated[AsyncExitStack, Depends(_request_resources)]


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """Return the result of `work`, which is cancelled at once when the client disconnects."""
    working, gone = asyncio.ensure_future(work), asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(_CLIENT_CLOSED_REQUEST, "the client disconnected", code="client_closed_request")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})


async def _disconnect(request: Request) -> None:
    """Return when the client disconnects; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events, each a JSON object; ends with [DONE], or with an `error` event in the usual error format."""

    media_type = "text/event-stream"

    def __init__(
        self, first: Event, events: AsyncIterator[Event], headers: Mapping[str, str], timeout_seconds: float
    ) -> None:
        """Answer with `first`, then with the rest of the `events`."""
        self._timeout_seconds = timeout_seconds
        # X-Accel-Buffering keeps nginx from collecting them.
        more = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_lines(first, events), headers={**headers, **more})

    @classmethod
    async def start(
        cls, request: Request, events: AsyncIterator[Event], headers: Mapping[str, str], timeout_seconds: float
    ) -> "EventStream":
        """Answer with `events` once the first of them is there: an error before it is answered with its status."""
        first = await unless_disconnected(request, anext(events))
        return cls(first, events, headers, timeout_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a client that does not read them is cut off, since it holds a model."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_seconds + GRACE_SECONDS):
                await super().__call__(scope, receive, send)


async def _lines(first: Event, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """Yield each event as it is sent."""
    try:
        yield encode_event(first)
        async for event in events:
            yield encode_event(event)
    except Exception as crash:
        if not isinstance(crash, ApiError):
            log_crash(crash)
        error = crash if isinstance(crash, ApiError) else error_for_status(500, {})
        metrics.count_error(error.status, error.code)
        yield b"event: error\n" + encode_event(error.body)
    else:
        yield b"data: [DONE]\n\n"


_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps makes one for each call


# Line ends in Unicode but not in the protocol: clients that use str.splitlines would split an event there.
_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}\N{NEXT LINE}"}


def encode_event(event: Event) -> bytes:
    """Return the event's line and the empty line after it."""
    data = _encode_json(event)
    if not data.isascii():
        data = data.translate(_ESCAPED)
    return f"data: {data}\n\n".encode()
