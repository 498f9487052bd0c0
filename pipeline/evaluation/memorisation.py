"""What a model has learned by heart: runs of training rows in its texts, and how much likelier training rows are."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydivsufsort import divsufsort, sa_search
from transformers import PreTrainedTokenizerBase

from pipeline.evaluation.perplexity import Score
from pipeline.modeling.context import encoded_as_text

_PART_BYTES = 100_000_000  # of text; sorting it and searching in it take 5 bytes each: 0.5 GB
_BETWEEN = b"\xff"  # between two rows; UTF-8 has no such byte, so no run of a text crosses it


@dataclass(frozen=True)
class Copy:
    """The longest run of a text that stands letter for letter in one training row."""

    tokens: int  # in the run, whole; 0: not one of the text's tokens is in any row
    text: str  # the run
    row: int  # the training row that it is in, the first such; 0 where there is none
    source: str  # that row's text
    generation: int  # which of the texts it is of, from 0


class _Part:
    """Some training rows as one string of bytes, with its suffix array."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        self._ends = np.array(list(accumulate(len(row) + len(_BETWEEN) for row in encoded)), np.int64)
        self._bytes = _BETWEEN.join(encoded)
        del encoded
        self._suffixes: npt.NDArray[np.int32] = divsufsort(self._bytes)

    def holds(self, run: bytes) -> bool:
        """Return whether `run` is in one of the rows."""
        return bool(sa_search(self._bytes, self._suffixes, run)[0])

    def first(self, run: bytes) -> int:
        """Return which of the rows, from 0, is the first that `run` is in."""
        count, left = sa_search(self._bytes, self._suffixes, run)
        return int(np.searchsorted(self._ends, self._suffixes[left : left + count].min(), side="right"))


class Index:
    """Training rows, to look up what of other texts stands in them: a suffix array (Manber and Myers 1993).

    Built in parts, of which only one is in memory at a time: 5 bytes a byte of its text. The last one built is kept,
    so a corpus of one part is built once.
    """

    def __init__(self, rows: Sequence[int], texts: Sequence[str], part_bytes: int = _PART_BYTES) -> None:
        """Take `texts` and their numbers in the corpus; nothing is built before it is asked for.

        A part holds as many whole rows as are in `part_bytes` bytes, and one at least.
        """
        self._rows, self._texts = rows, texts
        starts, size = [0], 0
        for at, text in enumerate(texts):
            size += len(text.encode()) + len(_BETWEEN)
            if size > part_bytes and at > starts[-1]:
                starts.append(at)
                size = len(text.encode()) + len(_BETWEEN)
        self._starts = starts  # the first row of each part
        self._built: tuple[int, _Part] | None = None  # its first row, and the part

    def longest(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Copy]:
        """Return for each text its longest run of whole tokens of `tokenizer` that is in one training row.

        Of runs of the same length it is the text's first, and of the rows that hold it the corpus's first. Tokens that
        share a character stand or fall together. `tokenizer` must be a fast one: only these know where tokens are.
        """
        borders = [_borders(text, tokenizer) for text in texts]
        best = [Copy(0, "", 0, "", number) for number in range(len(texts))]
        at = [0] * len(texts)  # where the best run begins
        for first, part in self._parts():
            for number, text in enumerate(texts):
                tokens, start, run = _longest_run(text, borders[number], part)
                # The parts are in the corpus's order, so that of equal runs the first found has the first row.
                if tokens and (tokens, -start) > (best[number].tokens, -at[number]):
                    row = first + part.first(run.encode())
                    best[number] = Copy(tokens, run, int(self._rows[row]), self._texts[row], number)
                    at[number] = start
        return best

    def _parts(self) -> Iterator[tuple[int, _Part]]:
        """Yield each part behind the number of its first row, as a position in the texts."""
        for first, end in zip(self._starts, [*self._starts[1:], len(self._texts)], strict=True):
            if self._built is None or self._built[0] != first:
                self._built = None  # frees the one before
                self._built = first, _Part(self._texts[first:end])
            yield self._built


def _borders(text: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """Return (tokens before it, characters before it) of each place of `text` where a run may begin or end."""
    offsets = encoded_as_text(tokenizer, text, return_offsets_mapping=True)["offset_mapping"]
    # A token begins where the one before ends: some tokenizers leave the white space between them out of the offsets.
    # A character of several tokens is in the offsets of each of them, and between these no run begins or ends.
    borders = [(0, 0)]
    for tokens, ((_, end), (next_start, _)) in enumerate(pairwise([*offsets, (len(text), len(text))]), 1):
        if borders[-1][1] < end <= next_start:
            borders.append((tokens, end))
    return borders


def _longest_run(text: str, borders: Sequence[tuple[int, int]], part: _Part) -> tuple[int, int, str]:
    """Return the tokens of the longest run of `text` in `part`, the border where it begins, and the run.

    As each part of a run in a row is in that row too, a run need only be looked for when it is longer than the
    longest so far: so at most two look-ups a token.
    """
    tokens, at, run = 0, 0, ""
    end = 0
    for begin, (before, start) in enumerate(borders):
        while end < len(borders):
            if borders[end][0] - before > tokens:
                longer = text[start : borders[end][1]]
                if not part.holds(longer.encode()):
                    break
                tokens, at, run = borders[end][0] - before, begin, longer
            end += 1
    return tokens, at, run


def memorisation(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, index: Index, copied_tokens: int
) -> dict[str, float | int]:
    """Return `figures` of `texts`, looked up in `index` token by token of `tokenizer`."""
    return figures(index.longest(texts, tokenizer), copied_tokens)


def figures(copies: Sequence[Copy], copied_tokens: int) -> dict[str, float | int]:
    """Return `longest` and `mean_longest` (tokens of the texts' longest runs) and `copied` (share of the texts).

    Copied is a text with a run of `copied_tokens` tokens or more; Carlini et al. 2023 (Quantifying Memorization Across
    Neural Language Models) take 50 of them as the mark. Zeros without texts.
    """
    tokens = [copy.tokens for copy in copies]
    return {
        "longest": max(tokens, default=0),
        "mean_longest": float(np.mean(tokens)) if tokens else 0.0,
        "copied": float(np.mean([count >= copied_tokens for count in tokens])) if tokens else 0.0,
    }


def worst(copies: Sequence[Copy], count: int) -> list[Copy]:
    """Return the `count` longest copies, the longest first; fewer where fewer texts have any run in a row."""
    return sorted((copy for copy in copies if copy.tokens), key=lambda copy: -copy.tokens)[:count]


def membership(train: Score, test: Score) -> float:
    """Return by how many nats a token training rows are likelier than test rows.

    The gap between the two losses is what an attacker who tells members of the training set by their loss lives on
    (Yeom et al. 2018, Privacy Risk in Machine Learning). Near 0, or below, where nothing was learned by heart.
    """
    return float(test.loss.sum() / test.tokens.sum() - train.loss.sum() / train.tokens.sum())


def training_sample(clean: pd.DataFrame, count: int) -> list[str]:
    """Return `count` different texts of the train split of `clean`, or all where there are fewer.

    They are those with the lowest hash, so that each new row takes the place of at most one of them. The hash is not
    that of the splits, by which a row is a training row in the first place.
    """
    texts = clean.loc[clean["split"] == "train", "text"].unique().tolist()
    return sorted(texts, key=lambda text: hashlib.sha256(b"training sample\0" + text.encode()).digest())[:count]


class Memorisation(evaluate.Measurement):
    """How much of texts stands letter for letter in training rows; see `memorisation`.

    `Memorisation().compute(data=texts, tokenizer=tokenizer, index=Index(rows, training_texts))`.
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description="The longest runs of texts that stand letter for letter in training rows, in whole tokens.",
            citation="",
            inputs_description="data: the texts. tokenizer: a fast one of transformers. index: of the training rows.",
            features=datasets.Features({"data": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/2202.07646"],
        )

    def _compute(
        self, data: list[str], tokenizer: PreTrainedTokenizerBase, index: Index, *, copied_tokens: int = 40
    ) -> dict[str, Any]:
        return memorisation(data, tokenizer, index, copied_tokens)
