"""Frozen weights in 4 bits (NF4; Dettmers et al. 2023, "QLoRA") through bitsandbytes, an optional package.

`quantize` is for a model with adapters, see `lora`; `as_floats` gives a layer back for its adapter to be merged into.
Only layers with an adapter are in 4 bits: what their rounding costs is what the adapters can learn.
"""

import importlib.util
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.command import UserError

_BLOCK = 64  # numbers with one scale
# Of a number: 4 bits, and for each block of them a scale in 8 bits, for each 256 of which there is one in 32.
BYTES = 1 / 2 + 1 / _BLOCK + 4 / (_BLOCK * 256)


def check() -> None:
    """Raise UserError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "params.yaml: finetune.frozen_weights: nf4 needs bitsandbytes, which is not installed; install it with"
            " `pip install --no-deps -c constraints.txt bitsandbytes` (all it needs is here already), or set it to fp32"
        )


def layers(model: torch.nn.Module) -> list[BaseTunerLayer]:
    """Return the layers of `model` that have an adapter."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def quantize(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Round the weights under adapters to 4 bits, in place, on the GPU where there is one; return the model.

    Args:
        model: With adapters.
        dtype: Of the products, for which weights become floats again.
    """
    for layer in layers(model):
        layer.base_layer = _quantized(layer.get_base_layer(), dtype)
    return model


def _quantized(layer: Any, dtype: torch.dtype) -> Any:
    from bitsandbytes.nn import Linear4bit, Params4bit

    is_conv1d = isinstance(layer, Conv1D)  # GPT-2 keeps its weights as (in, out)
    weight = (layer.weight.T if is_conv1d else layer.weight).detach()
    outputs, inputs = weight.shape
    if inputs % _BLOCK:  # bitsandbytes 0.50.2 would read it wrongly on a CPU, where a block must not span two rows
        return layer
    with torch.device("meta"):
        quantized = Linear4bit(inputs, outputs, False, dtype, quant_type="nf4", quant_storage=dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Stored as numbers of `dtype`: T5 asks for the weight's type, and would cast its inputs to bytes.
    quantized.weight = Params4bit(weight.to(dtype).contiguous(), quant_type="nf4", quant_storage=dtype).to(device)
    if layer.bias is not None:
        quantized.bias = torch.nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
    quantized.is_conv1d = is_conv1d
    quantized.support_avx512bf16_for_cpu = False  # it would repack the weights while validating, without a gradient
    return quantized


def as_floats(layer: Any) -> Any:
    """Return `layer` with its weights in float32, as they were in training, in the class it had before `quantize`."""
    if not hasattr(layer, "is_conv1d"):
        return layer
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    outputs, inputs = weight.shape
    with torch.device("meta"):
        plain = Conv1D(outputs, inputs) if layer.is_conv1d else torch.nn.Linear(inputs, outputs, layer.bias is not None)
    plain.weight = torch.nn.Parameter(weight.T.contiguous() if layer.is_conv1d else weight)
    if layer.bias is not None:
        plain.bias = torch.nn.Parameter(layer.bias.detach().float())
    return plain
