"""How far a figure would move with other texts of the same kind: the percentile bootstrap over rows, plain and paired.

Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1), 1979; for two models on the same
rows: Koehn, "Statistical significance tests for machine translation evaluation", EMNLP 2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.modeling.nats import expm1

if TYPE_CHECKING:
    from pipeline.evaluation.perplexity import Score  # which takes its interval from here, and needs torch

_DRAWS_AT_ONCE = 2**20  # rows drawn for some resamples: 8 MB, a few times


@dataclass(frozen=True)
class Gain:
    """What a candidate gains over its opponent on the same rows, with the interval of it; below 0 it loses."""

    gain: float  # 1 - exp(nats): with one tokenizer the share by which perplexity falls; 0.02 is 2 %
    low: float
    high: float
    nats: float  # candidate's loss less opponent's, a token of the candidate's tokenizer: below 0 it is better
    nats_low: float
    nats_high: float
    rows: int
    tokens: int  # of the candidate's tokenizer


def resampled_ratio(
    numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return sum(numerator) / sum(denominator) of `resamples` draws of rows, with replacement, from all of them.

    `numerator` and `denominator` are (rows,), the result (resamples,); memory grows with either, not with their
    product. The draws hang on the number of rows and the seed alone. A row with 0 in both is never drawn. Raises
    ValueError for denominators that are negative, or 0 under another numerator, and where no row is left.
    """
    told = (numerator != 0) | (denominator != 0)
    both = np.stack([numerator[told], denominator[told]], axis=1).astype(np.float64)
    rows = len(both)
    if rows == 0 or not (both[:, 1] > 0).all():
        raise ValueError(f"a ratio needs rows with a denominator above 0; {int((both[:, 1] <= 0).sum())} of {rows} not")
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // rows)
    ratios = np.empty(resamples)
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)  # multinomial
        sums = times.astype(np.float64) @ both
        ratios[first : first + count] = sums[:, 0] / sums[:, 1]
    return ratios


def interval(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the bounds between which the middle `confidence` of the (resamples,) values lie.

    From n rows the width is sqrt((n - 1) / n) of what it should be, and of one row it is 0: below some 20 rows the
    interval says less than it seems to.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def paired_gain(candidate: Score, opponent: Score, resamples: int, confidence: float, seed: int) -> Gain:
    """Return the gain of `candidate` over `opponent`, scores of the same texts in the same order.

    The difference is taken row by row before rows are drawn, so that what makes a row hard for both drops out.
    Raises ValueError when the two are not scores of the same texts, or hold no token.
    """
    if not np.array_equal(candidate.bytes, opponent.bytes):
        raise ValueError(f"scores of other texts: {len(candidate.bytes)} rows against {len(opponent.bytes)}, by bytes")
    difference = candidate.loss - opponent.loss
    nats_low, nats_high = interval(resampled_ratio(difference, candidate.tokens, resamples, seed), confidence)
    nats = float(difference.sum() / candidate.tokens.sum())
    low, high = -expm1(nats_high), -expm1(nats_low)
    return Gain(
        gain=-expm1(nats),
        low=low,
        high=high,
        nats=nats,
        nats_low=nats_low,
        nats_high=nats_high,
        rows=len(difference),
        tokens=int(candidate.tokens.sum()),
    )
