"""The layers of a decoder as functions of rows of tokens, built from a `DecoderSpec` and the model's weights.

A row's result has the same bits whatever other rows there are: sums go along a row only. Queries, keys and values are
one product, and so are gate and up.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors import safe_open

from serving.engines.decoder_spec import DecoderSpec, Rotary

Function = Callable[[torch.Tensor], torch.Tensor]
MakeLinear = Callable[[torch.Tensor, torch.Tensor | None], Function]  # of a weight, (out, in), and a bias

_UNSPLIT = 16384  # elements that torch leaves to one thread, whichever the activation
_INDEX = "model.safetensors.index.json"


class LayerNorm:
    """LayerNorm (arXiv:1607.06450)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> None:
        """Take the parameters."""
        self._weight, self._bias, self._epsilon = weight, bias, epsilon

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, (rows, width), normed."""
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._epsilon)


class RMSNorm:
    """RMSNorm (arXiv:1910.07467): w x / sqrt(mean(x^2) + epsilon); six times as fast as torch's own on a CPU."""

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        """Take the parameters; `weight` is (width,), or (heads, head_dim) for a norm of each head."""
        width = weight.shape[-1]
        self._weight = weight * math.sqrt(width)
        self._epsilon = epsilon * width

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, (rows, width) or (rows, heads, head_dim), normed along its last dimension."""
        # Each operation on the norms is exact to the last bit, so scalar and vector instructions agree.
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        return (x * self._weight).div_(squares.add_(self._epsilon).sqrt_())


class RotaryTable:
    """Rotations by position, for heads whose dimensions are interleaved: two that rotate together are neighbours."""

    def __init__(self, rotary: Rotary, context: int) -> None:
        """Compute the rotations of all positions, so that each has the same bits at every use."""
        angles = torch.arange(context, dtype=torch.float32)[:, None] * rotary.frequencies
        self._rotations = torch.polar(torch.full_like(angles, rotary.scale), angles)[:, None]

    def __getitem__(self, positions: torch.Tensor) -> torch.Tensor:
        """Return rotations, (tokens, 1, head_dim / 2)."""
        return self._rotations[positions]

    @staticmethod
    def rotate(heads: torch.Tensor, rotations: torch.Tensor) -> None:
        """Rotate `heads`, (tokens, heads, head_dim), in place."""
        torch.view_as_complex(heads.view(*heads.shape[:2], -1, 2)).mul_(rotations)


class RowwiseActivation:
    """An activation that gives a row the same bits in any batch.

    torch's threads each take a part of a large tensor, which may begin or end within a row. The last few elements of a
    part are computed by scalar instructions, whose results differ from those of vectors by a bit. Two threads split
    between vectors; for more of them, this calls torch with parts that it does not split.
    """

    def __init__(self, activation: Function) -> None:
        """Take the activation, of single elements."""
        self._activation = activation

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activation of `x`, (rows, width)."""
        width = x.shape[1]
        if x.numel() <= _UNSPLIT or (torch.get_num_threads() <= 2 and width % 64 == 0):
            return self._activation(x)
        return torch.cat([self._activation(part) for part in torch.split(x, max(1, _UNSPLIT // width))])


class MLP:
    """Two products with an activation between them."""

    def __init__(self, up: Function, activation: Function, down: Function) -> None:
        """Take the parts."""
        self._up, self._activation, self._down = up, activation, down

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return (rows, width)."""
        return self._down(self._activation(self._up(x)))


class GatedMLP:
    """The activation of a gate, times another product (arXiv:2002.05202): SwiGLU, GeGLU."""

    def __init__(self, gate_and_up: Function, activation: Function, down: Function) -> None:
        """Take the parts."""
        self._gate_and_up, self._activation, self._down = gate_and_up, activation, down

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return (rows, width)."""
        gate, up = self._gate_and_up(x).chunk(2, dim=-1)
        return self._down(self._activation(gate).mul_(up))


@dataclass(frozen=True)
class Layer:
    """A layer of a decoder, without the attention itself."""

    attention_norm: Function
    qkv: Function
    head_norm: Function | None  # of queries and keys
    attention_out: Function
    mlp_norm: Function
    mlp: Function


class Weights:
    """The tensors of a model's folder, read one by one, from one file or several."""

    def __init__(self, folder: Path, spec: DecoderSpec, make_linear: MakeLinear) -> None:
        """Open the files; raises OSError or what safetensors raises."""
        self._spec, self._names, self._make_linear = spec, spec.names, make_linear
        files = {"model.safetensors"}
        if (folder / _INDEX).is_file():
            files = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        self._tensors: dict[str, tuple[Any, str]] = {}  # by name without the prefix: the file, and the name in it
        for file in files:
            opened: Any = safe_open(folder / file, framework="pt")
            for name in opened.keys():  # noqa: SIM118 - it has no iterator
                self._tensors[name.removeprefix(self._names.prefix)] = opened, name

    def tokens(self) -> torch.Tensor:
        """Return the embeddings of tokens, (vocabulary, width), as they are in the file."""
        return self._tensor(f"{self._names.tokens}.weight").clone()

    def positions(self) -> torch.Tensor | None:
        """Return the embeddings of learned positions, (context, width)."""
        return self._float32(f"{self._names.positions}.weight") if self._names.positions else None

    def head(self) -> Function:
        """Return what makes logits."""
        name = self._names.tokens if self._spec.is_head_tied else self._names.head
        return self._make_linear(self._float32(f"{name}.weight"), None)

    def final_norm(self) -> Function:
        """Return the norm before the head."""
        return self._norm(self._names.final_norm)

    def layer(self, number: int) -> Layer:
        """Return a layer."""
        names = self._names
        mlp = GatedMLP if len(names.mlp_in) == 2 else MLP
        return Layer(
            attention_norm=self._norm(names.attention_norm.format(number)),
            qkv=self._linear([name.format(number) for name in names.qkv], rotated=2 if self._spec.rotary else 0),
            head_norm=self._head_norm(number),
            attention_out=self._linear([names.attention_out.format(number)]),
            mlp_norm=self._norm(names.mlp_norm.format(number)),
            mlp=mlp(
                self._linear([name.format(number) for name in names.mlp_in]),
                RowwiseActivation(self._spec.activation),
                self._linear([names.mlp_out.format(number)]),
            ),
        )

    def _tensor(self, name: str) -> torch.Tensor:
        file, full_name = self._tensors[name]
        tensor: torch.Tensor = file.get_tensor(full_name)
        return tensor

    def _float32(self, name: str) -> torch.Tensor:
        """Return a copy, so that the file does not stay in memory."""
        return self._tensor(name).to(torch.float32, copy=True)

    def _linear(self, names: Sequence[str], rotated: int = 0) -> Function:
        """Return several products as one; the first `rotated` of them make heads that are rotated."""
        weights = [self._float32(f"{name}.weight") for name in names]
        biases = [self._float32(f"{name}.bias") for name in names if f"{name}.bias" in self._tensors]
        if self._names.transposed:
            weights = [weight.t() for weight in weights]
        for parameters in (weights, biases):
            parameters[:rotated] = [self._interleaved(tensor) for tensor in parameters[:rotated]]
        return self._make_linear(torch.cat(weights), torch.cat(biases) if biases else None)

    def _interleaved(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor`, (heads x head_dim, ...), with each head's halves interleaved, for `RotaryTable`."""
        halves = tensor.view(-1, 2, self._spec.head_dim // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)

    def _norm(self, name: str) -> Function:
        weight = self._float32(f"{name}.weight").add_(self._spec.norm_offset)
        if self._spec.is_rms_norm:
            return RMSNorm(weight, self._spec.epsilon)
        return LayerNorm(weight, self._float32(f"{name}.bias"), self._spec.epsilon)

    def _head_norm(self, number: int) -> Function | None:
        names, spec = self._names, self._spec
        if not names.query_norm:
            return None
        query, key = (
            self._interleaved(self._float32(f"{name.format(number)}.weight"))
            for name in (names.query_norm, names.key_norm)
        )
        weight = torch.cat([query.expand(spec.heads, -1), key.expand(spec.key_value_heads, -1)])
        return RMSNorm(weight, spec.epsilon)
