"""Scoring runs one prompt at a time, in a thread that ends when no prompt is left.

It uses all cores, so two at once gain nothing; and a thread that stayed would slow the engine down, see
`serving.engines.scheduler.Scheduler`. `serving.generation.TextGenerator` bounds how many prompts may wait here.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")


class ScoringThread:
    """A queue in front of at most one thread."""

    def __init__(self) -> None:
        """Begin without a thread."""
        self._lock = threading.Lock()
        self._pending = 0  # prompts that wait or are being scored
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Return what `work` returns in the thread; cancelled while it waits, it does not run."""
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")
            self._pending += 1
            future = self._thread.submit(work, *arguments)
        future.add_done_callback(self._on_done)
        return await asyncio.wrap_future(future)

    def _on_done(self, _: "Future[Any]") -> None:
        with self._lock:
            self._pending -= 1
            if not self._pending and self._thread:
                self._thread.shutdown(wait=False)
                self._thread = None
