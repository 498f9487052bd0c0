"""The statistics of the verdict: which differences lie beyond chance. Every formula names its source."""

import math
from typing import Any

import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit


def expanded_confidence(confidence: float, rows: int) -> float:
    """Return the confidence at which a percentile interval over `rows` is as wide as Student's t asks for.

    A bootstrap of few rows is too narrow; this is the expanded percentile interval of Hesterberg 2015, What Teachers
    Should Know About the Bootstrap, section 3.1.2. Of a single row there is no interval, whatever the confidence.
    """
    if rows < 2:
        return confidence
    width = stdtrit(rows - 1, (1 + confidence) / 2) * math.sqrt(rows / (rows - 1))
    return float(1 - 2 * ndtr(-width))


def rows_needed(confidence: float) -> int:
    """Return the fewest rows with which anything can lie beyond chance.

    The sign test: all of n differences have the same sign with probability 2 * 2 ** -n (Conover 1999, Practical
    Nonparametric Statistics, section 3.4).
    """
    return math.ceil(math.log2(2 / (1 - confidence)))


def rows_to_detect(rows: int, width: float, distance: float) -> int:
    """Return about how many rows shrink a half-interval from `width` over `rows` to `distance`, to two digits.

    The width of an interval falls with the square root of the rows (the central limit theorem).
    """
    needed = rows * (width / distance) ** 2
    unit: int = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / unit) * unit


def wilson_interval(share: float, count: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a share of `count` (Wilson 1927, Probable inference, JASA 22)."""
    z = float(ndtri((1 + confidence) / 2))
    center = share + z * z / (2 * count)
    reach = z * math.sqrt((share * (1 - share) + z * z / (4 * count)) / count)
    scale = 1 + z * z / count
    return (center - reach) / scale, (center + reach) / scale


def least_excess(share: float, reference: float, count: int, confidence: float) -> float:
    """Return the lower end of the interval of `share` - `reference`, both shares of `count`.

    Newcombe 1998, Interval estimation for the difference between independent proportions, method 10. A mean of shares
    varies at most as much as a share does, so for one the interval is too wide rather than too narrow.
    """
    low, _ = wilson_interval(share, count, confidence)
    _, high = wilson_interval(reference, count, confidence)
    return share - reference - math.hypot(share - low, high - reference)


def perplexity_rise(losses: npt.NDArray[Any], tokens: npt.NDArray[Any], confidence: float) -> tuple[float, float]:
    """Return by which share perplexity rises on some rows, and the lower end of its interval.

    Student's interval of a ratio estimate (Cochran 1977, Sampling Techniques, chapter 6). Not the bootstrap: in the far
    tails that Bonferroni's correction needs, ten thousand resamples of a dozen rows say nothing.

    Args:
        losses: The candidate's loss less the baseline's, in nats; (rows,).
        tokens: Tokens of each row; (rows,).
        confidence: Of the two-sided interval.
    """
    rows = len(losses)
    nats = losses.sum() / tokens.sum()
    error = math.sqrt(rows / (rows - 1) * ((losses - nats * tokens) ** 2).sum()) / tokens.sum()
    return math.expm1(nats), math.expm1(nats - stdtrit(rows - 1, (1 + confidence) / 2) * error)


def bonferroni(confidence: float, comparisons: int) -> float:
    """Return the confidence of each of several comparisons that are to hold together (Dunn 1961, JASA 56)."""
    return 1 - (1 - confidence) / comparisons
