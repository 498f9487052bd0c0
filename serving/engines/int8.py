"""GPT-2 on a CPU with products of 8-bit integers: a quarter of float32's memory is read at each token.

Weights have a scale a column, activations a scale a row (as LLM.int8(), arXiv:2208.07339, without its outliers), so
that a text's figures hang on that text alone: sums of integers are exact in any order, and whatever else is in the
batch, the same bits come out. Layers and names are GPT-2's, as in transformers' GPT2LMHeadModel.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import load_file

from serving.engines.transformers import load_tokenizer

_CAPACITIES = (64, 96, 128, 192, 256, 384, 512)  # of the caches that texts of about a length share; then by 512
_BLOCK = 32  # caches are read in multiples of so many tokens, so that sums over them are split alike for every length
_KEPT_MEMORY = 2**26  # bytes of a cache that nobody uses: making it again would cost the next text's first token
_SPARE_MEMORY = 256 * 2**20  # bytes left to the rest of the machine when a cache grows
_LEAST = 1e-12  # in place of 0 as a divisor
_MIDDLE = torch.tensor(128.5)  # of the unsigned 8-bit integers, and a half to round by
_ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}

_product = torch.ops.onednn.qlinear_pointwise.default  # looked up once


def unsupported_reason(folder: Path) -> str:
    """Return why this machine or the model in `folder` cannot be run here, as a clause; empty when it can."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (found := config.get("model_type")) != "gpt2":
        return f"it runs GPT-2 only, and this model is of the type {found}"
    if config.get("activation_function", "gelu_new") not in _ACTIVATIONS:
        return f"it does not know the activation function {config['activation_function']}"
    unusual = [
        name
        for name, usual in {
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        }.items()
        if config.get(name, usual) != usual
    ]
    if unusual:
        return f"it does not know the settings {', '.join(unusual)} of this model's config.json"
    if not torch.backends.mkldnn.enabled or not torch.cpu._is_vnni_supported():
        return "this processor has no instructions for products of 8-bit integers (AVX-512 VNNI)"
    return ""


class Int8Linear:
    """x W + b with W and, row by row, x rounded to 8 bits."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Round `weight`, (out, in)."""
        scale = weight.abs().amax(dim=1).clamp_(min=_LEAST) / 127
        rounded = (weight / scale[:, None]).round_().to(torch.int8).contiguous()
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zero = torch.zeros(len(weight), dtype=torch.int32)
        self._scale = scale / 127  # the rows' 127 is here, once
        # Activations are shifted by 128 to be unsigned, which the processor's instructions want; this takes it back.
        self._shift = -128 * rounded.sum(dim=1, dtype=torch.int32) * self._scale
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return (rows, out) for `x`, (rows, in)."""
        most = x.abs().amax(dim=-1, keepdim=True).clamp_(min=_LEAST)
        # As few operations as can be: with one text they take as long as the product. `to` cuts the fraction off.
        rounded = torch.addcdiv(_MIDDLE, x, most, value=127).to(torch.uint8)
        product = _product(
            rounded, 1.0, 0, self._weight, self._scale, self._zero, self._shift, 1.0, 0, torch.float32, "none", [], ""
        )
        return product.mul_(most) if self._bias is None else torch.addcmul(self._bias, product, most)


@dataclass
class _Layer:
    norm_1: tuple[torch.Tensor, torch.Tensor]
    attention: Int8Linear  # queries, keys, values
    projection: Int8Linear
    norm_2: tuple[torch.Tensor, torch.Tensor]
    up: Int8Linear
    down: Int8Linear


@dataclass
class Slot:
    """A text's place in a pool, and how many of its tokens have been read."""

    pool: "KVCachePool"
    at: int
    read: int = 0


@dataclass
class KVCachePool:
    """The keys and values of texts of about a length, in one tensor: (layers, 2, texts, heads, capacity, width)."""

    capacity: int
    cache: torch.Tensor | None = None
    free: list[int] = field(default_factory=list)
    used: set[int] = field(default_factory=set)


class Int8Runner:
    """See `serving.engines.scheduler.ModelRunner`."""

    name = "int8"
    prefill_tokens = 128  # a step then takes about twice as long as one that writes for 32 texts

    def __init__(self, folder: Path) -> None:
        """Load the GPT-2 in `folder`, for which `unsupported_reason` must have found nothing."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer, self.start, self.end = load_tokenizer(folder)
        self.context: int = config.get("n_positions", 1024)
        self._heads: int = config["n_head"]
        self._width: int = config["n_embd"] // self._heads
        self._epsilon: float = config.get("layer_norm_epsilon", 1e-5)
        self._gelu = _ACTIVATIONS[config.get("activation_function", "gelu_new")]
        found = load_file(folder / "model.safetensors")
        weights = {name.removeprefix("transformer."): tensor for name, tensor in found.items()}

        def kept(name: str) -> torch.Tensor:
            return weights[name].to(torch.float32, copy=True)  # a copy, lest the whole file stay in memory

        def linear(name: str) -> Int8Linear:
            return Int8Linear(weights[f"{name}.weight"].float().t(), kept(f"{name}.bias"))

        def norm(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return kept(f"{name}.weight"), kept(f"{name}.bias")

        self._layers = [
            _Layer(
                norm(f"h.{n}.ln_1"),
                linear(f"h.{n}.attn.c_attn"),
                linear(f"h.{n}.attn.c_proj"),
                norm(f"h.{n}.ln_2"),
                linear(f"h.{n}.mlp.c_fc"),
                linear(f"h.{n}.mlp.c_proj"),
            )
            for n in range(config["n_layer"])
        ]
        self._norm = norm("ln_f")
        self._tokens = kept("wte.weight")
        self._positions = kept("wpe.weight")
        self._head = Int8Linear(self._tokens, None)
        self._pools: dict[int, KVCachePool] = {}

    def open(self, length: int) -> Slot:
        """Return a row for a text of at most `length` tokens; see `ModelRunner.open`."""
        capacity = next((c for c in _CAPACITIES if c >= length), math.ceil(length / 512) * 512)
        capacity = min(capacity, math.ceil(self.context / _BLOCK) * _BLOCK)
        pool = self._pools.setdefault(capacity, KVCachePool(capacity))
        if not pool.free:
            self._grow(pool)
        at = min(pool.free)
        pool.free.remove(at)
        pool.used.add(at)
        return Slot(pool, at)

    def _grow(self, pool: KVCachePool) -> None:
        """Make room for twice as many texts."""
        old = pool.cache.shape[2] if pool.cache is not None else 0
        new = max(1, 2 * old)
        shape = (len(self._layers), 2, new, self._heads, pool.capacity, self._width)
        if 4 * math.prod(shape) > psutil.virtual_memory().available - _SPARE_MEMORY:
            raise MemoryError
        try:
            cache = torch.zeros(shape)  # zeros, for what is masked is multiplied with all the same
        except RuntimeError:  # torch's word for it
            raise MemoryError from None
        if pool.cache is not None:
            cache[:, :, :old] = pool.cache
        pool.cache = cache
        pool.free += range(old, new)

    def close(self, row: Slot) -> None:
        """Let go of a row; see `ModelRunner.close`."""
        row.pool.used.discard(row.at)
        row.pool.free.append(row.at)
        if not row.pool.used and row.pool.cache is not None and row.pool.cache.nbytes > _KEPT_MEMORY:
            row.pool.cache = None
            row.pool.free.clear()

    @torch.inference_mode()
    def step(self, rows: Sequence[Slot], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read on; see `ModelRunner.step`. All rows' products are made together, attention is each text's own."""
        ids = torch.tensor([token for of_row in tokens for token in of_row])
        lengths = [len(of_row) for of_row in tokens]
        places = torch.tensor([row.read + n for row, length in zip(rows, lengths, strict=True) for n in range(length)])
        x = self._tokens[ids].add_(self._positions[places])
        groups = self._groups(rows, tokens)
        for number, layer in enumerate(self._layers):
            mixed = layer.attention(self._normed(x, layer.norm_1))
            x.add_(layer.projection(self._attend(number, mixed, groups)))
            inner = F.gelu(layer.up(self._normed(x, layer.norm_2)), approximate=self._gelu)
            x.add_(layer.down(inner))
        ends = torch.tensor(lengths).cumsum(0) - 1
        if len(ends) < len(x):
            x = x[ends]
        logits = self._head(self._normed(x, self._norm))
        for row, length in zip(rows, lengths, strict=True):
            row.read += length
        return logits

    def _normed(self, x: torch.Tensor, norm: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], *norm, self._epsilon)

    def _groups(self, rows: Sequence[Slot], tokens: Sequence[Sequence[int]]) -> list["_PrefillGroup | _DecodeGroup"]:
        """Return who attends together: the texts of a pool that read one token each; each longer part on its own."""
        groups: list[_PrefillGroup | _DecodeGroup] = []
        singles: dict[int, list[tuple[int, Slot]]] = {}
        at = 0
        for row, of_row in zip(rows, tokens, strict=True):
            if len(of_row) == 1:
                singles.setdefault(row.pool.capacity, []).append((at, row))
            else:
                groups.append(_PrefillGroup(slice(at, at + len(of_row)), row))
            at += len(of_row)
        groups += [_DecodeGroup(of_pool) for of_pool in singles.values()]
        return groups

    def _attend(self, layer: int, mixed: torch.Tensor, groups: list["_PrefillGroup | _DecodeGroup"]) -> torch.Tensor:
        """Return what the heads say to each row of queries, keys and values, (rows, 3 x heads x width)."""
        split = mixed.view(len(mixed), 3, self._heads, self._width)
        if len(groups) == 1:
            return groups[0].attend(layer, split).reshape(len(mixed), -1)
        out = torch.empty(len(mixed), self._heads, self._width)
        for group in groups:
            out[group.at] = group.attend(layer, split)
        return out.view(len(mixed), -1)


class _PrefillGroup:
    """Several tokens of one text."""

    def __init__(self, at: slice, row: Slot) -> None:
        self.at = at
        self._row = row
        self._all = row.read + at.stop - at.start
        self._mask = None
        if row.read:
            new = self._all - row.read
            self._mask = torch.ones(new, self._all, dtype=torch.bool).tril_(row.read)

    def attend(self, layer: int, split: torch.Tensor) -> torch.Tensor:
        row = self._row
        queries, keys, values = split[self.at].unbind(1)
        cache = row.pool.cache
        assert cache is not None
        known = cache[layer, :, row.at, :, : self._all]
        known[0, :, row.read :] = keys.transpose(0, 1)
        known[1, :, row.read :] = values.transpose(0, 1)
        found = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None], known[:1], known[1:], self._mask, is_causal=self._mask is None
        )
        return found[0].transpose(0, 1)


class _DecodeGroup:
    """A token each of several texts of one pool."""

    def __init__(self, of_pool: list[tuple[int, Slot]]) -> None:
        self._pool = of_pool[0][1].pool
        self._rows = torch.tensor([row.at for _, row in of_pool])
        self._read = torch.tensor([row.read for _, row in of_pool])
        self.at = torch.tensor([at for at, _ in of_pool])
        self._count = int(self._rows.max()) + 1
        self._all = min(self._pool.capacity, (int(self._read.max()) // _BLOCK + 1) * _BLOCK)
        self._in_order = [row.at for _, row in of_pool] == list(range(len(of_pool)))
        limits = self._read
        if not self._in_order:
            limits = torch.zeros(self._count, dtype=torch.long).index_copy_(0, self._rows, self._read)
        self._mask = torch.zeros(self._count, 1, 1, self._all)
        self._mask.masked_fill_(torch.arange(self._all) > limits[:, None, None, None], -math.inf)

    def attend(self, layer: int, split: torch.Tensor) -> torch.Tensor:
        cache = self._pool.cache
        assert cache is not None
        new = split if len(self.at) == len(split) else split[self.at]
        cache[layer, :, self._rows, :, self._read] = new[:, 1:]
        queries = new[:, 0]
        if not self._in_order:
            queries = torch.zeros(self._count, *queries.shape[1:]).index_copy_(0, self._rows, queries)
        known = cache[layer, :, : self._count, :, : self._all]
        found = F.scaled_dot_product_attention(queries[:, :, None], known[0], known[1], self._mask)[:, :, 0]
        return found if self._in_order else found[self._rows]
