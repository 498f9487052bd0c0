"""Decoders on a CPU with products of 8-bit integers: each token reads a quarter of float32's memory.

Sums of integers are exact in any order, so the logits of a sequence have the same bits whatever else is in the batch.
`serving.engines.decoder_spec` says which architectures there are.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch

from serving.engines import fused_layers, onednn
from serving.engines.decoder_layers import MakeLinear, Weights
from serving.engines.decoder_spec import UnsupportedModelError, read_spec
from serving.engines.fused_layers import select_rows
from serving.engines.kv_cache import BatchAttention, KVCache, Slot
from serving.engines.lora import Adapter
from serving.engines.lora_rows import LoadedAdapter, LoraRows
from serving.engines.onednn import Int8Linear, TwoPartInt8Linear
from serving.engines.prefix_cache import PrefixCache
from serving.engines.transformers import load_tokenizer


def unsupported_reason(folder: Path) -> str:
    """Return why this engine cannot run the model in `folder` on this machine, as a clause; empty when it can."""
    try:
        read_spec(folder)
    except UnsupportedModelError as error:
        return str(error)
    if not onednn.is_supported():
        return "this processor has no instructions for products of 8-bit integers (AVX-512 VNNI)"
    return ""


class DecoderRunner:
    """A `ModelRunner` for a decoder in int8."""

    name = "int8"
    prefill_tokens = 128  # a step then takes about twice as long as one that decodes 32 sequences
    guess_rows: int = 4  # take 15 to 20 % longer than one

    def __init__(self, folder: Path, make_linear: MakeLinear | None = None) -> None:
        """Load the model in `folder`, for which `unsupported_reason` is empty; tests have other products."""
        self.tokenizer, self.start, self.end = load_tokenizer(folder)
        spec = read_spec(folder)
        # In models with gated MLPs a few states are hundreds of times as large as the others.
        make_linear = make_linear or (TwoPartInt8Linear if len(spec.names.mlp_in) == 2 else Int8Linear)
        self.context = spec.context
        self._heads, self._head_dim = spec.heads, spec.head_dim
        self._embedding_scale = spec.embedding_scale
        weights = Weights(folder, spec, make_linear)
        self._first_norm, self._layers, self._head = weights.layers()
        self._logits = fused_layers.finish(self._head)
        self._token_embeddings = weights.tokens()
        self._position_embeddings = weights.positions()
        self._cache = KVCache((spec.layers, spec.key_value_heads, spec.head_dim), spec.context, spec.window)
        self._beginnings = PrefixCache(self.prefill_tokens)
        self._lora = LoraRows(weights.parts)

    def open(self, length: int, adapter: LoadedAdapter | None = None) -> Slot:
        """Return a slot; see `ModelRunner.open`."""
        slot = self._cache.open(length)
        slot.adapter = adapter
        return slot

    def load_adapter(self, adapter: Adapter) -> LoadedAdapter:
        """Take an adapter; see `ModelRunner`."""
        return self._lora.load(adapter)

    def unload_adapter(self, adapter: LoadedAdapter) -> None:
        """Forget an adapter that no slot has."""
        self._lora.unload(adapter)

    def recall(self, slot: Slot, prompt: Sequence[int]) -> int:
        """Fill a new slot with what is kept of a prompt's beginning; see `ModelRunner`."""
        return self._beginnings.recall(slot, prompt)

    def forget(self, slot: Slot, tokens: int) -> None:
        """Drop the last tokens that were read."""
        slot.read -= tokens

    def close(self, slot: Slot) -> None:
        """Free a slot; see `ModelRunner.close`."""
        self._cache.close(slot)

    @torch.inference_mode()
    def step(
        self, slots: Sequence[Slot], tokens: Sequence[Sequence[int]], guessed: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Read the next tokens; see `ModelRunner.step`. Products are of the whole batch, attention of each sequence.

        Where the last `guessed` tokens of a slot are guesses, there are logits after each of them, and before them.
        """
        guessed = guessed or [0] * len(slots)
        lengths = [len(chunk) for chunk in tokens]
        positions = torch.tensor(
            [slot.read + n for slot, length in zip(slots, lengths, strict=True) for n in range(length)]
        )
        x = self._embed(torch.tensor([token for chunk in tokens for token in chunk]), positions)  # (tokens, width)
        attend = BatchAttention(self._heads, slots, tokens, guessed)
        self._lora.begin_step([slot.adapter for slot in slots], lengths)
        multiply = self._lora.multiply
        scales = torch.empty(len(x))
        rounded = self._first_norm(scales, x=x)
        for number, layer in enumerate(self._layers):
            qkv = layer.heads(scales, multiply(layer.qkv, rounded), positions=positions)
            attended = attend(number, qkv.view(len(x), -1, self._head_dim))
            rounded = layer.attended(scales, x=attended)
            rounded = layer.mlp_norm(scales, multiply(layer.attention_out, rounded), x)
            rounded = layer.activation(scales, multiply(layer.mlp_in, rounded))
            rounded = layer.next_norm(scales, multiply(layer.mlp_out, rounded), x)
        kept = [
            end - 1 - n
            for end, guesses in zip(accumulate(lengths), guessed, strict=True)
            for n in range(guesses, -1, -1)
        ]
        if len(kept) < len(x):
            rows = torch.tensor(kept)
            rounded, scales = select_rows(self._head, rounded, rows), scales[rows]
        logits = self._logits(scales, self._head.multiply(rounded))
        for slot, chunk in zip(slots, tokens, strict=True):
            self._beginnings.note(slot, chunk)
            slot.read += len(chunk)
        return logits

    def _embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return (tokens, width)."""
        x = self._token_embeddings[ids].float()
        if self._embedding_scale != 1:
            x.mul_(self._embedding_scale)
        return x if self._position_embeddings is None else x.add_(self._position_embeddings[positions])
