"""A loaded model, and how many requests use it: it is freed after the last one."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Generic

from serving.engines.protocol import EngineT
from serving.model_loader import LoadedModel


class RefCountedModel(Generic[EngineT]):
    """Lends a model, and with it the one that it is an adapter on."""

    def __init__(self, loaded: LoadedModel[EngineT], base: "RefCountedModel[EngineT] | None" = None) -> None:
        """Start without requests."""
        self.loaded = loaded
        self.base = base
        self.leases = 0
        self.unused = asyncio.Event()
        self.unused.set()
        self.last_used = time.monotonic()

    @contextlib.contextmanager
    def lease(self) -> Iterator[LoadedModel[EngineT]]:
        """Keep the engine until the end of the block."""
        self.leases += 1
        self.unused.clear()
        try:
            with self.base.lease() if self.base else contextlib.nullcontext():
                yield self.loaded
        finally:
            self.leases -= 1
            self.last_used = time.monotonic()
            if not self.leases:
                self.unused.set()
