"""Means and ratios of rows drawn within strata, such as the classes of labels: their error, and a bootstrap.

Where 20 rows in 1,000 are fraud, most of the error comes from these 20: one standard deviation over all rows takes them
for as sure as 1,000, and every resample holds another number of them.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_MAX_DRAWS = 2**20  # rows drawn at once: 8 MB, a few times

Floats = npt.NDArray[np.float64]


class Moments(NamedTuple):
    """How a sum of rows, drawn within strata, varies by chance."""

    error: float  # its standard deviation
    freedom: float  # degrees of freedom of that
    skewness: float  # of the sum itself, not of a row


def moments(residuals: Floats, strata: npt.NDArray[Any]) -> Moments:
    """Return how the sum of `residuals` varies where each stratum, of at least two rows, is drawn by itself.

    Variance: Cochran 1977, Sampling Techniques, section 5.4 (for a ratio the combined estimate, section 6.11). Degrees
    of freedom: Satterthwaite 1946, Biometrics Bulletin 2. Skewness: cumulants of independent sums add up.
    """
    rows = np.bincount(strata).astype(np.float64)  # (strata,)
    means = np.bincount(strata, weights=residuals) / rows
    centred = residuals - means[strata]
    variances = rows / (rows - 1) * np.bincount(strata, weights=centred**2)  # of the stratum's sum
    variance = float(variances.sum())
    if not variance > 0:
        return Moments(0.0, float(rows.sum() - len(rows)), 0.0)
    # The unbiased third moment of a row, times the rows; two rows have none.
    scale = np.where(rows > 2, rows**2 / np.maximum((rows - 1) * (rows - 2), 1), 0.0)
    third = float((scale * np.bincount(strata, weights=centred**3)).sum())
    freedom = variance**2 / float((variances**2 / (rows - 1)).sum())
    return Moments(math.sqrt(variance), freedom, third / variance**1.5)


def bootstrap_ratios(
    numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], strata: npt.NDArray[Any], resamples: int, seed: int
) -> Floats:
    """Return sum(numerator) / sum(denominator) of `resamples` draws within strata of two rows or more: (resamples,).

    Each stratum of n rows gives n - 1 draws, weighted as n: with n draws the error of a small one would be too small
    (Rao and Wu 1988, Resampling inference with complex survey data, JASA 83).
    """
    generator = np.random.default_rng(seed)
    sums = np.zeros((resamples, 2))
    for stratum in range(int(strata.max()) + 1):
        rows = strata == stratum
        both = np.stack([numerator[rows], denominator[rows]], axis=1).astype(np.float64)  # (rows, 2)
        sums += _drawn_sums(both, resamples, generator)
    ratios: Floats = sums[:, 0] / sums[:, 1]
    return ratios


def _drawn_sums(both: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Return the sums of resamples of one stratum: (resamples, 2)."""
    rows = len(both)
    chunk = max(1, _MAX_DRAWS // rows)
    sums = np.empty((resamples, 2))
    for first in range(0, resamples, chunk):
        count = min(chunk, resamples - first)
        drawn = generator.integers(rows, size=(count, rows - 1)) + rows * np.arange(count)[:, None]
        multiplicity = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        sums[first : first + count] = multiplicity.astype(np.float64) @ both * (rows / (rows - 1))
    return sums
