"""The reference engine: transformers, any causal architecture; float32 on a CPU, the folder's own dtype on a GPU.

This module alone uses the private name `PreTrainedModel._is_stateful`; a test in test_transformers.py checks it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tokenizers
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from serving.engines.lora import Adapter
from serving.engines.lora_batch import LoraBatch
from serving.engines.protocol import EngineError

_MEMORY_RESERVE = 256 * 2**20  # bytes left to the rest of the machine when a sequence is admitted
_CACHE_NAMES = ("past_key_values", "cache_params", "state")  # what architectures call the cache that they return


def load_model(folder: Path, dtype: torch.dtype | None = None, device: str | None = None) -> PreTrainedModel:
    """Return the model in `folder`, ready for inference; raises what transformers raises.

    Args:
        folder: With safetensors.
        dtype: Of its weights; by default float32 on a CPU, and the folder's own on a GPU.
        device: By default a GPU where there is one.
    """
    disable_progress_bar()  # it would be drawn into the log
    on_gpu = (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda"
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype or ("auto" if on_gpu else torch.float32),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.config.pad_token_id = None  # nothing is padded; transformers warns where it equals the start token
    return model.to("cuda").eval() if on_gpu else model.eval()


def context_length(model: PreTrainedModel) -> int:
    """Return how many tokens `model` reads at most; unlimited without position embeddings."""
    context: int = getattr(model.config, "max_position_embeddings", sys.maxsize)
    return context


def load_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, int, int]:
    """Return the tokenizer in `folder`, and the ids of the start and end tokens (GPT-2 has one token for both)."""
    fast = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if fast.eos_token_id is None:
        raise EngineError(
            f"the tokenizer in {folder} names no token that ends a text; set eos_token in its tokenizer_config.json"
        )
    tokenizer = fast.backend_tokenizer
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    vocabulary, largest = config.get_text_config().vocab_size, max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocabulary:
        raise EngineError(
            f"the tokenizer in {folder} has a token {largest}, but the model knows {vocabulary} tokens "
            f"(0 to {vocabulary - 1}); they do not belong to the same model"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # the name of a special token in a text is text, as it is in training
    start = fast.bos_token_id
    return tokenizer, fast.eos_token_id if start is None else start, fast.eos_token_id


def forward(model: PreTrainedModel, cache: dict[str, Any], tokens: Sequence[int], logits: int) -> torch.Tensor:
    """Read `tokens` after what `cache` holds; return the logits after the last of them: (logits, vocabulary).

    Args:
        model: A causal model.
        cache: What the architecture keeps of earlier tokens, empty at first; changed in place.
        tokens: The ids to read.
        logits: After how many of the last tokens to return logits; 0 is all.
    """
    ids = torch.tensor([tokens], device=model.device)
    output = model(ids, **cache, use_cache=True, logits_to_keep=logits)
    cache.update({name: output[name] for name in _CACHE_NAMES if output.get(name) is not None})
    result: torch.Tensor = output.logits[0]
    return result.float().cpu()


def supports_chunked_prefill(model: PreTrainedModel) -> bool:
    """Return whether a prompt may be read in chunks; recurrent architectures continue by single tokens only."""
    return not model._is_stateful


@dataclass(eq=False)
class Slot:
    """A sequence: its maximum length, the chunks it has read, and the model's cache of them."""

    length: int
    adapter: int = 0  # see `LoraBatch`
    chunks: list[list[int]] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=dict)
    cached: int = 0  # how many of `chunks` the cache holds

    @property
    def growth(self) -> int:
        """By how many tokens its cache may still grow."""
        return self.length - sum(map(len, self.chunks[: self.cached]))


class TransformersRunner:
    """A `ModelRunner` that reads sequences one after the other.

    A matrix product of several sequences, or attention over a padded cache, sums in another order than for one
    sequence alone, so its result would depend on the other sequences.
    """

    name = "transformers"
    tokenizer: Tokenizer

    def __init__(self, folder: Path) -> None:
        """Load the model in `folder`; raises what transformers raises."""
        self.tokenizer, self.start, self.end = load_tokenizer(folder)
        self._model = load_model(folder)
        self.context = context_length(self._model)
        on_gpu = self._model.device.type == "cuda"
        self.prefill_tokens = (2048 if on_gpu else 128) if supports_chunked_prefill(self._model) else sys.maxsize
        self._token_bytes = token_bytes(self._model)
        self._slots: list[Slot] = []
        self._lora = LoraBatch(self._model)

    def load_adapter(self, adapter: Adapter) -> int:
        """Take an adapter; see `ModelRunner`."""
        return self._lora.load(adapter)

    def unload_adapter(self, number: int) -> None:
        """Forget an adapter that no slot has."""
        self._lora.unload(number)

    def open(self, length: int, adapter: int = 0) -> Slot:
        """Return a slot; see `ModelRunner.open`."""
        tokens = length + sum(slot.growth for slot in self._slots)
        if tokens * self._token_bytes > free_memory(self._model.device) - _MEMORY_RESERVE:
            raise MemoryError
        slot = Slot(length, adapter)
        self._slots.append(slot)
        return slot

    def close(self, slot: Slot) -> None:
        """Free a slot; see `ModelRunner.close`."""
        self._slots = [other for other in self._slots if other is not slot]

    @torch.inference_mode()
    def step(self, slots: Sequence[Slot], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read the next tokens; see `ModelRunner.step`."""
        chunks_before = [len(slot.chunks) for slot in slots]
        try:
            for slot, chunk in zip(slots, tokens, strict=True):
                slot.chunks.append(list(chunk))
            return torch.cat([self._read(slot) for slot in slots])
        except BaseException:
            # A cache may hold a chunk in some layers only. It is rebuilt by the same steps, and so with the same bits.
            for slot, count in zip(slots, chunks_before, strict=True):
                del slot.chunks[count:]
                slot.cache, slot.cached = {}, 0
            raise

    def _read(self, slot: Slot) -> torch.Tensor:
        """Return the logits after all chunks of a slot, (1, vocabulary); usually only the last one is not cached."""
        for chunk in slot.chunks[slot.cached :]:
            logits = self._forward(slot, chunk)
            slot.cached += 1
        return logits

    def _forward(self, slot: Slot, chunk: Sequence[int]) -> torch.Tensor:
        """Return the logits after a chunk, (1, vocabulary)."""
        self._lora.rows = torch.tensor([slot.adapter], device=self._model.device) if slot.adapter else None
        return forward(self._model, slot.cache, chunk, 1)


def token_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of a token in the cache: a key and a value for each layer. An upper bound for some models."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 0)
    if not heads:
        return 0  # the state of a recurrent model does not grow
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * key_value_heads * head_dim * model.dtype.itemsize)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of `device`, with those that torch has reserved on a GPU but does not use."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused
