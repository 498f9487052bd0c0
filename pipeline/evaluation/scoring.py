"""The loss of every token of texts under a causal language model, without padding where the model allows it."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.command import UserError
from pipeline.evaluation.scores import Scores
from pipeline.modeling import cpu, fast_layers, packed_attention
from pipeline.modeling.context import context_of, encoded_as_text, start_and_end

_TEXTS_PER_CHUNK = 1000  # through the tokenizer, whose lists take ten times the memory of the ids


_MAX_LOGITS = 2**24  # numbers, 64 MB in fp32


_MAX_BATCH_LOGITS = 2**26  # likewise, where a model makes the logits of all its batch at once


Ids = npt.NDArray[np.int32]


class Windows(NamedTuple):
    """The windows through which texts are read, one entry per window.

    The model reads tokens `begin` to `end` (exclusive) and predicts the token after each. Token 0 of a text is the
    start token. Windows overlap: the predictions from `new` on are scored.
    """

    text: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    new: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]

    def take(self, index: Any) -> "Windows":
        """Return the windows at a NumPy index."""
        return Windows(*(field[index] for field in self))


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_tokens: int,
    stride: float = 0.5,
) -> Scores:
    """Scores every token of every text, given the start token and the tokens before it.

    A text longer than the context is read through windows that move by `stride`; a token is scored once, in the first
    window that predicts it, given at least (1 - stride) of a context. See
    https://huggingface.co/docs/transformers/perplexity. The end token is not scored; a text without tokens has loss 0.

    Args:
        model: A causal language model; it stays as it was.
        tokenizer: The model's.
        texts: Their order changes only the last digits of the losses.
        batch_tokens: Tokens read at once; changes speed, memory and the last digits.
        stride: A share of the context.

    Raises:
        UserError: A loss is not finite.
    """
    ids = list(_ids(tokenizer, texts))
    lengths = np.array([len(tokens) - 1 for tokens in ids], dtype=np.int64)
    loss = np.zeros(len(ids))
    with _exact_products():
        reader = _Reader(model)
        windows = _windows(lengths, context_of(model.config), stride)
        batches = _batches(windows, reader.max_tokens(batch_tokens), reader.is_packed)
        for batch in tqdm(batches, "scoring", unit=" batches", leave=False, disable=None):
            nats = reader.token_losses(ids, batch).double().cpu().numpy()
            np.add.at(loss, np.repeat(batch.text, batch.end - batch.new), nats)
    if damaged := int((~np.isfinite(loss)).sum()):
        raise UserError(
            f"the loss of {damaged} of {len(ids)} texts is not a finite number: the model's weights are damaged; "
            "train it again, with a lower learning rate if that happens again"
        )
    return Scores(loss, lengths, np.array([len(text.encode()) for text in texts], dtype=np.int64))


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[Ids]:
    """Yield each text's ids after the start token."""
    start, _ = start_and_end(tokenizer)
    for first in range(0, len(texts), _TEXTS_PER_CHUNK):
        chunk = list(texts[first : first + _TEXTS_PER_CHUNK])
        for tokens in encoded_as_text(tokenizer, chunk)["input_ids"]:
            yield np.array([start, *tokens], dtype=np.int32)


def _windows(lengths: npt.NDArray[np.int64], context: int, stride: float) -> Windows:
    """Return the windows over texts of `lengths` tokens (without the start token), longest first.

    Windows of similar length are then neighbours, and a lack of memory shows at once.
    """
    context = min(context, int(lengths.max(initial=1)))  # some models set no limit
    step = max(1, round(stride * context))
    counts = np.where(lengths > 0, 1 - (np.minimum(context - lengths, 0) // step), 0)
    text = np.repeat(np.arange(len(lengths)), counts)
    nth = np.arange(len(text)) - np.repeat(counts.cumsum() - counts, counts)
    end = np.minimum(context + nth * step, lengths[text])
    new = np.where(nth == 0, 0, context + (nth - 1) * step)
    windows = Windows(text, np.maximum(end - context, 0), new, end)
    return windows.take(np.argsort(windows.begin - windows.end, kind="stable"))


def _batches(windows: Windows, max_tokens: int, is_packed: bool) -> Iterator[Windows]:
    """Yield windows of `max_tokens` together, with padding unless packed; a longer window comes alone."""
    lengths = windows.end - windows.begin
    before = np.concatenate([[0], lengths.cumsum()])
    first = 0
    while first < len(lengths):
        if is_packed:
            last = int(np.searchsorted(before, before[first] + max_tokens, side="right")) - 1
        else:
            last = first + max_tokens // int(lengths[first])
        last = max(last, first + 1)
        yield windows.take(slice(first, last))
        first = last


@contextmanager
def _exact_products() -> Iterator[None]:
    """Compute with float32 products and a thread per core, then restore torch's process-wide settings."""
    threads = torch.get_num_threads()
    cpu.use_physical_cores()
    try:
        with cpu.exact_products():
            yield
    finally:
        torch.set_num_threads(threads)


class _Reader:
    """A copy of a model prepared for scoring, with shared weights; the original stays as it is."""

    def __init__(self, model: PreTrainedModel) -> None:
        tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
        self._model = copy.deepcopy(model, tensors).eval()
        fast_layers.use_tanh_gelu(self._model)
        self._has_plain_head = _has_plain_head(self._model)
        # GPUs are faster with padded batches.
        self.is_packed = (
            self._has_plain_head and model.device.type == "cpu" and packed_attention.reads_packed(self._model)
        )

    def max_tokens(self, batch_tokens: int) -> int:
        """Return how many tokens the model may read at once, `batch_tokens` at most."""
        if self._has_plain_head:
            return batch_tokens
        vocabulary: int = self._model.config.vocab_size
        return min(batch_tokens, _MAX_BATCH_LOGITS // vocabulary)

    def token_losses(self, ids: Sequence[Ids], windows: Windows) -> torch.Tensor:
        """Return -ln p, in nats, of the tokens that `windows` score, window by window: (scored tokens,)."""
        inputs, targets, scored = [], [], []
        for text, begin, new, end in zip(*windows, strict=True):
            inputs.append(torch.from_numpy(ids[text][begin:end]))
            targets.append(torch.from_numpy(ids[text][new + 1 : end + 1]))
            scored.append(torch.arange(begin, end) >= new)
        device = self._model.device
        labels = torch.cat(targets).long().to(device)
        if self.is_packed:
            kept = torch.cat(scored)[None]
            packing = {
                "position_ids": torch.cat([torch.arange(len(row)) for row in inputs])[None],
                "cu_seq_lens_q": torch.tensor([0, *map(len, inputs)]).cumsum(0),
            }
            batch = torch.cat(inputs)[None].long()
        else:
            # Padding is on the right, where causal attention never looks: no mask is needed and any id will do.
            kept = pad_sequence(scored, batch_first=True).to(device)
            packing = {}
            batch = pad_sequence(inputs, batch_first=True).long().to(device)
        if not self._has_plain_head:
            logits = self._model(batch, use_cache=False).logits[kept]
            return torch.cat([_cross_entropy(*chunk) for chunk in _chunks(logits, labels, logits.shape[-1])])
        states = self._model.base_model(batch, use_cache=False, **packing)[0][kept]
        head = self._model.get_output_embeddings()
        return torch.cat(
            [_cross_entropy(head(rows), chunk) for rows, chunk in _chunks(states, labels, head.weight.shape[0])]
        )


def _chunks(rows: torch.Tensor, targets: torch.Tensor, vocabulary: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield a few rows at a time with their targets, which bounds the memory of their logits."""
    size = max(1, _MAX_LOGITS // vocabulary)
    return zip(torch.split(rows, size), torch.split(targets, size), strict=True)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _has_plain_head(model: PreTrainedModel) -> bool:
    """Tell whether the logits are the output layer's as they are: Gemma caps them, Granite scales them."""
    ids = torch.tensor([[0, 1]], device=model.device)
    head = model.get_output_embeddings()
    logits = model(ids, use_cache=False).logits.float()
    return head is not None and torch.equal(head(model.base_model(ids, use_cache=False)[0]).float(), logits)
