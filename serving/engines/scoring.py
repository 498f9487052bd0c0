"""Log-probabilities of given tokens by the reference model: for OpenAI's `echo`, which evaluation harnesses use."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from serving.engines import lora
from serving.engines.lora import Adapter
from serving.engines.protocol import Token
from serving.engines.transformers import context_length, forward, load_model, supports_chunked_prefill

_LOGITS_AT_ONCE = 2**24  # numbers, 64 MB in float32


class Scorer:
    """The model in a folder, in float32 on a CPU; thread-safe."""

    def __init__(self, folder: Path, adapter: Adapter | None = None) -> None:
        """Load the model, with an adapter.

        Raises what transformers raises, and EngineError for an adapter that does not fit.
        """
        self._model = load_model(folder)
        if adapter:
            lora.merge(self._model, adapter)
        self.context = context_length(self._model)
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        chunk = max(1, _LOGITS_AT_ONCE // vocabulary)
        self._chunk = chunk if supports_chunked_prefill(self._model) else sys.maxsize

    @torch.inference_mode()
    def score(self, ids: Sequence[int], top: int = 0) -> list[Token]:
        """Return each of `ids` with its log-probability after the ones before it, and the `top` likeliest tokens.

        The first token has none. Raises ValueError for more tokens than the context holds.
        """
        if len(ids) > self.context:
            raise ValueError(f"{len(ids)} tokens to score, expected at most the context's {self.context}")
        tokens = [Token(token) for token in ids[:1]]
        cache: dict[str, Any] = {}
        for begin in range(0, len(ids) - 1, self._chunk):
            end = min(begin + self._chunk, len(ids) - 1)
            tokens += scored_tokens(forward(self._model, cache, ids[begin:end], 0), ids[begin + 1 : end + 1], top)
        return tokens


def scored_tokens(logits: torch.Tensor, targets: Sequence[int], top: int) -> list[Token]:
    """Return `targets` with their log-probabilities by `logits`, (targets, vocabulary), and the `top` likeliest."""
    logprobs = torch.log_softmax(logits, dim=-1)
    own = logprobs.gather(-1, torch.tensor(targets)[:, None])[:, 0].tolist()
    values, likeliest = torch.topk(logprobs, min(top, logprobs.shape[-1]))
    tokens = []
    for token, logprob, ids, of_ids in zip(targets, own, likeliest.tolist(), values.tolist(), strict=True):
        tokens.append(Token(token, logprob, tuple(zip(ids, of_ids, strict=True))))
    return tokens
