"""Load a model from a folder: check its version and task, make its engine, and test that it answers."""

import asyncio
import contextlib
import ctypes
import functools
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

from serving import model_folder
from serving.engines.protocol import EngineError, EngineT
from serving.model_folder import ModelFolder

if TYPE_CHECKING:
    from serving.engines.scoring import Scorer  # torch, which BentoML's master does not need

logger = logging.getLogger("bentoml.serving")

SMOKE_TEST_SECONDS = 60.0

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ModelKind(Generic[EngineT]):
    """How the models of a task are recognised, loaded and tested."""

    unsuitable_reason: Callable[[Path], str]  # why a folder's model is none, as the end of a sentence; empty: it is one
    make_engine: Callable[[Path], EngineT]
    smoke_test: Callable[[EngineT], Awaitable[None]]  # raises RefusedError or EngineError
    adapt: "Callable[[EngineT, AdapterFiles], EngineT] | None" = None  # makes the engine of an adapter on another's


@dataclass(frozen=True)
class AdapterFiles:
    """A LoRA adapter, and what it changes."""

    folder: Path  # in peft's format
    base: Path  # the model that the engine runs
    merged: Path | None  # the model that was judged, which has the adapter in its weights


@dataclass(frozen=True, eq=False)
class LoadedModel(Generic[EngineT]):
    """A model that can serve."""

    engine: EngineT
    version: str
    data: str | None  # the hash of its training data, where known
    folder: ModelFolder
    name: str  # champion (the served one, wherever it comes from), base, previous, or that of an adapter
    base: "Callable[[], LoadedModel[EngineT]] | None" = None  # of an adapter
    adapter: str | None = None  # the version of an adapter's own files


class RefusedError(Exception):
    """A model must not serve; the message says why, as a sentence."""


class ModelLoader(Generic[EngineT]):
    """Loads models one after the other in one thread, so that no more of them are in memory than needed."""

    def __init__(self, kind: ModelKind[EngineT]) -> None:
        """Take how models are loaded."""
        self._kind = kind
        self._is_closed = False
        self._scorers: WeakKeyDictionary[LoadedModel[EngineT], asyncio.Task[Scorer]] = WeakKeyDictionary()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="models")

    async def run(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        """Return what `work` returns in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, functools.partial(work, *arguments))

    async def load(
        self, folder: ModelFolder, name: str, base: "Callable[[], LoadedModel[EngineT]] | None" = None
    ) -> LoadedModel[EngineT]:
        """Return the model in `folder`, or the adapter on `base`, loaded and tested; raises RefusedError."""
        loaded = await (self.run(self._adapt, folder, name, base) if base else self.run(self._load, folder, name))
        try:
            await self._smoke_test(loaded.engine)
        except BaseException:
            await asyncio.to_thread(loaded.engine.close)
            raise
        return loaded

    async def _smoke_test(self, engine: EngineT) -> None:
        """Raise RefusedError unless the engine answers plausibly, and in time."""
        try:
            async with asyncio.timeout(SMOKE_TEST_SECONDS):
                await self._kind.smoke_test(engine)
        except TimeoutError:
            raise RefusedError(f"its smoke test took more than {SMOKE_TEST_SECONDS:g} s") from None
        except EngineError as error:
            raise RefusedError(f"its smoke test failed: {_first_line(error)}") from None

    def _load(self, folder: ModelFolder, name: str) -> LoadedModel[EngineT]:
        with self._refusing(f"the model in {folder.path}"):
            if reason := self._kind.unsuitable_reason(folder.path):
                raise RefusedError(f"{folder.path} {reason}")
            version = model_folder.version(folder.path)
            if folder.version not in (None, version):
                raise RefusedError(f"{folder.path} holds {version}, not {folder.version}: a file was changed")
            data = model_folder.data_hash(folder.path)
            engine = self._kind.make_engine(folder.path)
            trim_heap()  # after loading, converting and comparing, a third of the process for GPT-2
        return self._checked(LoadedModel(engine, version, data, folder, name))

    def _adapt(
        self, folder: ModelFolder, name: str, get_base: Callable[[], LoadedModel[EngineT]]
    ) -> LoadedModel[EngineT]:
        assert folder.adapter
        base = get_base()
        with self._refusing(f"the adapter in {folder.adapter}"):
            if self._kind.adapt is None:
                raise RefusedError("models of this task take no adapters; leave service.adapters empty")
            _require_unchanged(base)
            files = AdapterFiles(folder.adapter, base.folder.path, folder.merged)
            version = model_folder.version(folder.path)
            if folder.merged and folder.version not in (None, version):
                raise RefusedError(f"{folder.path} holds {version}, not {folder.version}: a file was changed")
            adapter = model_folder.version(folder.adapter)
            data = model_folder.data_hash(folder.path)
            engine = in_own_thread(self._kind.adapt, base.engine, files)
            trim_heap()
        return self._checked(LoadedModel(engine, folder.version or version, data, folder, name, get_base, adapter))

    def _checked(self, loaded: LoadedModel[EngineT]) -> LoadedModel[EngineT]:
        if self._is_closed:
            loaded.engine.close()
            raise RefusedError("the service is stopping")
        return loaded

    @contextlib.contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Raise RefusedError for what goes wrong in the block."""
        try:
            yield
        except RefusedError:
            raise
        except EngineError as error:  # its message is complete
            raise RefusedError(f"{what} did not load: {error}") from None
        except Exception as error:
            logger.exception("%s did not load", what)
            raise RefusedError(f"{what} did not load: {_first_line(error)}") from None

    async def scorer(self, loaded: LoadedModel[EngineT]) -> "Scorer":
        """Return the scorer of a model, made at the first call.

        Raises RefusedError where the files are no longer the model's, or do not load.
        """
        if loaded not in self._scorers:
            making = self.run(_make_scorer, loaded)
            self._scorers[loaded] = asyncio.create_task(making)
        try:
            return await asyncio.shield(self._scorers[loaded])
        except RefusedError:
            self.forget_scorer(loaded)
            raise

    def forget_scorer(self, loaded: LoadedModel[EngineT]) -> None:
        """Free the scorer of a model."""
        self._scorers.pop(loaded, None)

    def stop(self) -> None:
        """Refuse models that are still being loaded."""
        self._is_closed = True

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _make_scorer(loaded: LoadedModel[EngineT]) -> "Scorer":
    from serving.engines import lora
    from serving.engines.scoring import Scorer

    base = loaded.base() if loaded.base else loaded
    _require_unchanged(base)
    if loaded.folder.adapter and model_folder.version(loaded.folder.adapter) != loaded.adapter:
        raise RefusedError(
            f"the files of adapter {loaded.version} were deleted or changed: it generates but cannot score"
        )
    try:
        adapter = lora.read(loaded.folder.adapter, loaded.version) if loaded.folder.adapter else None
        return in_own_thread(Scorer, base.folder.path, adapter)
    except Exception as error:
        logger.exception("the scorer of the model in %s did not load", loaded.folder.path)
        raise RefusedError(f"the model {loaded.version} did not load for scoring: {_first_line(error)}") from None


def _require_unchanged(loaded: LoadedModel[EngineT]) -> None:
    """Raise RefusedError where the files of a loaded model are no longer what was loaded."""
    if model_folder.version(loaded.folder.path) != loaded.version:
        raise RefusedError(
            f"the files of model {loaded.version} were deleted or changed: it generates but cannot score, nor take new"
            " adapters"
        )


def in_own_thread(work: Callable[..., _Result], *arguments: object) -> _Result:
    """Return what `work` returns, in a thread that ends then: one that stayed would slow the engine, see Scheduler."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work, *arguments).result()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def trim_heap() -> None:
    """Collect garbage, return heap pages to the OS, and leave what stays loaded out of later collections.

    A full collection that visits the half a million objects of torch and the model stops every request for 0.6 s.
    """
    gc.unfreeze()  # a freed model may be in cycles
    gc.collect()
    gc.freeze()
    gc.collect()  # nearly free: Python's next full collection waits for a quarter of what the last one left
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
