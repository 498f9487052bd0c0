"""Histograms and profiles of a stream of unknown length, in bounded memory.

They take one chunk after the other, and come to the same result however the stream is chunked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# ISO 3's preferred numbers, series R40: 40 steps a decade, each about 6 % above the one before. Every second, fourth
# and eighth of them is R20, R10 and R5, so a histogram can be drawn coarser without splitting a bin.
_R40 = (
    *(1.0, 1.06, 1.12, 1.18, 1.25, 1.32, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.12, 2.24, 2.36, 2.5, 2.65, 2.8, 3.0),
    *(3.15, 3.35, 3.55, 3.75, 4.0, 4.25, 4.5, 4.75, 5.0, 5.3, 5.6, 6.0, 6.3, 6.7, 7.1, 7.5, 8.0, 8.5, 9.0, 9.5),
)
_DECADES = 12
MOST_BARS = 40


def _edges(step: int) -> np.ndarray:
    """Return 0 and the distinct integers of the series R40, R20, R10 or R5 (step 1, 2, 4 or 8), ascending."""
    numbers = (int(number * 10**decade + 0.5) for decade in range(_DECADES) for number in _R40[::step])
    return np.array(sorted({0, *numbers}), dtype=np.int64)


_EDGES = {step: _edges(step) for step in (1, 2, 4, 8)}


@dataclass(frozen=True)
class Bar:
    """One bar of a chart, for the integers from `low` to `high`, both included."""

    low: int
    high: int
    value: float


class Histogram:
    """Counts of non-negative integers in fixed bins that grow by 6 %; small integers have a bin each."""

    def __init__(self) -> None:
        """Start empty."""
        self.counts = np.zeros(len(_EDGES[1]), dtype=np.int64)
        self.sum = 0
        self.smallest: int | None = None
        self.largest: int | None = None

    def add(self, values: np.ndarray) -> None:
        """Count `values`, non-negative integers."""
        if len(values) == 0:
            return
        self.counts += np.bincount(np.searchsorted(_EDGES[1], values, side="right") - 1, minlength=len(self.counts))
        self.sum += int(values.sum(dtype=np.int64))
        low, high = int(values.min()), int(values.max())
        self.smallest = low if self.smallest is None else min(self.smallest, low)
        self.largest = high if self.largest is None else max(self.largest, high)

    @property
    def total(self) -> int:
        """Return how many values were added."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Return the exact mean; 0 when nothing was added."""
        return self.sum / self.total if self.total else 0.0

    def quantile(self, share: float) -> int:
        """Return the quantile at `share` of the values: exact below 20, within 6 % above."""
        if self.largest is None or self.smallest is None:
            return 0
        position = int(np.searchsorted(np.cumsum(self.counts), max(1, share * self.total)))
        above = int(_EDGES[1][position + 1]) - 1 if position + 1 < len(_EDGES[1]) else self.largest
        return max(self.smallest, min(above, self.largest))


def bars_on_one_axis(histograms: Mapping[str, Histogram], up_to: int = 0) -> dict[str, list[Bar]]:
    """Return each histogram as bars on one axis, their values shares of its own total.

    The axis covers all values of all histograms, and `up_to`; it has at most 40 bars, unless even R5 has more.
    """
    filled = [histogram for histogram in histograms.values() if histogram.largest is not None]
    if not filled:
        return {name: [] for name in histograms}
    low = min(histogram.smallest or 0 for histogram in filled)
    high = max(up_to, *(histogram.largest or 0 for histogram in filled))
    for step in (1, 2, 4, 8):
        edges = _EDGES[step]
        first = int(np.searchsorted(edges, low, side="right")) - 1
        last = int(np.searchsorted(edges, high, side="right")) - 1
        if last - first < MOST_BARS:
            break
    starts = np.searchsorted(_EDGES[1], edges)
    bars = {}
    for name, histogram in histograms.items():
        counts = np.add.reduceat(histogram.counts, starts)
        bars[name] = [
            Bar(
                int(edges[at]),
                int(edges[at + 1]) - 1 if at + 1 < len(edges) else high,
                float(counts[at] / max(1, histogram.total)),
            )
            for at in range(first, last + 1)
        ]
    return bars


class CorpusParts:
    """The corpus in 20 to 40 consecutive parts of equal size, however many rows there turn out to be.

    A part has one row at first; whenever there would be more than 40 parts, neighbours are merged in pairs.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.size = 1
        self.seen = 0
        self.first_row, self.rows, self.refused, self.characters = (np.zeros(MOST_BARS, np.int64) for _ in range(4))

    def add(self, rows: np.ndarray, refused: np.ndarray, characters: np.ndarray) -> None:
        """Add the next rows.

        Args:
            rows: Their numbers; (rows,).
            refused: Whether each is refused; (rows,).
            characters: Length of each text, used where it is not refused; (rows,).
        """
        end = self.seen + len(rows)
        while end > self.size * MOST_BARS:
            self.first_row = np.concatenate([self.first_row[::2], np.zeros(MOST_BARS // 2, np.int64)])
            self.rows, self.refused, self.characters = map(_halved, (self.rows, self.refused, self.characters))
            self.size *= 2
        position = np.arange(self.seen, end)
        part = position // self.size
        begins = position % self.size == 0
        self.first_row[part[begins]] = rows[begins]
        clean = ~refused.astype(bool)
        np.add.at(self.rows, part, 1)
        np.add.at(self.refused, part[~clean], 1)
        np.add.at(self.characters, part[clean], characters[clean].astype(np.int64))
        self.seen = end

    def __len__(self) -> int:
        """Return how many parts have rows."""
        return -(-self.seen // self.size)

    def bars(self) -> tuple[list[Bar], list[Bar]]:
        """Return for each part the share of refused rows, and the mean length of the clean texts in characters."""
        clean = np.maximum(1, self.rows - self.refused)
        starts = [int(row) for row in self.first_row[: len(self)]]
        spans = list(zip(starts, [*(row - 1 for row in starts[1:]), starts[-1]] if starts else [], strict=True))
        return (
            [Bar(*span, float(self.refused[at] / self.rows[at])) for at, span in enumerate(spans)],
            [Bar(*span, float(self.characters[at] / clean[at])) for at, span in enumerate(spans)],
        )


def _halved(counts: np.ndarray) -> np.ndarray:
    """Return `counts` with neighbours added in pairs, padded with zeros to the same length."""
    return np.concatenate([counts[::2] + counts[1::2], np.zeros(MOST_BARS // 2, np.int64)])
