"""The engine for GPUs: any causal architecture of transformers, whole batches at a time, in bf16 where the GPU has it.

The model is transformers' own; only its cache is ours (`serving.engines.paged_cache`). Sequences of a step that read
one token each are one batch, which CUDA graphs replay; longer chunks are batches with those of similar length, padded
on the left. Products of a batch sum in another order than those of a sequence alone, so a seed gives the same text only
in the same batch. It also runs on a CPU, in float32, where the tests compare it; it has never been run on a GPU.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, get_layer_types_and_kwargs

from serving.engines.batched_sampling import BatchSampler
from serving.engines.decode_graphs import CudaCapture, DecodeGraphs
from serving.engines.lora import Adapter
from serving.engines.lora_batch import LoraBatch
from serving.engines.paged_cache import (
    FILLER,
    PAGE,
    BatchStep,
    CurrentStep,
    LayerShape,
    PagedSlot,
    PageTable,
    paged_layers,
)
from serving.engines.protocol import EngineError, Token
from serving.engines.sampling import Sampler
from serving.engines.transformers import context_length, free_memory, load_model, load_tokenizer

_MEMORY_SHARE = 0.5  # of the free memory, for keys and values: a version that is swapped in needs some too
_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)  # sizes; above, multiples of 64
_MIN_WIDTH = 8  # tokens to which shorter chunks of prompts are padded
_MIN_LENGTH = 128  # tokens to which shorter caches are read
_MAX_DRIFT = {torch.float32: 0.001, torch.bfloat16: 0.1}  # of the logits' spread, from the model's own
_LAST_TOKENS = 4  # of each text of `require_agreement`, read one by one
_MAX_CHECKED = 2048  # tokens of the longest one, so that most models' windows are in it


class BatchedRunner:
    """A `ModelRunner` whose step is one batch, and which samples on its device."""

    name = "batched"
    tokenizer: Tokenizer
    prefill_tokens = 2048

    def __init__(self, folder: Path, max_slots: int, device: str = "cuda") -> None:
        """Load the model in `folder` for at most `max_slots` sequences; raises EngineError where it cannot."""
        self.tokenizer, self.start, self.end = load_tokenizer(folder)
        bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self._model = load_model(folder, torch.bfloat16 if bf16 else torch.float32, device)
        self.context = context_length(self._model)
        self._current = CurrentStep()
        with torch.inference_mode():
            self._make_cache(max_slots)
        self._sampler = BatchSampler()
        self._lora = LoraBatch(self._model)
        self._adapters = torch.zeros(max_slots + 1, dtype=torch.long, device=self._model.device)  # by row of the table
        self._on_gpu = device == "cuda"
        self.graphs = self._new_graphs()

    def _new_graphs(self) -> DecodeGraphs:
        return DecodeGraphs(self._forward, CudaCapture() if self._on_gpu else None)

    def load_adapter(self, adapter: Adapter) -> int:
        """Take an adapter; see `ModelRunner`."""
        number = self._lora.load(adapter)
        self.graphs = self._new_graphs()  # captured ones know the memory of the adapters before
        return number

    def unload_adapter(self, number: int) -> None:
        """Forget an adapter that no slot has."""
        self._lora.unload(number)

    def _make_cache(self, max_slots: int) -> None:
        """Allocate pages for `max_slots` sequences of the model's context, or for as many as memory allows."""
        self.window, self._kinds, shapes = _layers(self._model)
        cell_bytes = sum(shape.numbers for shape in shapes) * self._model.dtype.itemsize
        affordable = int(free_memory(self._model.device) * _MEMORY_SHARE) // (cell_bytes * PAGE)
        pages = min(2 + max_slots * math.ceil(self.context / PAGE), affordable)
        if pages < 3:
            raise EngineError("there is not enough memory for the model with its keys and values")
        self._max_length: int = min(self.context, (pages - 2) * PAGE)
        self._table = PageTable(max_slots, pages, self._max_length, self._model.device)
        like = torch.empty(0, dtype=self._model.dtype, device=self._model.device)
        self._cache = Cache(layers=list(paged_layers(shapes, pages * PAGE, self._current, like)))

    @torch.inference_mode()
    def open(self, length: int, adapter: int = 0) -> PagedSlot:
        """Return a slot; see `ModelRunner.open`."""
        slot = self._table.open(length)
        self._adapters[slot.row] = adapter
        return slot

    def close(self, slot: PagedSlot) -> None:
        """Free a slot; see `ModelRunner.close`."""
        self._table.close(slot)

    @torch.inference_mode()
    def step(self, slots: Sequence[PagedSlot], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read the next tokens; see `ModelRunner.step`. The logits stay on the device, until the next step."""
        groups: dict[int, list[int]] = {}
        for at, chunk in enumerate(tokens):
            groups.setdefault(_width(len(chunk)), []).append(at)
        parts, order = [], []
        for width, of_width in groups.items():
            rows = [_row(slots[at], tokens[at], width) for at in of_width]
            longest = max(slots[at].read + len(tokens[at]) for at in of_width)
            parts.append(self._run(rows, self._padded_length(longest), width)[: len(rows)])
            order += of_width
        for slot, chunk in zip(slots, tokens, strict=True):
            slot.read += len(chunk)
        if len(parts) == 1:
            return parts[0]
        inverse = torch.tensor(order, device=self._model.device).argsort()
        return torch.cat(parts)[inverse]

    def sample(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Token | None]:
        """Return the next token of each sequence, as `serving.engines.sampling.sample` does."""
        return self._sampler.sample(logits, samplers)

    @torch.inference_mode()
    def require_agreement(self) -> None:
        """Compare the logits of a batch with those of the model's own pass over each text alone.

        Raises EngineError where they differ: an architecture may do with its cache or its mask what this engine does
        not know of.
        """
        longest = min(self._max_length, _MAX_CHECKED, max(40, (self.window or 0) + 8))
        lengths = [length for length in (_LAST_TOKENS + 1, longest // 2, longest) if length > _LAST_TOKENS]
        random = torch.Generator().manual_seed(0)
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        texts = [torch.randint(vocabulary, (length,), generator=random).tolist() for length in lengths]
        own = [self._own_logits(text) for text in texts]
        batched = torch.stack(self._batched_logits(texts), dim=1)  # (texts, last tokens, vocabulary)
        expected = torch.stack(own)
        drift = float((batched - expected).square().mean().sqrt() / expected.std())
        if not drift <= _MAX_DRIFT[self._model.dtype]:
            bound = f"at most {_MAX_DRIFT[self._model.dtype]} is allowed"
            raise EngineError(f"its logits in a batch are {drift:.3f} of their spread from the model's own, {bound}")

    def _own_logits(self, text: Sequence[int]) -> torch.Tensor:
        """Return the logits after the last tokens of a text by the model alone, (last tokens, vocabulary)."""
        ids = torch.tensor([text], device=self._model.device)
        logits: torch.Tensor = self._model(ids, use_cache=False, logits_to_keep=_LAST_TOKENS).logits[0]
        return logits.float()

    def _batched_logits(self, texts: Sequence[list[int]]) -> list[torch.Tensor]:
        """Return the same of a batch of texts, for each of the last tokens (texts, vocabulary)."""
        slots = [self.open(len(text)) for text in texts]
        cut = [len(text) - _LAST_TOKENS + 1 for text in texts]
        logits = [self.step(slots, [text[:end] for text, end in zip(texts, cut, strict=True)]).float()]
        for at in range(1, _LAST_TOKENS):
            latest = [text[end + at - 1 : end + at] for text, end in zip(texts, cut, strict=True)]
            logits.append(self.step(slots, latest).float())
        for slot in slots:
            self.close(slot)
        return logits

    def _run(self, rows: list[list[int]], length: int, width: int) -> torch.Tensor:
        """Return the logits of a batch, and of the rows that fill it up."""
        if width == 1:
            rows = rows + [list(FILLER)] * (_batch(len(rows)) - len(rows))
        inputs = torch.tensor(rows).to(self._model.device, non_blocking=True)
        return self.graphs.run(inputs, length) if width == 1 else self._forward(inputs, length)

    def _forward(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        """Return the logits after the last token of each row, (batch, vocabulary); see `BatchStep`."""
        self._current.step = step = BatchStep(self._table, inputs, length)
        self._lora.rows = self._adapters[inputs[:, 0]] if self._lora.is_used else None
        output = self._model(
            step.ids,
            attention_mask=self._mask(step),
            position_ids=step.positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _mask(self, step: BatchStep) -> Any:
        """Return the mask as the model takes it: one, or one for each kind of layer."""
        masks = {kind: step.mask(self.window if kind == "sliding_attention" else None) for kind in self._kinds}
        if self._model.config._attn_implementation == "eager":  # which adds masks
            masks = {kind: _additive(mask, self._model.dtype) for kind, mask in masks.items()}
        return masks if len(masks) > 1 else masks.popitem()[1]

    def _padded_length(self, length: int) -> int:
        """Return to where caches are read: few lengths, since each is a graph."""
        padded: int = max(_MIN_LENGTH, 1 << (length - 1).bit_length())
        return min(padded, -(-self._max_length // PAGE) * PAGE)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def _row(slot: PagedSlot, chunk: Sequence[int], width: int) -> list[int]:
    return [slot.row, slot.read, len(chunk), *[0] * (width - len(chunk)), *chunk]


def _width(tokens: int) -> int:
    """Return to how many tokens a chunk is padded."""
    return 1 if tokens == 1 else max(_MIN_WIDTH, 1 << (tokens - 1).bit_length())


def _batch(rows: int) -> int:
    """Return to how many rows a batch is filled up."""
    return next((size for size in _BATCHES if size >= rows), math.ceil(rows / 64) * 64)


def _layers(model: PreTrainedModel) -> tuple[int | None, tuple[str, ...], list[LayerShape]]:
    """Return the window of layers that have one, the kinds of layers, and what each keeps of a token.

    Raises EngineError for an architecture that keeps anything but a key and a value for each token.
    """
    if model._is_stateful:
        raise EngineError("it keeps a state, not keys and values")
    kinds, settings = get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise EngineError(f"it has layers of the kind {', '.join(sorted(unknown))}")
    windows = {of_layer["sliding_window"] for of_layer in settings if "sliding_window" in of_layer}
    if len(windows) > 1:
        raise EngineError("its layers have windows of several lengths")
    cache = model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True).past_key_values
    layers = getattr(cache, "layers", [])
    if len(layers) != len(kinds) or any(getattr(layer, "keys", None) is None for layer in layers):
        raise EngineError("some of its layers keep no keys and values of their own")
    shapes = [
        LayerShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[1], layer.values.shape[3])
        for layer in layers
    ]
    return (windows.pop() if windows else None), tuple(dict.fromkeys(kinds)), shapes
