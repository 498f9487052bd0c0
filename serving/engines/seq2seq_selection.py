"""Which engine runs an encoder with a decoder: `auto`, or one by name."""

import logging
from pathlib import Path

import torch

from serving.engines.agreement import EngineUnderTest, require_agreement
from serving.engines.protocol import Engine, EngineError
from serving.engines.runner import ModelRunner
from serving.engines.scheduler import Scheduler
from serving.settings import EngineSettings

logger = logging.getLogger("bentoml.serving")


def make(folder: Path, settings: EngineSettings) -> Engine:
    """Return an engine with the model in `folder`.

    `auto` takes the fastest that is correct: on a GPU `batched`, on a CPU CTranslate2 in int8, where they agree with
    the reference; else transformers. Raises EngineError where an engine requested by name cannot run the model or
    drifts.
    """
    if settings.name == "auto":
        return _make_fastest(folder, settings)
    makers = {"batched": _batched, "ctranslate2": _ctranslate2, "transformers": _transformers}
    if settings.name not in makers:
        raise EngineError(
            f"service.engine is {settings.name}, which runs no encoder-decoder; expected one of "
            f"{', '.join(('auto', *makers))}"
        )
    return makers[settings.name](folder, settings)


def _make_fastest(folder: Path, settings: EngineSettings) -> Engine:
    name, make_fast = ("batched", _batched) if torch.cuda.is_available() else ("ctranslate2", _ctranslate2)
    try:
        return make_fast(folder, settings)
    except EngineError as error:
        logger.info("%s; using transformers", error)
    except Exception as error:
        logger.warning("%s failed to load this model (%s: %s); using transformers", name, type(error).__name__, error)
    return _transformers(folder, settings)


def _batched(folder: Path, settings: EngineSettings) -> Engine:
    from serving.engines.seq2seq_batched import BatchedSeq2SeqRunner

    def make_runner() -> ModelRunner:
        try:
            return BatchedSeq2SeqRunner(folder)
        except EngineError as error:
            raise EngineError(f"the engine batched cannot run this model: {error}") from None

    return Scheduler(make_runner, settings.max_concurrency)


def _transformers(folder: Path, settings: EngineSettings) -> Engine:
    from serving.engines.seq2seq_transformers import Seq2SeqRunner  # takes seconds, and ctranslate2 needs less of it

    return Scheduler(lambda: Seq2SeqRunner(folder), settings.max_concurrency)


def _ctranslate2(folder: Path, settings: EngineSettings) -> Engine:
    from serving.engines import ctranslate2, seq2seq_agreement, seq2seq_ctranslate2

    if reason := ctranslate2.unsupported_reason(folder):
        raise EngineError(f"the engine ctranslate2 cannot run this model: {reason}")
    engine = seq2seq_ctranslate2.Ctranslate2Seq2SeqEngine(folder, settings.cache, settings.max_concurrency)
    try:
        under_test = EngineUnderTest(engine.name, lambda: engine, seq2seq_agreement.compare)
        require_agreement(folder, under_test, settings.cache)
    except BaseException:
        engine.close()
        raise
    return engine
