"""Memorisation: runs of training rows in generated texts, and how much likelier training rows are."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydivsufsort import divsufsort, sa_search
from transformers import PreTrainedTokenizerBase

from pipeline.evaluation.folding import fold
from pipeline.evaluation.scores import Scores
from pipeline.modeling.context import encoded_as_text

_PART_BYTES = 100_000_000  # of text; sorting and searching take 5 bytes per byte: 0.5 GB
_RUNS_PER_ROW = 16  # looked at first
_STRETCH = 3  # a stretch that can be boilerplate has this part of the tokens that count as a copy, or more
_SEPARATOR = b"\xff"  # between two rows; not a byte of UTF-8, so no run of a text crosses it


class Rule(NamedTuple):
    """What counts as copied."""

    tokens: int = 40  # a run of so many
    common_rows: int = 5  # a stretch that stands in more training rows than this is boilerplate, and does not count

    @property
    def stretch(self) -> int:
        """The tokens of a stretch that can be boilerplate; fewer are common words."""
        return max(1, self.tokens // _STRETCH)


@dataclass(frozen=True)
class Copy:
    """The run of a folded text that is verbatim in one folded training row and has the most tokens besides boilerplate.

    Folding leaves out layout, see `pipeline.evaluation.folding`.
    """

    tokens: int  # in the run, whole ones, besides boilerplate; 0 where the text has no such run
    text: str  # the run
    row: int  # the first training row with the run; 0 where there is none
    source: str  # that row's text, folded
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

    def rows(self, run: bytes, limit: int) -> int:
        """Return in how many rows `run` stands, or any number above `limit` if there are more."""
        count, left = sa_search(self._bytes, self._suffixes, run)
        if not count:
            return 0
        rows = 0
        for seen in (_RUNS_PER_ROW * limit, count):  # mostly the first few are in different rows
            places = self._suffixes[left : left + min(seen, count)]
            rows = len(np.unique(np.searchsorted(self._ends, places, side="right")))
            if rows > limit or seen >= count:
                break
        return rows

    def first(self, run: bytes) -> int:
        """Return the index of the first row that contains `run`."""
        count, left = sa_search(self._bytes, self._suffixes, run)
        return int(np.searchsorted(self._ends, self._suffixes[left : left + count].min(), side="right"))


class CorpusIndex:
    """The training rows, indexed to find runs of other texts in them: a suffix array (Manber and Myers 1993).

    It is built in parts, one of which is in memory at a time: 5 bytes per byte of its text. The last part is kept, so a
    corpus of one part is built once. Rows and texts are folded.
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

    def longest(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, rule: Rule = Rule()) -> list[Copy]:  # noqa: B008 - frozen
        """Return for each text its run of whole tokens in one training row with the most tokens besides boilerplate.

        Of runs with as many it is the text's first, and of the rows that contain it the corpus's first. Tokens that
        share a character are copied together or not at all. Parts are read twice, once for what is boilerplate.
        `tokenizer` must be a fast one, with offsets.
        """
        folded = [_FoldedText(fold(text), tokenizer, rule) for text in texts]
        for _, part in self._parts():
            for text in folded:
                text.count_rows(part)
        best = [Copy(0, "", 0, "", index) for index in range(len(texts))]
        for first, part in self._parts():
            for index, text in enumerate(folded):
                # Parts are in the corpus's order: of equal runs the first one is in the first row.
                if text.improve(part):
                    row = first + part.first(text.run.encode())
                    best[index] = Copy(text.tokens, text.run, int(self._rows[row]), fold(self._texts[row]), index)
        return best

    def _parts(self) -> Iterator[tuple[int, _Part]]:
        """Yield each part with the index of its first row."""
        for first, end in zip(self._starts, [*self._starts[1:], len(self._texts)], strict=True):
            if self._built is None or self._built[0] != first:
                self._built = None  # frees the previous part
                self._built = first, _Part([fold(text) for text in self._texts[first:end]])
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


class _FoldedText:
    """A text, which of its tokens are boilerplate, and its best run so far."""

    def __init__(self, text: str, tokenizer: PreTrainedTokenizerBase, rule: Rule) -> None:
        self._text, self._boundaries, self._rule = text, _boundaries(text, tokenizer), rule
        self._tokens = [tokens for tokens, _ in self._boundaries]
        self._stretches = self._find_stretches()
        self._rows = [0] * len(self._stretches)  # in which each stretch stands
        self.tokens, self._begin, self._end = 0, 0, 0

    @property
    def run(self) -> str:
        """The best run so far."""
        return self._text[self._boundaries[self._begin][1] : self._boundaries[self._end][1]]

    def _find_stretches(self) -> list[tuple[int, int]]:
        """Return the boundaries around each stretch of just enough tokens."""
        ends = (bisect_left(self._tokens, tokens + self._rule.stretch) for tokens in self._tokens)
        return [(begin, end) for begin, end in enumerate(ends) if end < len(self._tokens)]

    def count_rows(self, part: _Part) -> None:
        """Add in how many rows of `part` each stretch stands."""
        limit = self._rule.common_rows
        for place, (begin, end) in enumerate(self._stretches):
            if self._rows[place] <= limit:
                run = self._text[self._boundaries[begin][1] : self._boundaries[end][1]]
                self._rows[place] += part.rows(run.encode(), limit)

    def improve(self, part: _Part) -> bool:
        """Return whether `part` has a better run than the parts before, and take it.

        Every part of a run in a row is in that row too, so the end of the longest run never moves back as its begin
        moves on: at most two look-ups per token.
        """
        counted = self._counted()
        best = (self.tokens, -self._begin, self._end)
        improved = False
        end = 0
        for begin, (_, start) in enumerate(self._boundaries):
            end = max(end, begin)
            while end + 1 < len(self._boundaries):
                longer = self._text[start : self._boundaries[end + 1][1]]
                if not part.contains(longer.encode()):
                    break
                end += 1
            run = (counted[end] - counted[begin], -begin, end)
            if run[0] and run > best:
                best, improved = run, True
        self.tokens, self._begin, self._end = best[0], -best[1], best[2]
        return improved

    def _counted(self) -> list[int]:
        """Return how many tokens before each boundary are no boilerplate."""
        common = np.zeros(self._tokens[-1] + 1, bool)
        for (begin, end), rows in zip(self._stretches, self._rows, strict=True):
            if rows > self._rule.common_rows:
                common[self._tokens[begin] : self._tokens[end]] = True
        before = np.concatenate([[0], np.cumsum(~common)])
        return [int(before[tokens]) for tokens in self._tokens]


def metrics(copies: Sequence[Copy], copied_tokens: int) -> dict[str, float | int]:
    """Return `longest` and `mean_longest` (tokens of the texts' copied runs) and `copied` (share of the texts).

    A text is copied if it has a run of `copied_tokens` tokens or more besides boilerplate; Carlini et al. 2023
    (Quantifying Memorization Across Neural Language Models) use 50. All are 0 without texts.
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


def membership_gap(train: Scores, held_out: Scores) -> float:
    """Return by how many nats per token training rows are likelier than rows held out.

    Membership inference by loss exploits this gap (Yeom et al. 2018, Privacy Risk in Machine Learning). It is near 0,
    or below, where nothing was memorised.
    """
    return float(held_out.loss.sum() / held_out.tokens.sum() - train.loss.sum() / train.tokens.sum())


def sample_texts(clean: pd.DataFrame, split: str, count: int) -> list[str]:
    """Return `count` different texts of a split of `clean`, or all where there are fewer.

    A bottom-k hash sample: a new row replaces at most one of them. The hash differs from that of the splits, which
    decides in which split a row is.
    """
    texts = clean.loc[clean["split"] == split, "text"].unique().tolist()
    return sorted(texts, key=lambda text: hashlib.sha256(b"training sample\0" + text.encode()).digest())[:count]


class Memorisation(evaluate.Measurement):
    """How much of texts is verbatim in training rows, see `metrics`; with each text's `Copy` under "copies".

    `Memorisation().compute(data=texts, tokenizer=tokenizer, corpus=CorpusIndex(rows, training_texts), rule=Rule())`.
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
        self, data: list[str], tokenizer: PreTrainedTokenizerBase, corpus: CorpusIndex, *, rule: Rule
    ) -> dict[str, Any]:
        copies = corpus.longest(data, tokenizer, rule)
        return {**metrics(copies, rule.tokens), "copies": copies}
