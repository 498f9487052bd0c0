"""GPT-2 on a CPU with products of 8-bit integers: each token reads a quarter of float32's memory.

Sums of integers are exact in any order, so the logits of a sequence have the same bits whatever else is in the batch.
Layers and names are those of transformers' GPT2LMHeadModel.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import load_file

from serving.engines import onednn
from serving.engines.kv_cache import DecodeGroup, KVCache, PrefillGroup, Slot, attention_groups
from serving.engines.onednn import Int8Linear
from serving.engines.transformers import load_tokenizer

_ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
_SUPPORTED_CONFIG = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}

_Norm = tuple[torch.Tensor, torch.Tensor]  # weight and bias


def unsupported_reason(folder: Path) -> str:
    """Return why this engine cannot run the model in `folder` on this machine, as a clause; empty when it can."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (model_type := config.get("model_type")) != "gpt2":
        return f"it runs GPT-2 only, and this model is of type {model_type}"
    if config.get("activation_function", "gelu_new") not in _ACTIVATIONS:
        return f"it does not support the activation function {config['activation_function']}"
    unsupported = [name for name, value in _SUPPORTED_CONFIG.items() if config.get(name, value) != value]
    if unsupported:
        return f"it does not support the settings {', '.join(unsupported)} in this model's config.json"
    if not onednn.is_supported():
        return "this processor has no instructions for products of 8-bit integers (AVX-512 VNNI)"
    return ""


@dataclass
class _Layer:
    attention_norm: _Norm
    attention: Int8Linear  # queries, keys, values
    projection: Int8Linear
    mlp_norm: _Norm
    up: Int8Linear
    down: Int8Linear


class _Weights:
    """The tensors of a GPT-2's file, by their names in transformers."""

    def __init__(self, file: Path) -> None:
        self._tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}

    def float32(self, name: str) -> torch.Tensor:
        """Return a copy, so that the whole file does not stay in memory."""
        return self._tensors[name].to(torch.float32, copy=True)

    def linear(self, name: str) -> Int8Linear:
        return Int8Linear(self._tensors[f"{name}.weight"].float().t(), self.float32(f"{name}.bias"))

    def norm(self, name: str) -> _Norm:
        return self.float32(f"{name}.weight"), self.float32(f"{name}.bias")

    def layer(self, number: int) -> _Layer:
        return _Layer(
            self.norm(f"h.{number}.ln_1"),
            self.linear(f"h.{number}.attn.c_attn"),
            self.linear(f"h.{number}.attn.c_proj"),
            self.norm(f"h.{number}.ln_2"),
            self.linear(f"h.{number}.mlp.c_fc"),
            self.linear(f"h.{number}.mlp.c_proj"),
        )


class Int8Runner:
    """A `ModelRunner` for GPT-2 in int8."""

    name = "int8"
    prefill_tokens = 128  # a step then takes about twice as long as one that decodes 32 sequences

    def __init__(self, folder: Path) -> None:
        """Load the GPT-2 in `folder`, for which `unsupported_reason` is empty."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer, self.start, self.end = load_tokenizer(folder)
        self.context: int = config.get("n_positions", 1024)
        self._heads: int = config["n_head"]
        self._head_dim: int = config["n_embd"] // self._heads
        self._epsilon: float = config.get("layer_norm_epsilon", 1e-5)
        self._gelu = _ACTIVATIONS[config.get("activation_function", "gelu_new")]
        weights = _Weights(folder / "model.safetensors")
        self._layers = [weights.layer(number) for number in range(config["n_layer"])]
        self._final_norm = weights.norm("ln_f")
        self._token_embeddings = weights.float32("wte.weight")
        self._position_embeddings = weights.float32("wpe.weight")
        self._head = Int8Linear(self._token_embeddings, None)
        self._cache = KVCache(len(self._layers), self._heads, self._head_dim, self.context)

    def open(self, length: int) -> Slot:
        """Return a slot; see `ModelRunner.open`."""
        return self._cache.open(length)

    def close(self, slot: Slot) -> None:
        """Free a slot; see `ModelRunner.close`."""
        self._cache.close(slot)

    @torch.inference_mode()
    def step(self, slots: Sequence[Slot], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read the next tokens; see `ModelRunner.step`. Products are of the whole batch, attention of each sequence."""
        ids = torch.tensor([token for chunk in tokens for token in chunk])
        lengths = [len(chunk) for chunk in tokens]
        positions = [slot.read + n for slot, length in zip(slots, lengths, strict=True) for n in range(length)]
        x = self._token_embeddings[ids].add_(self._position_embeddings[torch.tensor(positions)])  # (tokens, width)
        groups = attention_groups(slots, tokens)
        for number, layer in enumerate(self._layers):
            qkv = layer.attention(self._normed(x, layer.attention_norm))
            x.add_(layer.projection(self._attend(number, qkv, groups)))
            inner = F.gelu(layer.up(self._normed(x, layer.mlp_norm)), approximate=self._gelu)
            x.add_(layer.down(inner))
        ends = torch.tensor(lengths).cumsum(0) - 1
        if len(ends) < len(x):
            x = x[ends]
        logits = self._head(self._normed(x, self._final_norm))
        for slot, length in zip(slots, lengths, strict=True):
            slot.read += length
        return logits

    def _normed(self, x: torch.Tensor, norm: _Norm) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], *norm, self._epsilon)

    def _attend(self, layer: int, qkv: torch.Tensor, groups: Sequence[PrefillGroup | DecodeGroup]) -> torch.Tensor:
        """Return (tokens, heads x head_dim) for `qkv`, (tokens, 3 x heads x head_dim)."""
        tokens = len(qkv)
        qkv = qkv.view(tokens, 3, self._heads, self._head_dim)
        if len(groups) == 1:
            return groups[0].attend(layer, qkv).reshape(tokens, -1)
        out = torch.empty(tokens, self._heads, self._head_dim)
        for group in groups:
            out[group.at] = group.attend(layer, qkv)
        return out.view(tokens, -1)
