"""Memorisation: runs of training rows in generated texts, and how much likelier training rows are."""

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

from pipeline.evaluation.scores import Scores
from pipeline.modeling.context import encoded_as_text

_PART_BYTES = 100_000_000  # of text; sorting and searching take 5 bytes per byte: 0.5 GB
_SEPARATOR = b"\xff"  # between two rows; not a byte of UTF-8, so no run of a text crosses it


@dataclass(frozen=True)
class Copy:
    """The longest run of a text that is verbatim in one training row."""

    tokens: int  # in the run, whole ones; 0 where none of the text's tokens is in any row
    text: str  # the run
    row: int  # the first training row with the run; 0 where there is none
    source: str  # that row's text
    generation: int  # the index of the text


class _Part:
    """Training rows as one string of bytes, with its suffix array."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        self._ends = np.array(list(accumulate(len(row) + len(_SEPARATOR) for row in encoded)), np.int64)
        self._bytes = _SEPARATOR.join(encoded)
        del encoded
        self._suffixes: npt.NDArray[np.int32] = divsufsort(self._bytes)

    def contains(self, run: bytes) -> bool:
        """Return whether a row contains `run`."""
        return bool(sa_search(self._bytes, self._suffixes, run)[0])

    def first(self, run: bytes) -> int:
        """Return the index of the first row that contains `run`."""
        count, left = sa_search(self._bytes, self._suffixes, run)
        return int(np.searchsorted(self._ends, self._suffixes[left : left + count].min(), side="right"))


class CorpusIndex:
    """The training rows, indexed to find runs of other texts in them: a suffix array (Manber and Myers 1993).

    It is built in parts, one of which is in memory at a time: 5 bytes per byte of its text. The last part is kept, so a
    corpus of one part is built once.
    """

    def __init__(self, rows: Sequence[int], texts: Sequence[str], part_bytes: int = _PART_BYTES) -> None:
        """Take `texts` and their numbers in the corpus; parts are built lazily.

        A part holds as many whole rows as fit into `part_bytes` bytes, at least one.
        """
        self._rows, self._texts = rows, texts
        starts, size = [0], 0
        for index, text in enumerate(texts):
            size += len(text.encode()) + len(_SEPARATOR)
            if size > part_bytes and index > starts[-1]:
                starts.append(index)
                size = len(text.encode()) + len(_SEPARATOR)
        self._starts = starts  # the first row of each part
        self._built: tuple[int, _Part] | None = None  # its first row, and the part

    def longest(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Copy]:
        """Return for each text its longest run of whole tokens that is in one training row.

        Of runs of the same length it is the text's first, and of the rows that contain it the corpus's first. Tokens
        that share a character are copied together or not at all. `tokenizer` must be a fast one, with offsets.
        """
        boundaries = [_boundaries(text, tokenizer) for text in texts]
        best = [Copy(0, "", 0, "", index) for index in range(len(texts))]
        starts = [0] * len(texts)  # the boundary where the best run begins
        for first, part in self._parts():
            for index, text in enumerate(texts):
                tokens, start, run = _longest_run(text, boundaries[index], part)
                # Parts are in the corpus's order: of equal runs the first one is in the first row.
                if tokens and (tokens, -start) > (best[index].tokens, -starts[index]):
                    row = first + part.first(run.encode())
                    best[index] = Copy(tokens, run, int(self._rows[row]), self._texts[row], index)
                    starts[index] = start
        return best

    def _parts(self) -> Iterator[tuple[int, _Part]]:
        """Yield each part with the index of its first row."""
        for first, end in zip(self._starts, [*self._starts[1:], len(self._texts)], strict=True):
            if self._built is None or self._built[0] != first:
                self._built = None  # frees the previous part
                self._built = first, _Part(self._texts[first:end])
            yield self._built


def _boundaries(text: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """Return (tokens before, characters before) each position of `text` where a run may begin or end."""
    offsets = encoded_as_text(tokenizer, text, return_offsets_mapping=True)["offset_mapping"]
    # A token begins where the previous one ends: some tokenizers leave the white space between them out of the offsets.
    # A character of several tokens is in the offsets of each of them, and no run begins or ends between these.
    boundaries = [(0, 0)]
    for tokens, ((_, end), (next_start, _)) in enumerate(pairwise([*offsets, (len(text), len(text))]), 1):
        if boundaries[-1][1] < end <= next_start:
            boundaries.append((tokens, end))
    return boundaries


def _longest_run(text: str, boundaries: Sequence[tuple[int, int]], part: _Part) -> tuple[int, int, str]:
    """Return the tokens of the longest run of `text` in `part`, the boundary where it begins, and the run.

    Every part of a copied run is copied too, so only runs longer than the longest so far are looked up: at most two
    look-ups per token.
    """
    tokens, best_start, run = 0, 0, ""
    end = 0
    for begin, (tokens_before, start) in enumerate(boundaries):
        while end < len(boundaries):
            if boundaries[end][0] - tokens_before > tokens:
                longer = text[start : boundaries[end][1]]
                if not part.contains(longer.encode()):
                    break
                tokens, best_start, run = boundaries[end][0] - tokens_before, begin, longer
            end += 1
    return tokens, best_start, run


def metrics(copies: Sequence[Copy], copied_tokens: int) -> dict[str, float | int]:
    """Return `longest` and `mean_longest` (tokens of the texts' longest runs) and `copied` (share of the texts).

    A text is copied if it has a run of `copied_tokens` tokens or more; Carlini et al. 2023 (Quantifying Memorization
    Across Neural Language Models) use 50. All are 0 without texts.
    """
    tokens = [copy.tokens for copy in copies]
    return {
        "longest": max(tokens, default=0),
        "mean_longest": float(np.mean(tokens)) if tokens else 0.0,
        "copied": float(np.mean([count >= copied_tokens for count in tokens])) if tokens else 0.0,
    }


def longest_copies(copies: Sequence[Copy], count: int) -> list[Copy]:
    """Return the `count` longest copies, the longest first; fewer where fewer texts have any."""
    return sorted((copy for copy in copies if copy.tokens), key=lambda copy: -copy.tokens)[:count]


def membership_gap(train: Scores, test: Scores) -> float:
    """Return by how many nats per token training rows are likelier than test rows.

    Membership inference by loss exploits this gap (Yeom et al. 2018, Privacy Risk in Machine Learning). It is near 0,
    or below, where nothing was memorised.
    """
    return float(test.loss.sum() / test.tokens.sum() - train.loss.sum() / train.tokens.sum())


def sample_training_texts(clean: pd.DataFrame, count: int) -> list[str]:
    """Return `count` different texts of the train split of `clean`, or all where there are fewer.

    A bottom-k hash sample: a new row replaces at most one of them. The hash differs from that of the splits, which
    decides what a training row is.
    """
    texts = clean.loc[clean["split"] == "train", "text"].unique().tolist()
    return sorted(texts, key=lambda text: hashlib.sha256(b"training sample\0" + text.encode()).digest())[:count]


class Memorisation(evaluate.Measurement):
    """How much of texts is verbatim in training rows, see `metrics`; with each text's longest `Copy` under "copies".

    `Memorisation().compute(data=texts, tokenizer=tokenizer, corpus=CorpusIndex(rows, training_texts))`.
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description="The longest runs of texts that are verbatim in training rows, in whole tokens.",
            citation="",
            inputs_description="data: the texts. tokenizer: a fast one of transformers. corpus: the training rows.",
            features=datasets.Features({"data": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/2202.07646"],
        )

    def _compute(
        self, data: list[str], tokenizer: PreTrainedTokenizerBase, corpus: CorpusIndex, *, copied_tokens: int = 40
    ) -> dict[str, Any]:
        copies = corpus.longest(data, tokenizer)
        return {**metrics(copies, copied_tokens), "copies": copies}
