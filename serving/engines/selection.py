"""Which engine runs a model: `auto`, or one by name. An engine that rounds is compared with the reference first."""

import logging
from pathlib import Path

import torch

from serving.engines.agreement import COMPARED_AT_ONCE, ComparableRunner, EngineUnderTest, require_agreement
from serving.engines.protocol import Engine, EngineError
from serving.engines.runner import ModelRunner
from serving.engines.scheduler import Scheduler
from serving.settings import EngineSettings

logger = logging.getLogger("bentoml.serving")


def make(folder: Path, settings: EngineSettings) -> Engine:
    """Return an engine with the model in `folder`.

    `auto` takes the fastest that is correct: on a GPU `batched`, on a CPU int8, where they support the model and agree
    with the reference; else transformers. Raises EngineError where an engine requested by name cannot run the model or
    drifts.
    """
    if settings.name == "auto":
        return _make_fastest(folder, settings)
    makers = {
        "int8": _int8,
        "batched": _batched,
        "ctranslate2": _ctranslate2,
        "transformers": _transformers,
        "vllm": _vllm,
    }
    if settings.name not in makers:
        raise EngineError(f"service.engine is {settings.name}, expected one of {', '.join(('auto', *makers))}")
    return makers[settings.name](folder, settings)


def _make_fastest(folder: Path, settings: EngineSettings) -> Engine:
    name, make_fast = ("batched", _batched) if torch.cuda.is_available() else ("int8", _int8)
    try:
        return make_fast(folder, settings)
    except EngineError as error:
        logger.info("%s; using transformers", error)
    except Exception as error:
        logger.warning("%s failed to load this model (%s: %s); using transformers", name, type(error).__name__, error)
    return _transformers(folder, settings)


def _batched(folder: Path, settings: EngineSettings) -> Engine:
    from serving.engines.batched import BatchedRunner

    def make_runner() -> ModelRunner:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            slots = 2 * settings.max_concurrency + (COMPARED_AT_ONCE if settings.adapters else 0)
            runner = BatchedRunner(folder, slots, device)
            runner.require_agreement()
        except EngineError as error:
            raise EngineError(f"the engine batched cannot run this model: {error}") from None
        return runner

    return Scheduler(make_runner, settings.max_concurrency)


def _transformers(folder: Path, settings: EngineSettings) -> Engine:
    from serving.engines.transformers import TransformersRunner  # the import takes seconds, and int8 needs less of it

    return Scheduler(lambda: TransformersRunner(folder), settings.max_concurrency)


def _int8(folder: Path, settings: EngineSettings) -> Engine:
    from serving.engines import decoder

    if reason := decoder.unsupported_reason(folder):
        raise EngineError(f"the engine int8 cannot run this model: {reason}")

    def make_runner() -> ModelRunner:
        runner = decoder.DecoderRunner(folder)
        require_agreement(folder, EngineUnderTest(runner.name, lambda: ComparableRunner(runner)), settings.cache)
        return runner

    return Scheduler(make_runner, settings.max_concurrency)


def _ctranslate2(folder: Path, settings: EngineSettings) -> Engine:
    from serving.engines import ctranslate2

    if reason := ctranslate2.unsupported_reason(folder):
        raise EngineError(f"the engine ctranslate2 cannot run this model: {reason}")
    engine = ctranslate2.Ctranslate2Engine(folder, settings.cache, settings.max_concurrency)
    try:
        require_agreement(folder, EngineUnderTest(engine.name, lambda: engine), settings.cache)
    except BaseException:
        engine.close()
        raise
    return engine


def _vllm(folder: Path, settings: EngineSettings) -> Engine:
    from serving.engines.vllm import VllmEngine

    return VllmEngine(folder, settings)
