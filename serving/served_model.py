"""The models behind the HTTP service: loaded beside it, replaced while it runs, freed when no request uses them.

The served model follows the registry's champion. A new champion is loaded and tested beside the old one; then one
reference is swapped, running requests finish on the old model, and it is freed. A model that does not load, or fails
its smoke test, is refused: the old one stays.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal

from bentoml.exceptions import BentoMLException

from pipeline import paths
from pipeline.params import Service
from pipeline.registry.model_version import short
from serving import metrics, model_folder
from serving.engines.protocol import EngineT
from serving.errors import ApiError
from serving.model_folder import ModelFolder, NothingToServe, StatFingerprint
from serving.model_loader import LoadedModel, ModelKind, ModelLoader, RefusedError, trim_heap
from serving.ref_counted import RefCountedModel
from serving.served_adapters import ServedAdapters

if TYPE_CHECKING:
    from serving.engines.scoring import Scorer  # torch, which BentoML's master does not need

logger = logging.getLogger("bentoml.serving")

FIRST_RETRY_SECONDS = 60.0  # until a refused version is tried again; doubles each time
_LAST_RETRY_SECONDS = 3600.0
_NEWER_CANDIDATE = "; a newer one is there: make it the champion with `fresh promote` to serve it"


@dataclass(frozen=True)
class Refusal:
    """A version that was refused."""

    version: str | None  # None where not even that can be read
    reason: str  # a sentence
    at: str  # UTC, ISO 8601, seconds


class ServedModel(Generic[EngineT]):
    """Finds, loads and follows the model to serve from the project in `root`, and lends models to requests.

    Everything but reading, loading and freeing happens on the event loop's thread.
    """

    def __init__(self, root: Path, kind: ModelKind[EngineT], settings: Service) -> None:
        """Take where to look, and how models of the project's task are loaded; `run` starts."""
        self.status: Literal["loading", "up", "waiting", "failed"] = "loading"
        self.waiting_for: str | None = None  # why there is nothing to serve yet and what to do, as a sentence
        self.folder: ModelFolder | None = None  # of the served model; before, of the one being loaded
        self.refusal: Refusal | None = None  # None once the champion is served
        self.swaps = 0
        self._root = root
        self._settings = settings
        self._kind = kind
        self._loader = ModelLoader(kind)
        self._served: RefCountedModel[EngineT] | None = None
        self._comparisons: dict[str, ModelFolder] = {}  # other models that requests may name
        self._comparing: dict[str, asyncio.Task[RefCountedModel[EngineT]]] = {}  # those that were requested
        self.adapters = ServedAdapters(root, settings.adapters, self._loader, self._retire)
        self._open: set[RefCountedModel[EngineT]] = set()  # all whose engines are not closed
        self._retiring: set[asyncio.Task[None]] = set()  # each waits for the last request of a model, to free it
        self._watched: tuple[Path, ...] = ()  # what is watched besides the pointer
        self._fingerprints: tuple[StatFingerprint, ...] | None = None  # of the pointer and of these
        self._retry_at = math.inf
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._first_attempt = asyncio.Event()  # set once the first model is loaded, or could not be
        self._closing: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> LoadedModel[EngineT] | None:
        """The served model, for its attributes; `acquire` it to use it."""
        return self._served.loaded if self._served else None

    async def run(self) -> None:
        """Load the model, then follow the champion and free idle models, until cancelled."""
        while True:
            try:
                if self._served is None or self._served.loaded.folder.follows:
                    await self.check_champion()
            except Exception:
                logger.exception("checking the champion failed; the next check follows")
            self._first_attempt.set()
            if self._served:
                await self.adapters.follow(self._served)
            await asyncio.sleep(self._settings.follow_seconds)
            self._free_unused()

    async def wait_for_first_attempt(self, seconds: float) -> None:
        """Wait until `run` has loaded the first model or failed to, at most `seconds`.

        A worker that starts to listen only then does not refuse requests that another one could answer.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_attempt.wait(), seconds)

    # Lending

    @contextlib.asynccontextmanager
    async def acquire(self, name: str | None = None) -> AsyncIterator[LoadedModel[EngineT]]:
        """Lend a model until the end of the block: the served one, without a name or by its version, or another.

        Raises ApiError: 503 while there is none or where another one cannot be loaded, 404 for unknown names.
        """
        model = await self._find(name)
        with model.lease() as loaded:
            yield loaded

    def names(self) -> list[str]:
        """Return the names that requests may use; the first is the served model's version."""
        served = [self._served.loaded.version, "champion"] if self._served else []
        return [*served, *self._comparisons, *self.adapters.names]

    async def scorer(self, loaded: LoadedModel[EngineT]) -> "Scorer":
        """Return the scorer of `loaded`, which must be acquired; made at the first call. Raises ApiError 503."""
        try:
            return await self._loader.scorer(loaded)
        except RefusedError as error:
            raise ApiError(503, str(error), code="model_failed", headers={"Retry-After": "60"}) from None

    async def _find(self, name: str | None) -> RefCountedModel[EngineT]:
        """Return the model with this name; the caller leases it before it awaits anything else."""
        served = self._available()
        if name in (None, "champion", served.loaded.version, short(served.loaded.version)):
            return served
        if adapter := self.adapters.name_of(str(name)):
            return await self.adapters.find(adapter)
        ready = {other: task.result().loaded.version for other, task in self._comparing.items() if _has_result(task)}
        aliases = {alias: other for other, version in ready.items() for alias in (version, short(version))}
        other = aliases.get(str(name), str(name))
        if other not in self._comparisons:
            message = f"there is no model of this name; there are {', '.join(self.names())}"
            raise ApiError(404, message, code="model_not_found", param="model")
        while True:
            task = self._comparing.get(other)
            if task is None:
                task = self._comparing[other] = asyncio.create_task(self._load_comparison(other))
            model = await asyncio.shield(task)
            if self._comparing.get(other) is task:  # else it was freed in this very moment
                return model

    def _available(self) -> RefCountedModel[EngineT]:
        """Return the served model; raises ApiError 503."""
        if self._closing:
            raise ApiError(503, "the service is stopping", code="stopping", headers={"Retry-After": "5"})
        if self._served is None and self.waiting_for:
            raise ApiError(503, self.waiting_for, code="no_champion", headers={"Retry-After": "10"})
        if self._served is None and self.status == "failed":
            message = "the model could not be loaded; see `GET /` for the reason"
            raise ApiError(503, message, code="model_failed", headers={"Retry-After": "10"})
        if self._served is None:
            raise ApiError(503, "the model is still being loaded", code="model_loading", headers={"Retry-After": "1"})
        return self._served

    async def _load_comparison(self, name: str) -> RefCountedModel[EngineT]:
        """Load another model. A failure is kept for a minute, so that further requests are cheap."""
        try:
            return self._add(await self._loader.load(self._comparisons[name], name))
        except RefusedError as error:
            logger.warning("the requested model %s was refused: %s", name, error)
            asyncio.get_running_loop().call_later(FIRST_RETRY_SECONDS, self._comparing.pop, name, None)
            headers = {"Retry-After": f"{FIRST_RETRY_SECONDS:.0f}"}
            message = f"the model {name} could not be loaded; see the service's log"
            raise ApiError(503, message, code="model_failed", param="model", headers=headers) from None

    def _free_unused(self) -> None:
        """Free other models that were not requested for a while, or whose name now means another folder."""
        for name, task in list(self._comparing.items()):
            if not _has_result(task):
                continue
            model = task.result()
            idle = 0.0 if model.leases else time.monotonic() - model.last_used
            if model.loaded.folder != self._comparisons.get(name) or idle > self._settings.beside_minutes * 60:
                logger.info("freeing %s, model %s", name, model.loaded.version)
                del self._comparing[name]
                self._retire(model)

    # Following the champion

    async def check_champion(self) -> None:
        """Swap in the champion where the pointer or its files changed, or a refused version is due for a retry."""
        fingerprints = await self._loader.run(self._stat)
        if fingerprints != self._fingerprints:
            self._retry_seconds = FIRST_RETRY_SECONDS
        elif time.monotonic() < self._retry_at:
            return
        self._fingerprints = fingerprints
        served = self._served
        if served and served.loaded.folder.version is None and not fingerprints[0]:
            await self._loader.run(self._note_newer_candidate, served.loaded)
        else:
            await self._follow()

    def _stat(self) -> tuple[StatFingerprint, ...]:
        return tuple(map(model_folder.stat_fingerprint, (self._root / model_folder.POINTER, *self._watched)))

    async def _follow(self) -> None:
        """Swap in the model to serve now, or refuse it."""
        version: str | None = None
        try:
            folder, self._comparisons = await self._loader.run(self._find_folders)
            version = folder.version
            await self._watch(*([folder.path] if version else self._candidate_files()))
            if self._served is None:
                self.folder = folder
            elif not folder.follows or (folder.version is None and self._served.loaded.folder.version):
                raise RefusedError(f"the registry no longer names a champion; {folder.path} is not served instead")
            if self._served is None or folder.version != self._served.loaded.version:
                await self._swap(folder)
            else:
                self._served.loaded = replace(self._served.loaded, folder=folder)
                self.folder = folder
        except NothingToServe as error:
            if self._served is None:
                await self._wait_for_champion(str(error))
            else:
                await self._refuse(None, f"the registry no longer names a champion; {error}")
        except BentoMLException as error:  # the pointer, or the version that it names, is damaged
            version, damaged = await self._loader.run(model_folder.pointer_target, self._root)
            await self._watch(*([damaged] if damaged else []))
            await self._refuse(version, str(error))
        except RefusedError as error:
            await self._refuse(version, str(error))
        else:
            self.refusal, self._retry_at = None, math.inf
            self._record_served()

    async def _wait_for_champion(self, sentence: str) -> None:
        """Serve nothing until there is a champion, or a candidate that may be served."""
        await self._watch(*self._candidate_files())
        if sentence != self.waiting_for:
            logger.warning("%s; waiting", sentence)
        self.status, self.waiting_for, self.folder = "waiting", sentence, None
        self.refusal, self._retry_at = None, math.inf

    def _candidate_files(self) -> tuple[Path, Path]:
        """Return what decides whether the candidate is served, and how its verdict is reported."""
        return self._root / paths.CANDIDATE, self._root / paths.VERDICT

    async def _watch(self, *watched: Path) -> None:
        """Check for changes in these files and folders too, from now on, and no longer in others."""
        if watched != self._watched and self._fingerprints:
            self._watched = watched
            fingerprints = await self._loader.run(self._stat)
            self._fingerprints = self._fingerprints[0], *fingerprints[1:]

    def _record_served(self) -> None:
        if self._served:
            metrics.record_served_model(self._served.loaded.version, self._served.loaded.engine.name)

    def _find_folders(self) -> tuple[ModelFolder, dict[str, ModelFolder]]:
        unsuitable = self._kind.unsuitable_reason
        comparisons = model_folder.comparison_models(self._root, self._settings.beside, unsuitable)
        return model_folder.find(self._root, unsuitable, serve_candidate=self._settings.serve_candidate), comparisons

    async def _swap(self, folder: ModelFolder) -> None:
        """Load the model in `folder` beside the served one and replace that; raises RefusedError."""
        while len(self._retiring) > 1:  # else swaps in a row fill the memory with models whose requests still run
            await asyncio.wait(self._retiring, return_when=asyncio.FIRST_COMPLETED)
        logger.info("loading the model in %s, %s", folder.path, folder.why)
        new = self._add(await self._loader.load(folder, "champion"))
        old, self._served = self._served, new
        self.folder, self.status, self.waiting_for = new.loaded.folder, "up", None
        verdict = folder.verdict.outcome
        logger.info("serving model %s (%s), trained on data %s", new.loaded.version, verdict, new.loaded.data)
        if old:
            self.swaps += 1
            self.adapters.drop()
            self._retire(old)

    async def _refuse(self, version: str | None, reason: str) -> None:
        """Keep the served model, record the reason, and schedule the next attempt."""
        self.waiting_for = None
        self.refusal = Refusal(version, reason, datetime.now(UTC).isoformat(timespec="seconds"))
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)
        previous = self._comparisons.get("previous")
        if self._served is None and previous and self.folder and self.folder.follows:
            with contextlib.suppress(RefusedError):  # then there is nothing to serve, as before
                await self._swap(replace(previous, why=f"{previous.why}, as the champion was refused", follows=True))
                self._record_served()
        metrics.count_refused_swap()
        if self._served is None:
            self.status = "failed"
            logger.error("the model could not be loaded: %s", reason)
        else:
            refused = version or "what the registry names"
            logger.error("keeping model %s: %s was refused: %s", self._served.loaded.version, refused, reason)

    def _note_newer_candidate(self, loaded: LoadedModel[EngineT]) -> None:
        """Say in `folder` where the candidate is no longer the one that is served, else what its verdict is now."""
        try:
            candidate = model_folder.candidate(self._root, self._kind.unsuitable_reason)
        except NothingToServe:  # one is being made
            return
        if model_folder.version(candidate.path) == loaded.version:
            self.folder = candidate
        else:
            self.folder = replace(loaded.folder, why=loaded.folder.why + _NEWER_CANDIDATE)

    # Freeing

    def _add(self, loaded: LoadedModel[EngineT]) -> RefCountedModel[EngineT]:
        model = RefCountedModel(loaded)
        self._open.add(model)
        return model

    def _retire(self, model: RefCountedModel[EngineT]) -> None:
        """Free a model after its last request."""
        task = asyncio.create_task(self._free(model))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _free(self, model: RefCountedModel[EngineT]) -> None:
        await model.unused.wait()
        self._loader.forget_scorer(model.loaded)
        self._open.discard(model)
        await asyncio.to_thread(model.loaded.engine.close)
        logger.info("freed model %s", model.loaded.version)
        del model.loaded
        await asyncio.to_thread(trim_heap)

    async def close(self) -> None:
        """Lend no more, wait at most `drain_seconds` for running requests, then close all engines."""
        self._loader.stop()
        self.adapters.close()
        self._closing = self._closing or asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        drain_seconds = self._settings.drain_seconds
        if running := [asyncio.create_task(model.unused.wait()) for model in self._open]:
            _, late = await asyncio.wait(running, timeout=drain_seconds)
            for task in late:
                task.cancel()
        if cut_off := sum(model.leases for model in self._open):
            logger.warning("cutting off %d requests that ran for more than %g s", cut_off, drain_seconds)
        await asyncio.gather(*(asyncio.to_thread(model.loaded.engine.close) for model in self._open))
        self._open.clear()
        self._loader.close()


def _has_result(task: asyncio.Task[RefCountedModel[EngineT]]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
