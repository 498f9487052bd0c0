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

    `auto` takes the fastest that is correct: on a CPU OpenVINO where it is installed and the processor has AMX, else
    int8, where they support the model and agree with the reference; else transformers. Raises EngineError where an
    engine requested by name cannot run the model or drifts.
    """
    makers = {"auto": _fastest, "openvino": _openvino, "int8": _int8, "transformers": _transformers}
    if settings.name not in makers:
        raise EngineError(
            f"service.engine is {settings.name}, which runs no models of this task; expected one of {', '.join(makers)}"
        )
    make_runner = functools.partial(makers[settings.name], folder, auto_class, settings)
    return EncoderEngine(folder, make_runner, names_special_tokens=names_special_tokens)


def _fastest(folder: Path, auto_class: str, settings: EngineSettings) -> EncoderRunner:
    makers = {} if torch.cuda.is_available() else {"openvino": _fast_openvino, "int8": _int8}
    for name, make_runner in makers.items():
        try:
            return make_runner(folder, auto_class, settings)
        except EngineError as error:
            logger.info("%s; using the next one", error)
        except Exception as error:
            logger.warning(
                "%s failed to load this model (%s: %s); using the next one", name, type(error).__name__, error
            )
    return _transformers(folder, auto_class, settings)


def _fast_openvino(folder: Path, auto_class: str, settings: EngineSettings) -> EncoderRunner:
    from serving.engines import onednn

    if not onednn.has_amx():
        raise EngineError("the engine openvino is not the fastest here: this processor has no AMX")
    return _openvino(folder, auto_class, settings)


def _openvino(folder: Path, auto_class: str, settings: EngineSettings) -> EncoderRunner:
    from serving.engines import encoder_openvino

    if reason := encoder_openvino.unsupported_reason():
        raise EngineError(f"the engine openvino cannot run this model: {reason}")
    return _compared(folder, auto_class, settings, encoder_openvino.OpenVinoEncoder(folder, auto_class))


def _transformers(folder: Path, auto_class: str, _: EngineSettings) -> EncoderRunner:
    from serving.engines.encoder_transformers import TransformersEncoder

    return TransformersEncoder(folder, auto_class)


def _int8(folder: Path, auto_class: str, settings: EngineSettings) -> EncoderRunner:
    from serving.engines import encoder_int8

    if reason := encoder_int8.unsupported_reason(folder):
        raise EngineError(f"the engine int8 cannot run this model: {reason}")
    return _compared(folder, auto_class, settings, encoder_int8.Int8Encoder(folder, auto_class))


def _compared(folder: Path, auto_class: str, settings: EngineSettings, runner: EncoderRunner) -> EncoderRunner:
    """Return `runner` if it agrees with the reference; raises EngineError."""
    from serving.engines import encoder_agreement

    compare = functools.partial(encoder_agreement.compare, auto_class=auto_class)
    require_agreement(folder, EngineUnderTest(runner.name, lambda: runner, compare), settings.cache)
    return runner
