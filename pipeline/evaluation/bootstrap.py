"""Confidence intervals of ratios: the percentile bootstrap over rows, plain and paired.

Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1), 1979; for two models on the same
rows: Koehn, "Statistical significance tests for machine translation evaluation", EMNLP 2004.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.scores import Scores
from pipeline.modeling.nats import expm1

_MAX_DRAWS = 2**20  # rows drawn at once: 8 MB, a few times


@dataclass(frozen=True)
class Gain:
    """The gain of a candidate over a baseline on the same rows, with its interval; negative where it is worse."""

    gain: float  # 1 - exp(nats): with one tokenizer the share by which perplexity falls; 0.02 is 2 %
    low: float
    high: float
    nats: float  # candidate's loss minus baseline's, per token of the candidate's tokenizer: negative is better
    nats_low: float
    nats_high: float
    rows: int
    tokens: int  # of the candidate's tokenizer


def bootstrap_ratios(
    numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return sum(numerator) / sum(denominator) of `resamples` draws of all rows with replacement: (resamples,).

    The draws depend on the number of rows and the seed alone. Memory grows with the rows or the resamples, not with
    their product.

    Args:
        numerator: (rows,).
        denominator: (rows,); a row with 0 in both is never drawn.
        resamples: How many ratios to return.
        seed: Of the draws.

    Raises:
        ValueError: A denominator is negative, or 0 under another numerator, or no row is left.
    """
    is_informative = (numerator != 0) | (denominator != 0)
    both = np.stack([numerator[is_informative], denominator[is_informative]], axis=1).astype(np.float64)  # (rows, 2)
    rows = len(both)
    if rows == 0 or not (both[:, 1] > 0).all():
        bad = int((both[:, 1] <= 0).sum())
        raise ValueError(f"a ratio needs rows with a denominator above 0; found {bad} of {rows} without")
    generator = np.random.default_rng(seed)
    chunk = max(1, _MAX_DRAWS // rows)
    ratios = np.empty(resamples)
    for first in range(0, resamples, chunk):
        count = min(chunk, resamples - first)
        drawn = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        multiplicity = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        sums = multiplicity.astype(np.float64) @ both  # (count, 2)
        ratios[first : first + count] = sums[:, 0] / sums[:, 1]
    return ratios


def interval(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the bounds of the middle `confidence` of the (resamples,) values.

    From n rows the interval is too narrow by sqrt((n - 1) / n), from one row it has no width: do not trust it below
    some 20 rows.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def paired_gain(candidate: Scores, baseline: Scores, resamples: int, confidence: float, seed: int) -> Gain:
    """Return the gain of `candidate` over `baseline`, scores of the same texts in the same order.

    The difference is taken row by row before rows are drawn, so that what makes a row hard for both cancels out.
    Raises ValueError when the two are not scores of the same texts, or hold no token.
    """
    if not np.array_equal(candidate.bytes, baseline.bytes):
        raise ValueError(
            f"scores of different texts: {len(candidate.bytes)} and {len(baseline.bytes)} rows, or other bytes"
        )
    difference = candidate.loss - baseline.loss
    nats_low, nats_high = interval(bootstrap_ratios(difference, candidate.tokens, resamples, seed), confidence)
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
