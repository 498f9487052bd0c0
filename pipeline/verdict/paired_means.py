"""The gate on a figure of each row, or of each query: does its mean become worse than the baseline's, beyond chance?"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import params
from pipeline.verdict.evidence import mean_reach
from pipeline.verdict.records import Comparison, GateResult, NotMeasuredError, not_measured
from pipeline.verdict.sampling import numbered, within
from pipeline.verdict.statistics import rows_needed
from pipeline.verdict.wording import PLAIN, interval, plain

Floats = npt.NDArray[np.float64]


class Pairs(NamedTuple):
    """A figure of the candidate and of the baseline on the rows on which both have one: (rows,) each."""

    candidate: Floats
    baseline: Floats
    strata: npt.NDArray[np.int64] | None


class Worsening(NamedTuple):
    """By how much the mean is worse, with its interval."""

    value: float
    low: float
    high: float


def pairs_of(comparison: Comparison, figure: str) -> Pairs:
    """Return a row figure of both models; raises NotMeasuredError unless both have it on the same rows, two or more."""
    candidate, baseline = (model.measured_rows(figure) for model in (comparison.candidate, comparison.baseline))
    rows = ~np.isnan(candidate)
    if not np.array_equal(rows, ~np.isnan(baseline)) or rows.sum() < 2:
        raise NotMeasuredError
    strata = None if comparison.classes is None else within(numbered(np.asarray(comparison.classes)[rows].tolist()))
    return Pairs(candidate[rows], baseline[rows], strata)


def worsening(pairs: Pairs, sign: int, confidence: float) -> Worsening:
    """Return by how much the candidate's mean lies above the baseline's (`sign` 1) or below it (-1).

    The ends are those that decide on the gain, see `pipeline.verdict.evidence.mean_reach`. Where so few rows differ
    that all of them may be worse by chance (the sign test), the lower end is at most 0.
    """
    difference = sign * (pairs.candidate - pairs.baseline)
    value, alpha = float(difference.mean()), (1 - confidence) / 2
    low = value - mean_reach(difference - value, alpha, pairs.strata)
    high = value + mean_reach(value - difference, alpha, pairs.strata)
    is_settled = int((difference != 0).sum()) >= rows_needed(confidence)
    return Worsening(value, low if is_settled else min(low, 0.0), high)


@dataclass(frozen=True)
class PairedMeanGate:
    """A bound on how much worse the mean of a row figure may be."""

    name: str  # also of the setting under promote.gates
    figure: str  # in `ModelFigures.row_figures`
    sign: int  # 1: more of it is worse; -1: less
    problem: str
    subject: str
    what: str  # the mean, in words: "the cost of a decision"
    lever: str
    rows: str = ""  # what has the figure; "": what the verdict draws
    refuses_first: bool = True  # whether a first model can break it, beside a base that was never trained for this

    def evaluate(self, comparison: Comparison, config: params.Promote) -> GateResult:
        """Measure, test, and put the outcome in words."""
        bound = float(getattr(config.gates, self.name))
        try:
            pairs = pairs_of(comparison, self.figure)
        except NotMeasuredError:
            return not_measured(self.name, bound)
        result = worsening(pairs, self.sign, config.confidence)
        over = not result.low <= bound  # so that NaN breaks it
        passed = not over or (comparison.against == "base" and not self.refuses_first)
        decimals = PLAIN.decimals_apart((result.value, bound), (result.low, bound))
        limit = plain(bound + result.value - result.low, decimals)
        change = f"more than about {limit} {self._more} would not have passed."
        if over:
            change = f"at most about {limit} {self._more} would have passed. {self.lever}"
        beginning = self.problem if over else f"{self.subject} is within its bound"
        first = " A first model is not refused for that." if over and passed else ""
        return GateResult(
            name=self.name,
            value=result.value,
            low=result.low,
            bound=bound,
            reference=float(pairs.baseline.mean()),
            passed=passed,
            sentence=f"{beginning}: {self._finding(comparison, pairs, result, config, decimals)}{first}",
            counterfactual=f"{self.name}: {change}",
            high=result.high,
            is_warning=over and passed,
        )

    @property
    def _more(self) -> str:
        return "more" if self.sign > 0 else "less"

    def _finding(
        self, comparison: Comparison, pairs: Pairs, result: Worsening, config: params.Promote, decimals: int
    ) -> str:
        rows = self.rows or comparison.quantity.rows
        where = f" on {len(pairs.candidate):,} test {rows}"
        return (
            f"{self.what} is {plain(pairs.candidate.mean(), decimals + 1)} on average, the {comparison.against}'s"
            f" {plain(pairs.baseline.mean(), decimals + 1)}, which is {plain(result.value, decimals)} {self._more}"
            f" {interval(config.confidence, result.low, result.high, PLAIN, decimals, where)};"
            f" promote.gates.{self.name} allows {plain(getattr(config.gates, self.name), decimals)}."
        )
