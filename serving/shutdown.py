"""SIGTERM: take no more work, finish what is running within a bound, exit.

uvicorn closes its socket at once, but BentoML's master keeps its own copy open until the worker has ended, so that new
connections would hang, then be reset. Here the worker goes on answering, with 503, until it has nothing left to do.
A worker whose supervisor was killed stops in the same way.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ApiError

logger = logging.getLogger("bentoml.serving")

_STILL_ANSWERED = ("/livez", "/healthz", "/metrics")  # a probe that failed would have the process killed
_SUPERVISOR_SECONDS = 1  # between two checks that the supervisor still runs
_LAST_SECONDS = 1  # for the answers 503 of what was cut off


class GracefulShutdown:
    """ASGI middleware: the end of a worker."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        """Wrap `app`; requests that run at SIGTERM have `seconds`."""
        self._app = app
        self._seconds = seconds
        self._supervisor = os.getppid()
        self._running: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()  # while draining: nothing runs any more
        self._began: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def draining(self) -> bool:
        """Whether SIGTERM has come."""
        return self._began is not None and self._began.is_set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 503."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._listening(send))
        elif scope["type"] != "http" or scope["path"] in _STILL_ANSWERED:
            await self._app(scope, receive, send)
        elif self.draining:
            await _shutting_down().answer()(scope, receive, send)
        else:
            await self._run(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self.draining:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._app(scope, receive, counted)
        except asyncio.CancelledError:
            if not self.draining:
                raise
            # Out of time. uvicorn closes the connection of an answer that has begun: nobody shall take it for whole.
            if not started:
                await _shutting_down().answer()(scope, receive, send)
        finally:
            self._running.discard(task)
            if not self._running:
                self._idle.set()

    def _listening(self, send: Send) -> Send:
        """Return a `send` that takes over uvicorn's signals when the app has started."""

        async def started(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete" and threading.current_thread() is threading.main_thread():
                self._began = asyncio.Event()
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._take_over(number, loop)
                self._task = asyncio.create_task(self._drain())
            await send(message)

        return started

    def _take_over(self, number: signal.Signals, loop: asyncio.AbstractEventLoop) -> None:
        self._uvicorn: Any = signal.getsignal(number)

        def begin(number: int, _: FrameType | None) -> None:
            # Ctrl-C reaches the worker from the terminal and, as SIGTERM, from the master: only a second one is haste.
            if number == signal.SIGINT and self.draining:
                loop.call_soon_threadsafe(self._idle.set)
            assert self._began is not None
            loop.call_soon_threadsafe(self._began.set)

        signal.signal(number, begin)

    async def _drain(self) -> None:
        """Wait for the end to begin, then for the requests that run, then let uvicorn end."""
        await self._begin()
        logger.info("shutting down: requests that run (%d) have %g s", len(self._running), self._seconds)
        if not await self._done(self._seconds):
            logger.warning("shutting down: cutting off requests that still run (%d)", len(self._running))
            for task in self._running:
                task.cancel()
            await self._done(_LAST_SECONDS)
        server = getattr(self._uvicorn, "__self__", None)
        if server:  # it would wait for ever for clients that do not read their answers
            server.config.timeout_graceful_shutdown = _LAST_SECONDS
        self._uvicorn(signal.SIGTERM, None)

    async def _begin(self) -> None:
        """Wait for SIGTERM or the end of the supervisor: an orphan would keep the port, and nothing would stop it."""
        assert self._began is not None
        while os.getppid() == self._supervisor:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._began.wait(), _SUPERVISOR_SECONDS)
                return
        logger.error("the supervisor of this worker was killed: the worker ends, too")
        self._began.set()

    async def _done(self, seconds: float) -> bool:
        """Wait until nothing runs any more; return whether that came within the time."""
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
    return ApiError(503, "the service is shutting down; come back later", code="shutting_down", headers=headers)
