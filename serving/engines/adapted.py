"""A LoRA adapter on the model of an engine, as an engine of its own: requests for both share every step."""

import time
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError

from serving import model_folder
from serving.engines import lora
from serving.engines.agreement import COMPARED_AT_ONCE, ComparableRunner, EngineUnderTest, require_agreement
from serving.engines.lora import Adapter
from serving.engines.protocol import Engine, EngineError, Sampling, Stream, unsupported_fields
from serving.engines.scheduler import Scheduler
from serving.model_loader import AdapterFiles
from serving.settings import EngineSettings

_WAIT_SECONDS = 60.0  # for the memory of a text that is compared


class AdaptableEngine(Engine, Protocol):
    """An engine that takes adapters."""

    def load_adapter(self, adapter: Adapter) -> Any:
        """Return what `submit` takes; raises EngineError where the adapter does not fit the model."""

    def unload_adapter(self, adapter: Any) -> None:
        """End the requests with an adapter, and free it; does nothing once the engine is closed."""

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: Any = ...) -> Stream:
        """Return the stream of generated tokens; see `Engine.submit`."""


class AdaptedEngine:
    """See `serving.engines.protocol.Engine`; to be closed before the engine that it is on."""

    def __init__(self, engine: AdaptableEngine, adapter: Adapter) -> None:
        """Load the adapter; raises EngineError where it does not fit the model."""
        self._engine = engine
        self.name = engine.name
        self.context = engine.context
        self.start = engine.start
        self.end = engine.end
        self.tokenizer = engine.tokenizer
        self.unsupported_fields = unsupported_fields(engine)
        self.adapter = engine.load_adapter(adapter)

    @property
    def waiting(self) -> int:
        """Requests without a slot, of all that share the model."""
        return self._engine.waiting

    @property
    def running(self) -> int:
        """Requests with a slot, of all that share the model."""
        return self._engine.running

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Return the stream of generated tokens; see `Engine.submit`."""
        return self._engine.submit(prompt, sampling, self.adapter)

    def close(self) -> None:
        """End its requests, and free the adapter; the model stays."""
        self._engine.unload_adapter(self.adapter)


class _BetweenSteps:
    """The model with an adapter as a `ModelRunner` for another thread than the scheduler's, which goes on serving."""

    def __init__(self, scheduler: Scheduler, adapter: Any) -> None:
        self._scheduler, self._adapter = scheduler, adapter
        self.end = scheduler.end
        self.prefill_tokens: int = scheduler.call(lambda runner: runner.prefill_tokens)

    def open(self, length: int) -> Any:
        until = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                return self._scheduler.call(lambda runner: runner.open(length, self._adapter))
            except MemoryError:  # requests have it
                if time.monotonic() > until:
                    raise EngineError("there was no memory for the comparison with the reference") from None
                time.sleep(0.1)

    def step(self, slots: Sequence[Any], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        logits: torch.Tensor = self._scheduler.call(lambda runner: runner.step(slots, tokens).float().cpu())
        return logits  # the next step may overwrite those on a GPU

    def close(self, slot: Any) -> None:
        self._scheduler.call(lambda runner: runner.close(slot))


def read_checked(files: AdapterFiles) -> Adapter:
    """Return the adapter in `files`; raises EngineError where it is damaged, or known to be of another model."""
    adapter = lora.read(files.folder, model_folder.version(files.folder))
    try:
        difference = lora.difference(files.base, adapter, files.merged) if files.merged else ""
    except (OSError, SafetensorError) as error:
        raise EngineError(f"its merged model in {files.merged} cannot be read: {error}") from None
    if difference:
        raise EngineError(
            f"it was trained from another model than the one in {files.base}: {difference}; serve the one that it was"
            " trained from, such as models/base of its checkout with MODEL_DIR, or serve this one by itself"
        )
    return adapter


def adapt(engine: Engine, files: AdapterFiles, settings: EngineSettings) -> AdaptedEngine:
    """Return an adapter on top of `engine`, which runs the model in `files.base`.

    Raises EngineError where the engine takes no adapters, this one is of another model, or the engine drifts from the
    reference with it.
    """
    if not hasattr(engine, "load_adapter"):
        raise EngineError(f"the engine {engine.name} takes no adapters; set service.engine to auto")
    adapter = read_checked(files)
    adapted = AdaptedEngine(cast(AdaptableEngine, engine), adapter)
    if isinstance(engine, Scheduler):  # vLLM says nothing of logits, nor is its base compared
        try:
            runner: Any = _BetweenSteps(engine, adapted.adapter)
            tested = EngineUnderTest(f"{engine.name}-lora", lambda: ComparableRunner(runner, COMPARED_AT_ONCE))
            require_agreement(files.base, tested, settings.cache, adapter)
        except BaseException:
            adapted.close()
            raise
    return adapted
