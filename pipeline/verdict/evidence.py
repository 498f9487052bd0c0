"""What decides: the bound that a gain exceeds with a given confidence, at error rates far below a bootstrap's reach.

Ten thousand resamples have four beyond an error rate of 1 in 2,400, and few rows have no such tail at all. Student's
bound of a ratio estimate has one. It errs where losses of rows are skewed: a candidate that is a little better at most
rows and far worse at a few looks better than it is. Hall's cubic transformation corrects for that, but by itself lets
too much through where skewness is only estimated. So a gain must exceed both. Within strata (the classes of labels)
the same two bounds hold for the stratified estimate.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from pipeline.evaluation.scores import Scores
from pipeline.modeling.nats import expm1
from pipeline.verdict.class_rows import rare_rows, rows_to_tell
from pipeline.verdict.sampling import Ints, Sample
from pipeline.verdict.statistics import rows_needed, rows_to_detect
from pipeline.verdict.stratified import moments

POWER = 0.8  # of the rows that are said to show a gain: four times in five
NEW_SHARE = 0.2  # of alpha, for the rows that are new since the champion was chosen


@dataclass(frozen=True)
class LeastGain:
    """What the gain exceeds with a confidence of 1 - alpha."""

    gain: float  # a share, as in `Gain`
    nats: float  # candidate's loss minus baseline's per token, at most; negative is better
    reach: float  # nats between the estimate and this bound
    alpha: float
    rows: int

    @property
    def estimate(self) -> float:
        """The gain itself, a share."""
        return -expm1(self.nats - self.reach)

    def rows_for(self, distance: float) -> int:
        """Return about how many rows show a gain observed `distance` nats beyond what is asked."""
        return rows_to_detect(self.rows, self.reach, distance)

    def rows_for_true(self, distance: float) -> int:
        """Return about how many rows show a true gain of `distance` nats beyond what is asked, four times in five.

        The usual normal approximation (Cohen 1988, Statistical Power Analysis, chapter 2).
        """
        return rows_to_detect(self.rows, self.reach * (1 + float(ndtri(POWER) / -ndtri(self.alpha))), distance)


@dataclass(frozen=True)
class Evidence:
    """What is sure of the gain on all rows, and on those that are new since the champion was chosen."""

    all_rows: LeastGain
    new_rows: LeastGain | None  # None: unknown which they are, or too few to show anything


def sample_evidence(sample: Sample, alpha: float) -> Evidence:
    """Return what is sure of the candidate's gain, with a chance of `alpha` that any of it is wrong.

    A champion was chosen for its losses on the old rows, so luck is among them (regression to the mean), and a
    candidate looks worse there than it is. On new rows it does not. They get a part of alpha to themselves, so that a
    lucky champion can be replaced as soon as they show it, at little cost to all rows together.

    Args:
        sample: What chance draws: rows or clusters, the old ones first.
        alpha: One-sided.
    """
    new_alpha = NEW_SHARE * alpha
    new = sample.since(sample.old) if sample.old else None
    if new is None or not _tells(new, sample, new_alpha):
        return Evidence(least_gain(sample.candidate, sample.baseline, alpha, sample.strata), None)
    return Evidence(
        least_gain(sample.candidate, sample.baseline, alpha - new_alpha, sample.strata),
        least_gain(new.candidate, new.baseline, new_alpha, new.strata),
    )


def evidence(candidate: Scores, baseline: Scores, alpha: float, old_rows: int | None) -> Evidence:
    """Return `sample_evidence` of rows that do not depend on each other and have no classes."""
    return sample_evidence(Sample(candidate, baseline, old=old_rows), alpha)


def _tells(new: Sample, sample: Sample, alpha: float) -> bool:
    """Return whether the new rows of a sample could show anything, and hold enough of the rarer classes."""
    rows = len(new.candidate.loss)
    is_enough = rows >= rows_needed(1 - 2 * alpha)
    return is_enough and (sample.strata is None or rare_rows(sample.strata[-rows:]) >= rows_to_tell(alpha))


def least_gain(candidate: Scores, baseline: Scores, alpha: float, strata: Ints | None = None) -> LeastGain:
    """Return what the candidate's gain over the baseline exceeds with a confidence of 1 - `alpha`."""
    losses, tokens = baseline.loss - candidate.loss, candidate.tokens  # (rows,); positive losses are gains
    nats = losses.sum() / tokens.sum()
    reach = float(mean_reach(losses - nats * tokens, alpha, strata) / tokens.mean())
    bound = float(reach - nats)
    return LeastGain(-expm1(bound), bound, reach, alpha, len(losses))


def mean_reach(residuals: npt.NDArray[np.float64], alpha: float, strata: Ints | None = None) -> float:
    """Return how far the mean of `residuals`, drawn within strata where there are some, lies above its expectation
    at most, with a confidence of 1 - `alpha`.

    Student's bound of a ratio estimate (Cochran 1977, Sampling Techniques, chapter 6), or that of Hall 1992, On the
    removal of skewness by transformation, JRSS B 54, section 2, with Student's quantile, whichever is the higher.
    """
    if strata is not None:
        error, freedom, skewness = moments(residuals, strata)
        quantile = float(-stdtrit(freedom, alpha))
        return max(quantile, _hall(quantile, skewness, 1)) * error / len(residuals)
    rows = len(residuals)
    deviation = math.sqrt((residuals**2).mean())
    if not deviation > 0 or rows < 2:
        return 0.0
    quantile = float(-stdtrit(rows - 1, alpha) / math.sqrt(rows - 1))
    skewness = float(((residuals / deviation) ** 3).mean())
    return max(quantile, _hall(quantile, skewness, rows)) * deviation


def _hall(quantile: float, skewness: float, rows: int) -> float:
    """Return the standardised mean whose transformed value is `quantile`."""
    if abs(skewness) < 1e-6:  # of which the limit is `quantile` itself
        return quantile
    return float(3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / (6 * rows))) - 1))
