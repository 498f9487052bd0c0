"""The statistics of the verdict: which differences lie beyond chance. Every formula names its source."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import permutation_test

_MAX_DRAWS = 2**20  # rows permuted at once: 8 MB, a few times


class Estimate(NamedTuple):
    """A figure with its interval."""

    value: float
    low: float
    high: float


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


def excess(share: float, reference: float, counts: tuple[int, int], confidence: float) -> Estimate:
    """Return `share` - `reference` with its interval; `counts` is what each of them is a share of.

    Newcombe 1998, Interval estimation for the difference between independent proportions, method 10. A mean of shares
    varies at most as much as a share does, so for one the interval is too wide rather than too narrow.
    """
    low, high = wilson_interval(share, counts[0], confidence)
    reference_low, reference_high = wilson_interval(reference, counts[1], confidence)
    difference = share - reference
    return Estimate(
        difference,
        difference - math.hypot(share - low, reference_high - reference),
        difference + math.hypot(high - share, reference - reference_low),
    )


def ratio_estimate(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], confidence: float) -> Estimate:
    """Return sum(numerator) / sum(denominator) over independent rows with Student's interval.

    The ratio estimate of Cochran 1977, Sampling Techniques, chapter 6. Needs two rows at least.
    """
    value = float(numerator.sum() / denominator.sum())
    reach = float(stdtrit(len(numerator) - 1, (1 + confidence) / 2)) * ratio_error(numerator, denominator)
    return Estimate(value, value - reach, value + reach)


def ratio_error(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> float:
    """Return the standard error of the ratio estimate (Cochran 1977, section 6.4)."""
    rows = len(numerator)
    residuals = numerator - numerator.sum() / denominator.sum() * denominator
    return float(math.sqrt(rows / (rows - 1) * (residuals**2).sum()) / denominator.sum())


def perplexity_rise(losses: npt.NDArray[Any], tokens: npt.NDArray[Any], confidence: float) -> tuple[float, float]:
    """Return by which share perplexity rises on some rows, and the lower end of its interval.

    Not the bootstrap: in the far tails that Bonferroni's correction needs, ten thousand resamples of a dozen rows say
    nothing.

    Args:
        losses: The candidate's loss less the baseline's, in nats; (rows,).
        tokens: Tokens of each row; (rows,).
        confidence: Of the two-sided interval.
    """
    nats = ratio_estimate(losses, tokens, confidence)
    return math.expm1(nats.value), math.expm1(nats.low)


class Sums(NamedTuple):
    """Numerator and denominator of a ratio, an entry a row."""

    numerator: npt.NDArray[np.float64]
    denominator: npt.NDArray[np.float64]

    @property
    def ratio(self) -> float:
        """The ratio of the sums."""
        return float(self.numerator.sum() / self.denominator.sum())


def ratio_difference(first: Sums, second: Sums, confidence: float, resamples: int, seed: int) -> Estimate:
    """Return by how much the ratio of one sample of rows lies above that of another, with a permutation interval.

    The interval inverts the studentised permutation test (Janssen 1997; Chung and Romano 2013, Exact and asymptotically
    robust permutation tests, Annals of Statistics 41): the labels of the rows are permuted, each sample centred at its
    own ratio, so that the interval holds also where tails are long. It is at least as wide as Welch's, which allows for
    a small sample that varies more than a large one. Both need two rows.
    """
    centred = [sample.numerator - sample.ratio * sample.denominator for sample in (first, second)]
    numerator, denominator = np.concatenate(centred), np.concatenate([first.denominator, second.denominator])
    null = permutation_test(
        (np.arange(len(centred[0])), len(centred[0]) + np.arange(len(centred[1]))),
        partial(_studentised, numerator, denominator),
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _MAX_DRAWS // len(numerator)),
        axis=-1,
        random_state=seed,
    ).null_distribution
    value, errors = first.ratio - second.ratio, (ratio_error(*first), ratio_error(*second))
    error = math.hypot(*errors)
    student = float(stdtrit(_welch_freedom(errors, (len(centred[0]), len(centred[1]))), (1 + confidence) / 2))
    lowest, highest = np.quantile(null, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, value - max(student, float(highest)) * error, value - min(-student, float(lowest)) * error)


def _welch_freedom(errors: tuple[float, float], rows: tuple[int, int]) -> float:
    """Return the degrees of freedom of a difference of two samples (Welch 1947, Biometrika 34)."""
    variances = [error**2 for error in errors]
    if not sum(variances):
        return sum(rows) - 2
    return sum(variances) ** 2 / sum(one**2 / (count - 1) for one, count in zip(variances, rows, strict=True))


def _studentised(
    numerator: npt.NDArray[np.float64],
    denominator: npt.NDArray[np.float64],
    first: npt.NDArray[Any],
    second: npt.NDArray[Any],
    axis: int = -1,
) -> npt.NDArray[np.float64]:
    """Return the difference of the ratios of the rows in `first` and `second`, over its standard error."""
    ratios, variances = [], []
    for rows in (first.astype(int), second.astype(int)):  # (..., rows)
        total = denominator[rows].sum(axis=axis, keepdims=True)
        ratios.append(numerator[rows].sum(axis=axis, keepdims=True) / total)
        residuals = numerator[rows] - ratios[-1] * denominator[rows]
        size = rows.shape[axis]
        variances.append(size / (size - 1) * (residuals**2).sum(axis=axis) / total.squeeze(axis) ** 2)
    difference = (ratios[0] - ratios[1]).squeeze(axis)
    error = np.sqrt(variances[0] + variances[1])
    result: npt.NDArray[np.float64] = np.divide(difference, error, out=np.zeros_like(difference), where=error > 0)
    return result


def bonferroni(confidence: float, comparisons: int) -> float:
    """Return the confidence of each of several comparisons that are to hold together (Dunn 1961, JASA 56)."""
    return 1 - (1 - confidence) / comparisons
