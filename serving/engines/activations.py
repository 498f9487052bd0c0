"""The activations that `serving.engines.kernels` computes."""

from enum import IntEnum


class Activation(IntEnum):
    """An activation of an MLP."""

    RELU = 0
    SILU = 1
    GELU = 2
    GELU_TANH = 3


ACTIVATIONS = {  # by transformers' names
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}
