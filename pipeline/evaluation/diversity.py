"""How varied, repetitive and long a set of texts is, in tokens, so that no word splitter is needed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import BLEU
from transformers import PreTrainedTokenizerBase

from pipeline.modeling.context import encoded_as_text

_MAX_PERIOD = 32  # tokens of a loop: about two sentences
_MIN_TURNS = 3  # a phrase that occurs twice may be intended
_MIN_LOOP = 12  # tokens, so that "ha ha ha!" is no loop
_MAX_COMPARED = 100  # texts, the usual number for self-BLEU
_ORDERS = range(1, 5)  # of BLEU's n-grams (Papineni et al. 2002)

Gram = tuple[int, ...]


def diversity_metrics(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, ended: Sequence[bool]
) -> dict[str, float]:
    """Return figures of `texts` in tokens of `tokenizer`; `ended` tells which of them end with an end token.

    - distinct_1, _2, _3: share of different n-grams among all n-grams of all texts (Li et al. 2016, who divide by
      tokens instead). It falls with the amount of text, so only sets of about one size compare.
    - repetition: share of a text's 4-grams that occurred in it before, mean over the texts that have any (seq-rep-4,
      Welleck et al. 2020).
    - loops: share of texts that end in a loop (`ends_in_a_loop`).
    - empty: share of texts without a letter or digit.
    - blank: share of texts of white space alone, or of nothing.
    - tokens, tokens_std: mean and standard deviation of the texts' lengths.
    - ended: share of texts with an end token.
    - self_bleu: BLEU-4, from 0 to 1, of a text against all the others, mean over at most 100 texts that are not empty,
      taken at even distances; higher is less varied (Zhu et al. 2018).

    Where there is nothing to count (no n-gram, a single text to compare), the figure is 0. Raises ValueError without
    texts, or where `ended` has another length.
    """
    if not texts or len(texts) != len(ended):
        raise ValueError(f"found {len(texts)} texts and {len(ended)} entries of ended; expected as many, at least one")
    ids = encoded_as_text(tokenizer, list(texts))["input_ids"]
    lengths = [len(tokens) for tokens in ids]
    return {
        **{
            f"distinct_{n}": _distinct(list(chain.from_iterable(_grams(tokens, n) for tokens in ids)))
            for n in (1, 2, 3)
        },
        **repetition_metrics(ids),
        "empty": _mean([not any(map(str.isalnum, text)) for text in texts]),
        "blank": _mean([not text.strip() for text in texts]),
        "tokens": _mean(lengths),
        "tokens_std": float(np.std(lengths)),
        "ended": _mean(list(ended)),
        "self_bleu": self_bleu(ids),
    }


def repetition_metrics(ids: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return `repetition` and `loops` of texts' tokens, see `diversity_metrics`."""
    return {
        "repetition": _mean([1 - _distinct(grams) for tokens in ids if (grams := list(_grams(tokens, 4)))]),
        "loops": _mean([ends_in_a_loop(tokens) for tokens in ids]),
    }


def ends_in_a_loop(tokens: Sequence[int]) -> bool:
    """Tell whether the last tokens, 12 or more, repeat the same 1 to 32 tokens three times or more.

    The last turn may be cut short: the stretch is at least three times as long as its period.
    """
    ids = np.asarray(tokens)
    for period in range(1, min(_MAX_PERIOD, len(ids) // _MIN_TURNS) + 1):
        breaks = np.flatnonzero(ids[period:] != ids[:-period])
        stretch = len(ids) - (breaks[-1] + 1 if len(breaks) else 0)  # from the token after the last that differs
        if stretch >= max(_MIN_TURNS * period, _MIN_LOOP):
            return True
    return False


def self_bleu(ids: Sequence[Sequence[int]]) -> float:
    """Return the mean BLEU, from 0 to 1, of each text's tokens against all the other texts.

    It equals sacrebleu's `sentence_score` with `effective_order`, but counts each text's n-grams once instead of once
    per other text: an n-gram's highest count elsewhere is the highest of all or, for the text that has it, the second
    highest.
    """
    ids = [tokens for tokens in ids if tokens]
    count = min(_MAX_COMPARED, len(ids))
    if count < 2:
        return 0.0
    counts = [
        Counter(chain.from_iterable(_grams(tokens, n) for n in _ORDERS))
        for tokens in (ids[place * len(ids) // count] for place in range(count))
    ]
    lengths = [sum(number for gram, number in text.items() if len(gram) == 1) for text in counts]
    highest: dict[Gram, tuple[int, int]] = {}  # the two highest counts in any texts
    for text in counts:
        for gram, number in text.items():
            first, second = highest.get(gram, (0, 0))
            highest[gram] = (max(first, number), max(second, min(first, number)))
    scores = []
    for place, (text, length) in enumerate(zip(counts, lengths, strict=True)):
        correct, total = [0] * len(_ORDERS), [0] * len(_ORDERS)
        for gram, number in text.items():
            first, second = highest[gram]
            correct[len(gram) - 1] += min(number, second if number == first else first)
            total[len(gram) - 1] += number
        others = lengths[:place] + lengths[place + 1 :]
        nearest = min(others, key=lambda other: (abs(other - length), other))  # sacrebleu's length of the reference
        scores.append(BLEU.compute_bleu(correct, total, length, nearest, "exp", effective_order=True).score / 100)
    return _mean(scores)


def _grams(tokens: Sequence[int], n: int) -> Iterator[Gram]:
    """Yield the n-grams of a text; none where it is shorter."""
    return zip(*(tokens[first:] for first in range(n)), strict=False)


def _distinct(grams: Sequence[Gram]) -> float:
    """Return the share of different n-grams among `grams`."""
    return len(set(grams)) / len(grams) if grams else 0.0


def _mean(values: Sequence[float]) -> float:
    """Return the mean, 0 of nothing."""
    return float(np.mean(values)) if values else 0.0


class Diversity(evaluate.Measurement):
    """How varied, repetitive and long texts are, see `diversity_metrics`.

    `Diversity().compute(data=texts, tokenizer=tokenizer, ended=ended)`.
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description="distinct-n, repeated n-grams, loops, empty and blank texts, lengths, self-BLEU, over tokens.",
            citation="",
            inputs_description="data: the texts. tokenizer: of transformers. ended: which have an end token.",
            features=datasets.Features({"data": datasets.Value("string")}),
            reference_urls=[
                "https://aclanthology.org/N16-1014",
                "https://openreview.net/forum?id=SJeYe0NtvH",
                "https://arxiv.org/abs/1802.01886",
            ],
        )

    def _compute(self, data: list[str], tokenizer: PreTrainedTokenizerBase, ended: Sequence[bool]) -> dict[str, Any]:
        return diversity_metrics(data, tokenizer, ended)
