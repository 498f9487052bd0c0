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

from serving.engines import onednn
from serving.engines.decoder_layers import RowwiseActivation
from serving.engines.encoder import Encoded, Logits
from serving.engines.encoder_transformers import TransformersEncoder
from serving.engines.onednn import Int8Linear

_ROWS = 16  # products have a multiple of it: oneDNN prepares one anew for each number of rows, for a millisecond
_FEW = 256  # tokens that one thread reads: two are hardly faster, and wait for each other where requests need a core


@dataclass(frozen=True)
class _Architecture:
    """Where a model has its layers, and a layer its parts, as attributes."""

    layers: str  # of the base model
    queries_keys_values: tuple[str, str, str]
    projection: str
    attention_norm: str
    up: str
    activation: str
    down: str
    norm: str


_BERT = _Architecture(
    "encoder",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "intermediate.intermediate_act_fn",
    "output.dense",
    "output.LayerNorm",
)
_DISTILBERT = _Architecture(
    "transformer",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.activation",
    "ffn.lin2",
    "output_layer_norm",
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
        self._layers = _PackedLayers(layers.layer, architecture, self.config.num_attention_heads)
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
        rest = -starts[-1] % _ROWS  # that many texts of one token follow
        places = [text.masks if self._is_masked else (0,) for text in texts]
        kept = [start + at for start, of_text in zip(starts, places, strict=False) for at in of_text]
        lengths = [len(text.ids) for text in texts] + [1] * rest
        kept_rows = torch.tensor(kept + [0] * (-len(kept) % _ROWS if kept else _ROWS))
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

    def __init__(self, layers: nn.ModuleList, architecture: _Architecture, heads: int) -> None:
        super().__init__()
        self._layers = [_Layer(layer, architecture) for layer in layers]
        self._heads = heads

    def forward(self, hidden_states: torch.Tensor, **_: object) -> BaseModelOutputWithPastAndCrossAttentions:
        """Return the states of the batch's kept tokens for `hidden_states`, (1, tokens, hidden)."""
        x = hidden_states[0]  # (tokens, hidden)
        kept = self.batch.kept
        for number, layer in enumerate(self._layers, start=1):
            attended = self._attend(layer.queries_keys_values.of_many(x))
            if number == len(self._layers):
                x, attended = x[kept], attended[kept]
            x = layer.attention_norm(layer.projection.of_many(attended).add_(x))
            x = layer.norm(layer.down.of_many(layer.activation(layer.up.of_many(x))).add_(x))
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
    """The parts of a layer."""

    def __init__(self, layer: nn.Module, names: _Architecture) -> None:
        def linear(*paths: str) -> Int8Linear:
            parts = [attrgetter(path)(layer) for path in paths]
            return _rounded(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))

        self.queries_keys_values = linear(*names.queries_keys_values)
        self.projection = linear(names.projection)
        self.attention_norm = attrgetter(names.attention_norm)(layer)
        self.up = linear(names.up)
        self.activation = RowwiseActivation(attrgetter(names.activation)(layer))
        self.down = linear(names.down)
        self.norm = attrgetter(names.norm)(layer)


class _HeadLinear(nn.Module):
    """Stands in for a linear layer of the head."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._linear = _rounded(linear.weight, linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., out) for `x`, (..., in)."""
        return self._linear.of_many(x.flatten(0, -2)).view(*x.shape[:-1], -1)


def _rounded(weight: torch.Tensor, bias: torch.Tensor | None) -> Int8Linear:
    return Int8Linear(weight.detach(), None if bias is None else bias.detach())
