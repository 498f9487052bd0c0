"""Encoders by OpenVINO, an optional package: fused layers, in bfloat16 where the processor multiplies it.

A text is padded to a length that depends on its own alone, and OpenVINO gives a row the same bits in any number of rows
of one length (tests/serving/engines/test_encoder_openvino.py), so a text's company does not change its logits.
"""

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from serving.engines.encoder_transformers import TransformersEncoder

PACKAGE = "openvino"


def unsupported_reason() -> str:
    """Return why this engine cannot run here, as a clause; empty when it can."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"the package {PACKAGE} is not installed; install it with `pip install --no-deps {PACKAGE}`"
    return "it runs on CPUs, and there is a GPU" if torch.cuda.is_available() else ""


class OpenVinoEncoder(TransformersEncoder):
    """An `EncoderRunner` by OpenVINO."""

    name = "openvino"

    def __init__(self, folder: Path, auto_class: str) -> None:
        """Load the model in `folder` and convert it; raises what transformers or OpenVINO raises."""
        super().__init__(folder, auto_class)
        self._compiled = _compiled(self._model, self._input_names)
        del self._model

    def _logits_of(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self._compiled({name: values.numpy() for name, values in inputs.items()})[0]
        return torch.from_numpy(logits)


class _Logits(nn.Module):
    """The logits of `model` for inputs in the order of `names`."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self._names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self._names, inputs, strict=True))).logits
        return logits


def _compiled(model: PreTrainedModel, names: list[str]) -> Any:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # it would report each conversion
    import openvino

    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that tracing might fix: the comparison has texts of many lengths
        converted = openvino.convert_model(_Logits(model, names), example_input=example)
    for name, given in zip(names, converted.inputs, strict=True):
        given.get_tensor().set_names({name})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return openvino.Core().compile_model(converted, "CPU", settings)
