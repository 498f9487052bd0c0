"""Token-weighted perplexity and bits per byte, as an `evaluate.Measurement` that works offline."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.tokenize import context_of, start_and_end

_RESAMPLES_AT_ONCE = 100  # bounds the bootstrap's memory: this many times the number of texts, in float64


class Score(NamedTuple):
    """What a model makes of some texts, one entry a text."""

    loss: npt.NDArray[np.float64]  # sum over the text's tokens of -ln p(token | what is before it), in nats
    tokens: npt.NDArray[np.int64]  # how many tokens the text has
    bytes: npt.NDArray[np.int64]  # how many bytes the text has in UTF-8


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int,
    stride: float = 0.5,
) -> Score:
    """Score every token of every text, given the start token and the tokens before it.

    Texts longer than the model's context are read through windows that move by `stride` (a share of the context);
    a token is scored once, in the first window that holds it. So each token but the first window's sees at least
    (1 - stride) of a context; see https://huggingface.co/docs/transformers/perplexity. The end token is not scored.
    Windows are batched by length, so that little is padded.
    """
    start, _ = start_and_end(tokenizer)
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    context = context_of(model.config)
    # (text, its tokens in the window, how many at the end of the window are scored)
    windows = [
        (text, window, scored)
        for text, tokens in enumerate(ids)
        for window, scored in _windows([start, *tokens], context, max(1, int(stride * context)))
    ]
    windows.sort(key=lambda window: len(window[1]))
    loss = np.zeros(len(texts))
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        for (text, _, scored), nats in zip(
            batch, _token_losses(model, [tokens for _, tokens, _ in batch]), strict=True
        ):
            loss[text] += nats[len(nats) - scored :].sum()
    return Score(loss, np.array([len(tokens) for tokens in ids]), np.array([len(text.encode()) for text in texts]))


def _windows(tokens: list[int], context: int, stride: int) -> list[tuple[list[int], int]]:
    """Return the windows over `tokens`, each with the number of tokens at its end that are new in it."""
    windows = [(tokens[:context], min(len(tokens), context) - 1)]  # the start token is given, not scored
    end = context
    while end < len(tokens):
        new_end = min(end + stride, len(tokens))
        windows.append((tokens[new_end - context : new_end], new_end - end))
        end = new_end
    return windows


def _token_losses(model: PreTrainedModel, rows: list[list[int]]) -> list[npt.NDArray[np.float64]]:
    """Return for each row of tokens the loss, in nats, of each token but the first; rows may differ in length."""
    longest = max(map(len, rows))
    # Padded behind, where causal attention never looks, so no mask is needed and any id will do.
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
    logits = model(ids, use_cache=False).logits[:, :-1].float()
    loss = (
        torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").double().cpu().numpy()
    )
    return [row_loss[: len(row) - 1] for row, row_loss in zip(rows, loss, strict=True)]


def figures(scored: Score, resamples: int, confidence: float, seed: int) -> dict[str, float | int]:
    """Return perplexity with its interval, bits per byte and tokens.

    Perplexity is exp(sum of losses / tokens) over all tokens of all texts (Jelinek et al. 1977), not a mean over
    texts. The interval is the percentile bootstrap (Efron 1979) over texts, which are what varies independently.
    Bits per byte is the same loss in bits over the bytes of the text: comparable between tokenizers.
    """
    loss, tokens = scored.loss.sum(), scored.tokens.sum()
    generator = np.random.default_rng(seed)
    resampled = []
    for first in range(0, resamples, _RESAMPLES_AT_ONCE):
        count = min(_RESAMPLES_AT_ONCE, resamples - first)
        chosen = generator.multinomial(len(scored.loss), np.full(len(scored.loss), 1 / len(scored.loss)), size=count)
        resampled.append((chosen @ scored.loss) / (chosen @ scored.tokens))
    tail = (1 - confidence) / 2
    low, high = np.exp(np.quantile(np.concatenate(resampled), [tail, 1 - tail]))
    return {
        "perplexity": math.exp(loss / tokens),
        "perplexity_low": float(low),
        "perplexity_high": float(high),
        "bits_per_byte": float(loss / math.log(2) / scored.bytes.sum()),
        "tokens": int(tokens),
    }


class Perplexity(evaluate.Measurement):
    """How well a causal language model predicts texts; lower is better.

    `Perplexity().compute(data=texts, model=model, tokenizer=tokenizer)` takes a loaded model, so nothing is fetched.
    `evaluate`'s own perplexity is the mean of each text's perplexity, which one odd short text can dominate.
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description="Token-weighted perplexity with a bootstrap interval, and bits per byte.",
            citation="",
            inputs_description="data: the texts. model, tokenizer: a causal language model of transformers.",
            features=datasets.Features({"data": datasets.Value("string")}),
            reference_urls=["https://huggingface.co/docs/transformers/perplexity"],
        )

    def _compute(
        self,
        data: list[str],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        stride: float = 0.5,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 42,
    ) -> dict[str, Any]:
        scored = score(model, tokenizer, data, batch_size, stride)
        return figures(scored, resamples, confidence, seed)
