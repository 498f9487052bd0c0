"""The LoRA adapters served on top of a model: each follows its own champion, and shares the model's engine.

Each is loaded next to the one that it replaces, and tested, before one reference is swapped; where that fails, the old
one stays. All of them belong to one loaded model: with another one they are loaded anew.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from bentoml.exceptions import BentoMLException

from pipeline.registry.model_version import short
from serving import adapter_folder, metrics, model_folder
from serving.engines.protocol import EngineT
from serving.errors import ApiError
from serving.model_folder import ModelFolder
from serving.model_loader import LoadedModel, ModelLoader, RefusedError
from serving.ref_counted import RefCountedModel

logger = logging.getLogger("bentoml.serving")

_RETRY_SECONDS = 60.0  # until an adapter that was refused is tried again, without a change of its files


@dataclass
class _Source(Generic[EngineT]):
    """An adapter of params.yaml."""

    path: str
    model: RefCountedModel[EngineT] | None = None
    refused: str | None = None  # why not the one that is there now, as a sentence
    fingerprint: Any = None  # of the files that were there at the last attempt
    retry_at: float = 0.0
    attempted: asyncio.Event = field(default_factory=asyncio.Event)  # set once it was loaded or refused


class ServedAdapters(Generic[EngineT]):
    """Finds, loads and follows the adapters of `service.adapters`, and lends them to requests."""

    def __init__(
        self,
        root: Path,
        sources: Mapping[str, str],
        loader: ModelLoader[EngineT],
        retire: Callable[[RefCountedModel[EngineT]], None],
    ) -> None:
        """Take where adapters are, by name, what loads them, and what frees one after its last request."""
        self._root = root
        self._sources: dict[str, _Source[EngineT]] = {name: _Source(path) for name, path in sources.items()}
        self._loader = loader
        self._is_closed = False
        self._retire = retire

    @property
    def names(self) -> list[str]:
        """The names of the adapters that are loaded."""
        return [name for name, source in self._sources.items() if source.model]

    @property
    def state(self) -> dict[str, tuple[LoadedModel[EngineT] | None, str | None]]:
        """What is served under each name, and why what is there now was refused."""
        return {
            name: (source.model.loaded if source.model else None, source.refused)
            for name, source in self._sources.items()
        }

    def name_of(self, requested: str) -> str | None:
        """Return the name of the adapter of this name or version, whose first 12 digits are enough; None for others."""
        if requested in self._sources:
            return requested
        for name, source in self._sources.items():
            own = source.model.loaded.version if source.model else ""
            if own and requested in (own, short(own)):
                return name
        return None

    async def find(self, name: str) -> RefCountedModel[EngineT]:
        """Return an adapter, once it was attempted to load it; the caller leases it before it awaits anything else.

        Raises ApiError 503 where it was refused.
        """
        source = self._sources[name]
        while source.model is None:
            await source.attempted.wait()
            if self._is_closed:
                raise ApiError(503, "the service is stopping", code="stopping", headers={"Retry-After": "5"})
            if source.model is None and source.refused is not None:
                message = f"the adapter {name} is not served: {source.refused}"
                headers = {"Retry-After": f"{_RETRY_SECONDS:.0f}"}
                raise ApiError(503, message, code="model_failed", param="model", headers=headers)
        return source.model

    async def follow(self, base: RefCountedModel[EngineT]) -> None:
        """Load the adapters that are new or have changed, on top of `base`."""
        for name, source in self._sources.items():
            try:
                if await self._is_due(name, source):
                    await self._load(name, source, base)
            except Exception as error:
                self._refuse(name, source, error)
            source.attempted.set()
            loaded = source.model.loaded if source.model else None
            metrics.record_adapter(name, loaded.version if loaded else None, is_refused=source.refused is not None)

    def _refuse(self, name: str, source: _Source[EngineT], error: Exception) -> None:
        """Keep what is served, and the reason, which is logged once."""
        reason = str(error) or type(error).__name__
        source.retry_at = time.monotonic() + _RETRY_SECONDS
        if reason != source.refused:
            kept = f"; keeping {source.model.loaded.version}" if source.model else ""
            is_expected = isinstance(error, RefusedError | BentoMLException)
            logger.error("the adapter %s was refused: %s%s", name, reason, kept, exc_info=not is_expected)
        source.refused = reason

    async def _is_due(self, name: str, source: _Source[EngineT]) -> bool:
        """Return whether an adapter was not attempted since its files changed, or is to be attempted again."""
        fingerprint = await self._loader.run(self._fingerprint, name, source.path)
        is_new = fingerprint != source.fingerprint or not source.attempted.is_set()
        source.fingerprint = fingerprint
        return is_new or (source.refused is not None and time.monotonic() >= source.retry_at)

    def close(self) -> None:
        """Let requests wait no longer."""
        self._is_closed = True
        for source in self._sources.values():
            source.attempted.set()

    def drop(self) -> None:
        """Serve none of them until `follow` has loaded them on another model."""
        for source in self._sources.values():
            source.attempted.clear()
            source.refused = None
            if source.model:
                self._retire(source.model)
            source.model = None

    async def _load(self, name: str, source: _Source[EngineT], base: RefCountedModel[EngineT]) -> None:
        """Swap in what is there now under a name; raises RefusedError or BentoMLException where it must not serve."""
        folder: ModelFolder = await self._loader.run(adapter_folder.find, self._root, name, source.path)
        old = source.model
        if old and folder.version and folder.version == old.loaded.version:
            if source.refused is not None:
                logger.info("the adapter %s goes on with %s", name, folder.version)
            source.refused = None
            return
        with base.lease():  # it may be replaced meanwhile
            loaded = await self._loader.load(folder, name, lambda: base.loaded)
        source.model, source.refused = RefCountedModel(loaded, base), None
        logger.info("serving the adapter %s, model %s, %s", name, loaded.version, folder.why)
        if old:
            self._retire(old)

    def _fingerprint(self, name: str, path: str) -> object:
        try:
            return [model_folder.stat_fingerprint(one) for one in adapter_folder.watched(self._root, name, path)]
        except OSError as error:  # to be reported by the attempt that follows
            return str(error)
