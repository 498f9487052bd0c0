"""The result of comparing two clean data sets."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt

from pipeline.reporting.histogram import Bar

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DataSet:
    """A clean data set."""

    name: str  # as the caller named it
    data: str  # SHA-256 of its texts and splits, as in `pipeline.tokenize.data_hash` and every manifest


@dataclass(frozen=True)
class Rows:
    """Row counts; old = unchanged + edited + removed, new = unchanged + edited + added."""

    old: int
    new: int
    unchanged: int
    edited: int  # other case, white space or Unicode form, or a near-copy (estimated similarity >= EDIT_THRESHOLD)
    removed: int
    added: int


@dataclass(frozen=True)
class Splits:
    """Rows of each split, and the texts whose split changed."""

    old: dict[str, int]
    new: dict[str, int]
    moved: int  # texts equal after normalisation: none, unless the shares in params.yaml changed
    moved_by_edit: int  # near-copies: an edited text has a hash, and so a split, of its own
    moves: dict[str, int]  # "train to test" -> `moved` texts


@dataclass(frozen=True)
class Length:
    """Characters of a text; None where there is no text."""

    mean: float | None
    median: float | None
    p95: float | None


@dataclass(frozen=True)
class LengthDrift:
    """How the lengths differ; distances are None where a data set is empty.

    `psi` is the population stability index over the old lengths' deciles, sum((q - p) ln(q / p)) with 0.5 added to each
    count (Siddiqi, Credit Risk Scorecards, 2006). `ks` is the two-sample Kolmogorov-Smirnov statistic, the largest
    distance between the two cumulative distributions; `p_value` is its p-value in the limit of large samples, too large
    where there are many ties.
    """

    old: Length
    new: Length
    psi: float | None
    ks: float | None
    p_value: float | None


@dataclass(frozen=True)
class Word:
    """A word and its count in each data set."""

    word: str
    old: int
    new: int


@dataclass(frozen=True)
class Vocabulary:
    """How the words differ: words of the normalised texts by UAX #29, without pieces that hold an @ (addresses).

    `distance` is the Jensen-Shannon distance (base 2: 0 same, 1 nothing in common) of the two word frequencies; `rose`
    and `fell` are the words that add most to it (doi:10.1140/epjds/s13688-021-00260-3, eq. 15).
    All words are counted; only words of letters are listed.
    """

    words_old: int  # running words
    words_new: int
    distinct_old: int
    distinct_new: int
    distinct_added: int  # in the new data set only
    distinct_gone: int  # in the old data set only
    unseen_share: float | None  # of the new data set's running words, those the old one never has
    distance: float | None
    added: tuple[Word, ...]
    gone: tuple[Word, ...]
    rose: tuple[Word, ...]
    fell: tuple[Word, ...]


@dataclass(frozen=True)
class Examples:
    """What the page shows besides figures; texts are redacted and shortened."""

    edited: list[dict[str, Any]]  # rows `old` and `new`, and the `parts` that `mark_changes` returns
    removed: list[dict[str, Any]]  # `row` and `text`
    added: list[dict[str, Any]]  # `row` and `text`
    histogram: dict[str, list[Bar]]  # of lengths: bars on one axis for "old" and "new"


@dataclass(frozen=True)
class DataDiff:
    """The result of `compare.diff`; the same two files give the same figures."""

    old: DataSet
    new: DataSet
    rows: Rows
    splits: Splits
    length: LengthDrift
    vocabulary: Vocabulary
    examples: Examples

    def as_json(self) -> dict[str, Any]:
        """Return everything but the examples, for JSON; it holds no text of a row."""
        content = asdict(self)
        del content["examples"]
        return content


def rounded(number: float) -> float:
    """Round to six significant digits, which are the same on every machine."""
    return float(f"{number:.6g}")
