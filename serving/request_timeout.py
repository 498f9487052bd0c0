"""BentoML's time limit of a request, without its memory leak."""

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.bentoml_internals import TimeoutMiddleware


def install(app: Starlette) -> None:
    """Replace the middleware in BentoML's `app`: it never cancels its timer, which keeps 5 kB or more a request."""
    layers: list[Any] = app.user_middleware
    for middleware in layers:
        if middleware.cls is TimeoutMiddleware:
            middleware.cls = RequestTimeoutMiddleware


class RequestTimeoutMiddleware:
    """ASGI middleware: answers 504 unless the answer begins within `timeout` seconds."""

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        """Wrap `app`."""
        self._app = app
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = asyncio.timeout(self._timeout)

        async def send_without_limit(message: Message) -> None:
            if not limit.expired():
                limit.reschedule(None)
            await send(message)

        try:
            async with limit:
                await self._app(scope, receive, send_without_limit)
        except TimeoutError:
            if not limit.expired():
                raise
            error = {"error": f"Not able to process the request in {self._timeout} seconds"}
            await JSONResponse(error, 504)(scope, receive, send)
