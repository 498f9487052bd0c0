"""What chance draws: test rows, or clusters of rows that depend on each other; and the strata that it draws within."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.scores import Scores
from pipeline.verdict.records import Comparison

# Classes with fewer rows share a stratum: below it, nothing in one could lie beyond chance (the sign test at 95 %).
LEAST_STRATUM = 6

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """The scores of what chance draws, in the order of the rows."""

    candidate: Scores
    baseline: Scores
    strata: Ints | None = None  # of each entry; None: one stratum
    old: int | None = None  # how many entries, from the first, the champion was chosen on; None: unknown

    def since(self, first: int) -> "Sample":
        """Return the entries from `first` on, as a sample of their own."""
        rows = slice(first, None)
        strata = None if self.strata is None else within(self.strata[rows])
        return Sample(_part(self.candidate, rows), _part(self.baseline, rows), strata)


def sample_of(comparison: Comparison) -> Sample:
    """Return what chance draws in a comparison: its clusters where it has some, else its rows within their classes.

    Rows of a cluster are added up, which leaves the ratio of the sums as it is (Cochran 1977, Sampling Techniques,
    section 9A.1). A cluster is old if any of its rows is.
    """
    candidate, baseline = comparison.candidate.scores, comparison.baseline.scores
    if comparison.clusters is not None:
        cluster = numbered(comparison.clusters)
        old = comparison.old_rows
        return Sample(
            _summed(candidate, cluster),
            _summed(baseline, cluster),
            old=None if old is None else int(cluster[:old].max(initial=-1)) + 1,
        )
    strata = None if comparison.classes is None else within(numbered(comparison.classes))
    return Sample(candidate, baseline, strata, comparison.old_rows)


def numbered(names: Sequence[str]) -> Ints:
    """Return a number for each name, from 0 on in the order in which they first occur: (rows,)."""
    _, first, inverse = np.unique(np.asarray(names, dtype=object).astype(str), return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.ravel()]


def within(classes: Ints) -> Ints | None:
    """Return the strata of these classes; None where there is but one."""
    strata = collapsed(classes)
    return strata if strata.max(initial=0) > 0 else None


def collapsed(strata: Ints, least: int = LEAST_STRATUM) -> Ints:
    """Return strata in which those of fewer than `least` entries are one, with the smallest other one if need be.

    Collapsed strata (Cochran 1977, section 5A.12): differences between their classes make the error larger, not
    smaller.
    """
    _, inverse, counts = np.unique(strata, return_inverse=True, return_counts=True)
    small = counts < least
    merged = np.where(small, len(counts), np.arange(len(counts)))
    if 0 < counts[small].sum() < least and not small.all():
        merged[small] = np.flatnonzero(~small)[counts[~small].argmin()]
    result: Ints = np.unique(merged[inverse.ravel()], return_inverse=True)[1].ravel()
    return result


def _summed(scores: Scores, cluster: Ints) -> Scores:
    """Return the sums of each cluster: (clusters,) each."""
    loss, tokens, size = (np.bincount(cluster, weights=field.astype(np.float64)) for field in scores)
    return Scores(loss.astype(np.float64), tokens.astype(np.int64), size.astype(np.int64))


def _part(scores: Scores, rows: slice) -> Scores:
    return Scores(scores.loss[rows], scores.tokens[rows], scores.bytes[rows])
