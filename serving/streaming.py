"""Answers that take their time: server-sent events, and clients that go away meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving import telemetry
from serving.errors import ApiError, error_for_status, log_crash
from serving.settings import LIMITS

T = TypeVar("T")
Event = Mapping[str, Any]  # a JSON object

_CLIENT_CLOSED_REQUEST = 499  # nobody reads it, but the log and the metrics have it
_GRACE_SECONDS = 5.0  # after `timeout`, in which the error event can still be read


async def _until_answered() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


# A route's argument: a stack for a model's lease and for jobs, closed when the answer was sent or will never be.
UntilAnswered = Annotated[AsyncExitStack, Depends(_until_answered)]


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Return the result of `work`, which is cancelled at once when the client goes away."""
    working, gone = asyncio.ensure_future(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(_CLIENT_CLOSED_REQUEST, "the client went away", code="client_closed_request")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})


async def _gone(request: Request) -> None:
    """Return when the client has gone; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events, each an object as JSON; [DONE] ends them, or an `error` event in the one shape."""

    media_type = "text/event-stream"

    def __init__(self, first: Event, events: AsyncIterator[Event], headers: Mapping[str, str]) -> None:
        """Answer with `first`, then with the rest of the `events`."""
        # Without the second one nginx would collect them.
        more = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_lines(first, events), headers={**headers, **more})

    @classmethod
    async def begun(cls, request: Request, events: AsyncIterator[Event], headers: Mapping[str, str]) -> "EventStream":
        """Answer with `events` when the first of them is there: what fails before is answered with a status."""
        return cls(await unless_gone(request, anext(events)), events, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; a client that does not read them is cut off, for it holds on to a model."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMITS.timeout + _GRACE_SECONDS):
                await super().__call__(scope, receive, send)


async def _lines(first: Event, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """Yield each event as it is sent."""
    try:
        yield _line(first)
        async for event in events:
            yield _line(event)
    except Exception as crash:
        if not isinstance(crash, ApiError):
            log_crash(crash)
        error = crash if isinstance(crash, ApiError) else error_for_status(500, {})
        telemetry.count_error(error.status, error.code)
        yield b"event: error\n" + _line(error.body)
    else:
        yield b"data: [DONE]\n\n"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps makes one a call


# Line ends to Unicode but not to the protocol: clients that split lines with str.splitlines would cut an event there.
_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}\N{NEXT LINE}"}


def _line(event: Event) -> bytes:
    data = _encode(event)
    if not data.isascii():
        data = data.translate(_ESCAPED)
    return f"data: {data}\n\n".encode()
