"""SIGTERM: take no more work, finish running requests within a bound, exit.

uvicorn closes its socket at once, but BentoML's master keeps its own copy open until the worker has ended, so that new
connections would hang, then be reset. Here the worker keeps answering, with 503, until it has nothing left to do.
A worker whose supervisor was killed stops in the same way.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ApiError

logger = logging.getLogger("bentoml.serving")

_STILL_ANSWERED = ("/livez", "/healthz", "/metrics")  # a failed probe would have the process killed
_SUPERVISOR_SECONDS = 1  # between two checks that the supervisor still runs
_LAST_SECONDS = 1  # for the 503 answers to requests that were cut off


class GracefulShutdown:
    """ASGI middleware that ends a worker gracefully."""

    def __init__(
        self, app: ASGIApp, drain_seconds: float, limit_server_shutdown: Callable[[int], None] | None = None
    ) -> None:
        """Wrap `app`.

        Args:
            app: The application.
            drain_seconds: How long requests that run at SIGTERM may take.
            limit_server_shutdown: Called before the server ends with how many seconds it may take; without it uvicorn
                waits indefinitely for clients that do not read their answers.
        """
        self._app = app
        self._drain_seconds = drain_seconds
        self._limit_server_shutdown = limit_server_shutdown
        self._supervisor = os.getppid()
        self._running: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()  # while draining: no request runs any more
        self._began: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_draining(self) -> bool:
        """Whether SIGTERM has come."""
        return self._began is not None and self._began.is_set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 503."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._with_signals(send))
        elif scope["type"] != "http" or scope["path"] in _STILL_ANSWERED:
            await self._app(scope, receive, send)
        elif self.is_draining:
            await _shutting_down().answer()(scope, receive, send)
        else:
            await self._run(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_close(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self.is_draining:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._app(scope, receive, send_and_close)
        except asyncio.CancelledError:
            if not self.is_draining:
                raise
            # Out of time. uvicorn closes the connection of an answer that has begun, so that it does not look complete.
            if not started:
                await _shutting_down().answer()(scope, receive, send)
        finally:
            self._running.discard(task)
            if not self._running:
                self._idle.set()

    def _with_signals(self, send: Send) -> Send:
        """Return a `send` that takes over uvicorn's signals when the app has started."""

        async def take_over_signals(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete" and threading.current_thread() is threading.main_thread():
                self._began = asyncio.Event()
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._take_over(number, loop)
                self._task = asyncio.create_task(self._drain())
            await send(message)

        return take_over_signals

    def _take_over(self, number: signal.Signals, loop: asyncio.AbstractEventLoop) -> None:
        self._stop_server: Any = signal.getsignal(number)

        def begin(number: int, _: FrameType | None) -> None:
            # Ctrl-C reaches the worker from the terminal and, as SIGTERM, from the master: only a second one is urgent.
            if number == signal.SIGINT and self.is_draining:
                loop.call_soon_threadsafe(self._idle.set)
            assert self._began is not None
            loop.call_soon_threadsafe(self._began.set)

        signal.signal(number, begin)

    async def _drain(self) -> None:
        """Wait for SIGTERM, then for running requests, then let uvicorn end."""
        await self._wait_for_begin()
        logger.info("shutting down: %d running requests have %g s", len(self._running), self._drain_seconds)
        if not await self._wait_until_idle(self._drain_seconds):
            logger.warning("shutting down: cutting off %d requests that still run", len(self._running))
            for task in self._running:
                task.cancel()
            await self._wait_until_idle(_LAST_SECONDS)
        if self._limit_server_shutdown:
            self._limit_server_shutdown(_LAST_SECONDS)
        self._stop_server(signal.SIGTERM, None)

    async def _wait_for_begin(self) -> None:
        """Wait for SIGTERM or the end of the supervisor: an orphan would keep the port, and nothing would stop it."""
        assert self._began is not None
        while os.getppid() == self._supervisor:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._began.wait(), _SUPERVISOR_SECONDS)
                return
        logger.error("the supervisor of this worker was killed: shutting down")
        self._began.set()

    async def _wait_until_idle(self, seconds: float) -> bool:
        """Wait until no request runs; return whether that was within the time."""
        if not self._running:
            return True
        self._idle.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return not self._running


def _shutting_down() -> ApiError:
    headers = {"Retry-After": "1", "Connection": "close"}
    return ApiError(503, "the service is shutting down; try again later", code="shutting_down", headers=headers)
