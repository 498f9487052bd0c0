"""The gate on what a model writes for each source: how much it copies, repeats or leaves empty, beside real targets.

Targets copy and repeat too, so the bound is above what they do. A candidate above it still passes where the champion is
no better beyond chance, as refusing it would help nobody; and one below it does not where it is so much worse than the
champion.
"""

from dataclasses import dataclass

from pipeline import params
from pipeline.verdict.paired_means import Pairs, Worsening, pairs_of, worsening
from pipeline.verdict.records import Comparison, GateResult, NotMeasuredError, not_measured
from pipeline.verdict.statistics import Estimate, excess
from pipeline.verdict.wording import PERCENT, POINTS, interval, percent, points


@dataclass(frozen=True)
class TextShareGate:
    """A bound on a share of each text, above the share of real targets."""

    name: str
    figure: str  # in `ModelFigures.row_figures`, and under `text` in the figures of real targets
    problem: str
    subject: str
    what: str  # after the share: "of the 4-grams in its answers stand in their sources"
    lever: str

    def evaluate(self, comparison: Comparison, config: params.Promote) -> GateResult:
        """Measure, test, and put the outcome in words."""
        bound = float(getattr(config.gates, self.name))
        try:
            pairs = pairs_of(comparison, self.figure)
            reference, whose = self._reference(comparison, pairs)
        except NotMeasuredError:
            return not_measured(self.name, bound)
        share, texts = float(pairs.candidate.mean()), len(pairs.candidate)
        above = excess(share, reference, (texts, texts), config.confidence)
        rise = worsening(pairs, 1, config.confidence)
        is_over, is_champions = _outcome(comparison, above, rise, bound)
        passed = not is_over or is_champions
        decimals = POINTS.decimals_apart((above.value, bound), (above.low, bound))
        level = percent(reference, PERCENT.decimals)
        finding = (
            f"{percent(share)} {self.what} ({texts:,} answers); {whose} {level}. That is"
            f" {points(above.value, decimals)} points more"
            f" {interval(config.confidence, above.low, above.high, POINTS, decimals)};"
            f" promote.gates.{self.name} allows {points(bound, decimals)}.{self._beside(comparison, pairs, rise)}"
        )
        beginning = self.problem if is_over else f"{self.subject} is within its bound"
        if is_over and is_champions:
            beginning += ", but no more than the champion beyond chance"
        limit = percent(max(0.0, reference + bound + above.value - above.low))
        return GateResult(
            name=self.name,
            value=above.value,
            low=above.low,
            bound=bound,
            reference=reference,
            passed=passed,
            sentence=f"{beginning}: {finding}",
            counterfactual=f"{self.name}: more than about {limit} would not have passed."
            if passed
            else f"{self.name}: at most about {limit} would have passed. {self.lever}",
            high=above.high,
            is_warning=is_over and is_champions,
        )

    def _reference(self, comparison: Comparison, pairs: Pairs) -> tuple[float, str]:
        """Return the share of real targets, or where it is unknown of the baseline, and whose it is."""
        real = comparison.reference_metrics.get("text", {}).get(self.figure)
        if real is not None:
            return float(real), "of real targets"
        return float(pairs.baseline.mean()), f"of the {comparison.against}'s"

    def _beside(self, comparison: Comparison, pairs: Pairs, rise: Worsening) -> str:
        if comparison.against == "base":
            return ""
        return (
            f" The champion's share is {percent(float(pairs.baseline.mean()))}, which is at least"
            f" {points(rise.low)} points less allowing for chance."
            if rise.low > 0
            else f" The champion's share is {percent(float(pairs.baseline.mean()))}."
        )


def _outcome(comparison: Comparison, above: Estimate, rise: Worsening, bound: float) -> tuple[bool, bool]:
    """Return whether a bound is broken, and whether the champion breaks it just as much."""
    if comparison.against == "base":
        return not above.low <= bound, False
    is_far_above_champion = rise.low > bound and above.low > 0
    is_over = not above.low <= bound or is_far_above_champion
    return is_over, is_over and not rise.low > 0
