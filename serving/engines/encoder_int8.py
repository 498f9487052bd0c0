"""Encoders on a CPU with products of 8-bit integers, for texts of any length in one batch without padding.

Sums of integers are exact in any order, and attention is computed for each text as if it were alone, so the logits of a
text have the same bits in any batch. Embeddings and head are transformers' own; what stands between them is replaced.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, repeat
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from serving.engines import few_rows, fused_layers, onednn
from serving.engines.activations import ACTIVATIONS, Activation
from serving.engines.encoder import Encoded, Logits
from serving.engines.encoder_transformers import TransformersEncoder
from serving.engines.fused_layers import FusedLayer
from serving.engines.onednn import Int8Linear

_ROWS = 16  # larger products have a multiple of it: oneDNN prepares one anew for each number of rows, for a millisecond
_FEW = 256  # tokens that one thread reads: two are hardly faster, and wait for each other where requests need a core


@dataclass(frozen=True)
class _Architecture:
    """Where a model has its layers, and a layer its parts, as attributes."""

    layers: str  # of the base model
    queries_keys_values: tuple[str, str, str]
    projection: str
    attention_norm: str
    up: str
    down: str
    norm: str
    activation: str  # in config.json


_BERT = _Architecture(
    "encoder",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
    "hidden_act",
)
_DISTILBERT = _Architecture(
    "transformer",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
    "activation",
)
_ARCHITECTURES = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), _BERT),
    "distilbert": _DISTILBERT,
}


def unsupported_reason(folder: Path) -> str:
    """Return why this engine cannot run the model in `folder` on this machine, as a clause; empty when it can."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (model_type := config.get("model_type")) not in _ARCHITECTURES:
        return f"it runs {', '.join(sorted(_ARCHITECTURES))} only, and this model is of type {model_type}"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "it reads texts in both directions, and this model's config.json says is_decoder or add_cross_attention"
    if (activation := config.get(_ARCHITECTURES[model_type].activation, "gelu")) not in ACTIVATIONS:
        return f"it does not support the activation function {activation}"
    if not onednn.is_supported():
        return "this processor has no instructions for products of 8-bit integers (AVX-512 VNNI)"
    return ""


class Int8Encoder(TransformersEncoder):
    """An `EncoderRunner` in int8."""

    name = "int8"

    def __init__(self, folder: Path, auto_class: str) -> None:
        """Load the model in `folder`, for which `unsupported_reason` is empty."""
        super().__init__(folder, auto_class)
        self._threads = torch.get_num_threads()
        base = self._model.base_model
        architecture = _ARCHITECTURES[self.config.model_type]
        layers: Any = attrgetter(architecture.layers)(base)
        activation = ACTIVATIONS[getattr(self.config, architecture.activation)]
        self._layers = _PackedLayers(layers.layer, architecture, activation, self.config.num_attention_heads)
        setattr(base, architecture.layers, self._layers)
        for name, module in list(self._model.named_modules()):
            if isinstance(module, nn.Linear):
                self._model.set_submodule(name, _HeadLinear(module))

    @torch.inference_mode()
    def logits(self, texts: Sequence[Encoded]) -> list[Logits]:
        """Return the logits of each text; see `EncoderRunner.logits`."""
        threads = 1 if sum(len(text.ids) for text in texts) < _FEW else self._threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        order = sorted(range(len(texts)), key=lambda at: len(texts[at].ids))
        outputs = self._read_packed([texts[at] for at in order])
        by_place = dict(zip(order, outputs, strict=True))
        return [by_place[at] if self._is_masked else by_place[at][0] for at in range(len(texts))]

    def _read_packed(self, texts: Sequence[Encoded]) -> list[Logits]:
        """Return the logits of texts, sorted by length, at the tokens that the head reads."""
        sizes = [self._padded_length(len(text.ids)) for text in texts]
        starts = [0, *accumulate(sizes)]
        rest = _missing_rows(starts[-1])  # that many texts of one token follow
        places = [text.masks if self._is_masked else (0,) for text in texts]
        kept = [start + at for start, of_text in zip(starts, places, strict=False) for at in of_text]
        lengths = [len(text.ids) for text in texts] + [1] * rest
        kept_rows = torch.tensor(kept + [0] * (_missing_rows(len(kept)) if kept else 1))
        self._layers.batch = _Batch(_groups(lengths, [*sizes, *[1] * rest]), kept_rows, is_row=self._is_masked)

        def packed(values: Iterable[Sequence[int]], padding: int) -> torch.Tensor:
            """Return (1, tokens)."""
            padded = ((*one, *repeat(padding, size - len(one))) for one, size in zip(values, sizes, strict=True))
            return torch.tensor([[*chain.from_iterable(padded), *repeat(padding, rest)]])

        first = self._first_position
        inputs = {
            "input_ids": packed((text.ids for text in texts), self._padding),
            "position_ids": packed((range(first, first + size) for size in sizes), first),
        }
        if self._has_types:
            inputs["token_type_ids"] = packed((text.type_ids for text in texts), 0)
        logits: torch.Tensor = self._model(**inputs).logits
        rows = logits.view(-1, logits.shape[-1])[: len(kept)]
        return [part.numpy() for part in torch.split(rows, [len(of_text) for of_text in places])]


def _missing_rows(rows: int) -> int:
    """Return how many more rows a product of `rows` has."""
    return -rows % _ROWS if rows > few_rows.MOST else 0


@dataclass(frozen=True)
class _Group:
    """Texts of one length, one after the other."""

    texts: int
    length: int  # with padding
    mask: torch.Tensor | None  # added to scores, (texts, 1, 1, length): -inf for padding; None without padding


@dataclass(frozen=True)
class _Batch:
    """Texts one after the other."""

    groups: Sequence[_Group]
    kept: torch.Tensor  # the tokens that the head reads
    is_row: bool  # whether the head reads them as one row, else as the first token of a row each


def _groups(lengths: Sequence[int], sizes: Sequence[int]) -> list[_Group]:
    """Return groups of texts, sorted by their padded sizes."""
    groups = []
    for size, alike in groupby(zip(sizes, lengths, strict=True), key=itemgetter(0)):
        real = torch.tensor([length for _, length in alike])
        mask = None
        if int(real.min()) < size:
            mask = torch.zeros(len(real), 1, 1, size)
            mask.masked_fill_(torch.arange(size) >= real[:, None, None, None], -math.inf)
        groups.append(_Group(len(real), size, mask))
    return groups


class _PackedLayers(nn.Module):
    """Stands in for the layers of an encoder."""

    batch: _Batch  # set before each call

    def __init__(self, layers: nn.ModuleList, architecture: _Architecture, activation: Activation, heads: int) -> None:
        super().__init__()
        qkv = [_linear(layer, *architecture.queries_keys_values) for layer in layers]
        self._round = fused_layers.rounding(qkv[0])
        self._layers = [
            _Layer(layer, architecture, activation, this, following)
            for layer, this, following in zip(layers, qkv, [*qkv[1:], None], strict=True)
        ]
        self._heads = heads

    def forward(self, hidden_states: torch.Tensor, **_: object) -> BaseModelOutputWithPastAndCrossAttentions:
        """Return the states of the batch's kept tokens for `hidden_states`, (1, tokens, hidden)."""
        x = hidden_states[0]  # (tokens, hidden)
        scales = torch.empty(len(x))
        rounded = self._round(scales, x=x)
        for layer in self._layers:
            attended = self._attend(layer.finish(scales, layer.qkv.multiply(rounded)))
            if layer is self._layers[-1]:
                x, attended = x[self.batch.kept], attended[self.batch.kept]
                scales = torch.empty(len(x))
            product = layer.projection.multiply(layer.attended(scales, x=attended))
            product = layer.up.multiply(layer.attention_norm(scales, product, x))
            product = layer.down.multiply(layer.activation(scales, product))
            rounded = layer.norm(scales, product, x)
        states = x[None] if self.batch.is_row else x[:, None]
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """Return (tokens, hidden) for `qkv`, (tokens, 3 x hidden)."""
        parts = []
        start = 0
        for group in self.batch.groups:
            end = start + group.texts * group.length
            of_group = qkv[start:end].view(group.texts, group.length, 3, self._heads, -1)
            queries, keys, values = of_group.permute(2, 0, 3, 1, 4)  # each (texts, heads, length, head_dim)
            out = F.scaled_dot_product_attention(queries, keys, values, group.mask)
            parts.append(out.transpose(1, 2).reshape(end - start, -1))
            start = end
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Layer:
    """The parts of a layer, in their order."""

    def __init__(
        self,
        layer: nn.Module,
        names: _Architecture,
        activation: Activation,
        qkv: Int8Linear,
        next_qkv: Int8Linear | None,
    ) -> None:
        def norm(path: str, before: Int8Linear, after: Int8Linear | None) -> FusedLayer:
            module = attrgetter(path)(layer)
            weight, bias = module.weight.detach(), module.bias.detach()
            return fused_layers.norm(weight, bias, module.eps, before, after, is_post_norm=True)

        self.qkv = qkv
        self.finish = fused_layers.finish(qkv)
        self.projection = _linear(layer, names.projection)
        self.attended = fused_layers.rounding(self.projection)
        self.up, self.down = _linear(layer, names.up), _linear(layer, names.down)
        self.attention_norm = norm(names.attention_norm, self.projection, self.up)
        self.activation = fused_layers.activation(activation, self.up, self.down)
        self.norm = norm(names.norm, self.down, next_qkv)


class _HeadLinear(nn.Module):
    """Stands in for a linear layer of the head."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._linear = Int8Linear(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
        self._round, self._finish = fused_layers.rounding(self._linear), fused_layers.finish(self._linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., out) for `x`, (..., in)."""
        rows = x.flatten(0, -2).contiguous()
        scales = torch.empty(len(rows))
        product = self._linear.multiply(self._round(scales, x=rows))
        return self._finish(scales, product).view(*x.shape[:-1], -1)


def _linear(layer: nn.Module, *paths: str) -> Int8Linear:
    """Return linear layers of a layer as one."""
    parts = [attrgetter(path)(layer) for path in paths]
    weight, bias = (torch.cat([getattr(part, name) for part in parts]).detach() for name in ("weight", "bias"))
    return Int8Linear(weight, bias)
