"""The layers of a decoder, built from a `DecoderSpec` and the model's weights.

Queries, keys and values are one product, and so are gate and up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from serving.engines import fused_layers
from serving.engines.decoder_spec import DecoderSpec, Rotary
from serving.engines.fused_layers import FusedLayer, Linear
from serving.engines.lora_rows import LinearPart
from serving.engines.tensor_files import open_tensors

MakeLinear = Callable[[torch.Tensor, torch.Tensor | None], Linear]  # of a weight, (out, in), and a bias


@dataclass(frozen=True)
class Layer:
    """A layer of a decoder, without the attention itself; each part takes what the one before it returns."""

    qkv: Linear
    heads: FusedLayer  # of queries, keys and values
    attended: FusedLayer
    attention_out: Linear
    mlp_norm: FusedLayer
    mlp_in: Linear
    activation: FusedLayer
    mlp_out: Linear
    next_norm: FusedLayer  # of the attention of the next layer, or before the head


class Weights:
    """The tensors of a model's folder."""

    def __init__(self, folder: Path, spec: DecoderSpec, make_linear: MakeLinear) -> None:
        """Open the files; raises OSError or what safetensors raises."""
        self.parts: dict[str, LinearPart] = {}  # of the linear layers that were made, by their names in transformers
        self._spec, self._names, self._make_linear = spec, spec.names, make_linear
        self._rotations = _rotations(spec.rotary, spec.context) if spec.rotary else {}
        prefix = spec.names.prefix
        self._tensors = {name.removeprefix(prefix): read for name, read in open_tensors(folder).items()}

    def tokens(self) -> torch.Tensor:
        """Return the embeddings of tokens, (vocabulary, width), as they are in the file."""
        return self._tensor(f"{self._names.tokens}.weight").clone()

    def positions(self) -> torch.Tensor | None:
        """Return the embeddings of learned positions, (context, width)."""
        return self._float32(f"{self._names.positions}.weight") if self._names.positions else None

    def layers(self) -> tuple[FusedLayer, list[Layer], Linear]:
        """Return the norm before the first layer, the layers, and what makes logits."""
        names, spec = self._names, self._spec
        head = self._make_linear(self._float32(f"{names.tokens if spec.is_head_tied else names.head}.weight"), None)
        products = [self._products(number) for number in range(spec.layers)]
        layers = []
        for number, (qkv, attention_out, mlp_in, mlp_out) in enumerate(products):
            is_last = number == spec.layers - 1
            layers.append(
                Layer(
                    qkv=qkv,
                    heads=self._heads(number, qkv),
                    attended=fused_layers.rounding(attention_out),
                    attention_out=attention_out,
                    mlp_norm=self._norm(names.mlp_norm.format(number), attention_out, mlp_in),
                    mlp_in=mlp_in,
                    activation=fused_layers.activation(spec.activation, mlp_in, mlp_out),
                    mlp_out=mlp_out,
                    next_norm=self._norm(
                        names.final_norm if is_last else names.attention_norm.format(number + 1),
                        mlp_out,
                        head if is_last else products[number + 1][0],
                    ),
                )
            )
        return self._norm(names.attention_norm.format(0), None, products[0][0]), layers, head

    def _products(self, number: int) -> tuple[Linear, Linear, Linear, Linear]:
        """Return the linear layers of a layer: queries, keys and values; out; up, or gate and up; down."""
        names = self._names
        of_layer = names.qkv, (names.attention_out,), names.mlp_in, (names.mlp_out,)
        qkv, attention_out, mlp_in, mlp_out = (
            self._linear([name.format(number) for name in together]) for together in of_layer
        )
        return qkv, attention_out, mlp_in, mlp_out

    def _tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]()

    def _float32(self, name: str) -> torch.Tensor:
        """Return a copy, so that the file does not stay in memory."""
        return self._tensor(name).to(torch.float32, copy=True)

    def _linear(self, names: Sequence[str]) -> Linear:
        """Return several products as one."""
        weights = [self._float32(f"{name}.weight") for name in names]
        biases = [self._float32(f"{name}.bias") for name in names if f"{name}.bias" in self._tensors]
        if self._names.transposed:
            weights = [weight.t() for weight in weights]
        linear = self._make_linear(torch.cat(weights), torch.cat(biases) if biases else None)
        ends = accumulate(len(weight) for weight in weights)
        for name, weight, end in zip(names, weights, ends, strict=True):
            self.parts[self._names.prefix + name] = LinearPart(linear, end - len(weight), end)
        return linear

    def _norm(self, name: str, before: Linear | None, after: Linear) -> FusedLayer:
        weight = self._float32(f"{name}.weight").add_(self._spec.norm_offset)
        bias = None if self._spec.is_rms_norm else self._float32(f"{name}.bias")
        return fused_layers.norm(weight, bias, self._spec.epsilon, before, after)

    def _heads(self, number: int, qkv: Linear) -> FusedLayer:
        """Return what norms and rotates queries and keys."""
        names, spec = self._names, self._spec
        weight = None
        if names.query_norm:
            query, key = (self._float32(f"{name.format(number)}.weight") for name in (names.query_norm, names.key_norm))
            weight = torch.cat([query.expand(spec.heads, -1), key.expand(spec.key_value_heads, -1)])
        return fused_layers.finish(
            qkv,
            weight=weight,
            epsilon=spec.epsilon,
            rotated=spec.heads + spec.key_value_heads if self._rotations else 0,
            head_dim=spec.head_dim,
            **self._rotations,
        )


def _rotations(rotary: Rotary, context: int) -> dict[str, torch.Tensor]:
    """Return cosines and sines of all positions, (context, head_dim / 2)."""
    angles = torch.arange(context, dtype=torch.float32)[:, None] * rotary.frequencies
    return {"cosines": angles.cos().mul_(rotary.scale), "sines": angles.sin().mul_(rotary.scale)}
