"""The model behind the HTTP service: loaded beside it, then asked one request at a time."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving import model_folder
from serving.engine import Engine, Generation, Sampling
from serving.model_folder import ModelFolder

logger = logging.getLogger("bentoml.serving")


@dataclass(frozen=True)
class Loaded:
    """A model that can generate."""

    engine: Engine
    version: str
    data: str | None


class ServedModel:
    """Finds and loads the model in `root`, and passes requests on to its engine's one thread."""

    def __init__(self, root: Path, make_engine: Callable[[Path], Engine]) -> None:
        """Take note of what to load; `load` does it."""
        self.status: Literal["loading", "up", "failed"] = "loading"
        self.folder: ModelFolder | None = None
        self.loaded: Loaded | None = None
        self._root = root
        self._make_engine = make_engine
        # One thread: torch keeps a pool of its own for each that calls it, and requests in the queue can be taken back.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def load(self) -> None:
        """Load the model; on any failure the service stays, says so and logs why."""
        try:
            self.folder = model_folder.find(self._root)
            logger.info("loading the model in %s, %s", self.folder.path, self.folder.why)
            self.loaded = await asyncio.get_running_loop().run_in_executor(self._thread, self._load, self.folder.path)
        except Exception:
            self.status = "failed"
            logger.exception("the model could not be loaded")
        else:
            self.status = "up"
            logger.info("serving model %s, trained on data %s", self.loaded.version, self.loaded.data)

    def _load(self, folder: Path) -> Loaded:
        return Loaded(self._make_engine(folder), model_folder.version(folder), model_folder.data_hash(folder))

    async def generate(self, loaded: Loaded, prompt: str, sampling: Sampling) -> Generation:
        """Return what `loaded` writes. A cancelled call frees the engine at its next token."""
        cancelled = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, loaded.engine.generate, prompt, sampling, cancelled
            )
        finally:
            cancelled.set()

    def close(self) -> None:
        """Take no more requests."""
        self._thread.shutdown(wait=False, cancel_futures=True)
