"""What decides: the bound that a gain exceeds with a given confidence, at error rates far below a bootstrap's reach.

Ten thousand resamples have four beyond an error rate of 1 in 2,400, and few rows have no such tail at all. Student's
bound of a ratio estimate has one. It errs where losses of rows are skewed: a candidate that is a little better at most
rows and far worse at a few looks better than it is. Hall's cubic transformation corrects for that, but by itself lets
too much through where skewness is only estimated. So a gain must exceed both.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from pipeline.evaluation.scores import Scores
from pipeline.modeling.nats import expm1
from pipeline.verdict.statistics import rows_needed, rows_to_detect

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


def evidence(candidate: Scores, baseline: Scores, alpha: float, old_rows: int | None) -> Evidence:
    """Return what is sure of the candidate's gain, with a chance of `alpha` that any of it is wrong.

    A champion was chosen for its losses on the old rows, so luck is among them (regression to the mean), and a
    candidate looks worse there than it is. On new rows it does not. They get a part of alpha to themselves, so that a
    lucky champion can be replaced as soon as they show it, at little cost to all rows together.

    Args:
        candidate: Its scores of all rows.
        baseline: The champion's, or the base's.
        alpha: One-sided.
        old_rows: How many rows, from the first, the champion was chosen on; None where that is unknown.
    """
    new_alpha = NEW_SHARE * alpha
    if old_rows is None or len(candidate.loss) - old_rows < rows_needed(1 - 2 * new_alpha) or old_rows == 0:
        return Evidence(least_gain(candidate, baseline, alpha), None)
    new = slice(old_rows, None)
    return Evidence(
        least_gain(candidate, baseline, alpha - new_alpha),
        least_gain(_part(candidate, new), _part(baseline, new), new_alpha),
    )


def _part(scores: Scores, rows: slice) -> Scores:
    """Return the scores of some rows."""
    return Scores(scores.loss[rows], scores.tokens[rows], scores.bytes[rows])


def least_gain(candidate: Scores, baseline: Scores, alpha: float) -> LeastGain:
    """Return what the candidate's gain over the baseline exceeds with a confidence of 1 - `alpha`.

    Student's bound of a ratio estimate (Cochran 1977, Sampling Techniques, chapter 6), or that of Hall 1992, On the
    removal of skewness by transformation, JRSS B 54, section 2, with Student's quantile, whichever is the lower.
    """
    losses, tokens = baseline.loss - candidate.loss, candidate.tokens  # (rows,); positive losses are gains
    rows = len(losses)
    nats = losses.sum() / tokens.sum()
    residuals = losses - nats * tokens
    deviation = math.sqrt((residuals**2).mean())
    standardised = 0.0
    if deviation > 0 and rows > 1:
        quantile = -stdtrit(rows - 1, alpha) / math.sqrt(rows - 1)
        standardised = max(quantile, _hall(quantile, float(((residuals / deviation) ** 3).mean()), rows))
    reach = float(standardised * deviation / tokens.mean())
    bound = float(reach - nats)
    return LeastGain(-expm1(bound), bound, reach, alpha, rows)


def _hall(quantile: float, skewness: float, rows: int) -> float:
    """Return the standardised mean whose transformed value is `quantile`."""
    if abs(skewness) < 1e-6:  # of which the limit is `quantile` itself
        return quantile
    return float(3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / (6 * rows))) - 1))
