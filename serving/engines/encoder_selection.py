"""Which engine reads with an encoder: `auto`, or one by name."""

import functools
import logging
from pathlib import Path

import torch

from serving.engines.agreement import EngineUnderTest, require_agreement
from serving.engines.encoder import EncoderEngine, EncoderRunner
from serving.engines.protocol import EngineError
from serving.settings import EngineSettings

logger = logging.getLogger("bentoml.serving")


def make(
    folder: Path, auto_class: str, settings: EngineSettings, *, names_special_tokens: bool = False
) -> EncoderEngine:
    """Return an engine with the model in `folder`; for the other arguments see `EncoderEngine`.

    `auto` takes the fastest that is correct: int8 on a CPU where it supports the model and agrees with the reference,
    else transformers. Raises EngineError where an engine requested by name cannot run the model or drifts.
    """
    makers = {"auto": _fastest, "int8": _int8, "transformers": _transformers}
    if settings.name not in makers:
        raise EngineError(
            f"service.engine is {settings.name}, which runs no models of this task; expected one of {', '.join(makers)}"
        )
    make_runner = functools.partial(makers[settings.name], folder, auto_class, settings)
    return EncoderEngine(folder, make_runner, names_special_tokens=names_special_tokens)


def _fastest(folder: Path, auto_class: str, settings: EngineSettings) -> EncoderRunner:
    if not torch.cuda.is_available():
        try:
            return _int8(folder, auto_class, settings)
        except EngineError as error:
            logger.info("%s; using transformers", error)
        except Exception as error:
            logger.warning("int8 failed to load this model (%s: %s); using transformers", type(error).__name__, error)
    return _transformers(folder, auto_class, settings)


def _transformers(folder: Path, auto_class: str, _: EngineSettings) -> EncoderRunner:
    from serving.engines.encoder_transformers import TransformersEncoder

    return TransformersEncoder(folder, auto_class)


def _int8(folder: Path, auto_class: str, settings: EngineSettings) -> EncoderRunner:
    from serving.engines import decoder_layers, encoder_agreement, encoder_int8, encoder_transformers, onednn

    if reason := encoder_int8.unsupported_reason(folder):
        raise EngineError(f"the engine int8 cannot run this model: {reason}")
    runner = encoder_int8.Int8Encoder(folder, auto_class)
    modules = (decoder_layers, encoder_agreement, encoder_int8, encoder_transformers, onednn)
    sources = tuple(str(module.__file__) for module in modules)
    compare = functools.partial(encoder_agreement.compare, auto_class=auto_class)
    require_agreement(folder, EngineUnderTest(runner.name, sources, lambda: runner, compare), settings.cache)
    return runner
