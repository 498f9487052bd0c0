"""The gate on latency: is the candidate slower than the baseline on this machine, beyond what other load explains?

Both generate in turns (`pipeline.evaluation.timing`); the bound breaks only if the whole interval of the ratio lies
above it.
"""

from pipeline import params
from pipeline.evaluation.timing import median_ratio
from pipeline.verdict.records import Comparison, GateResult, not_measured
from pipeline.verdict.wording import PLAIN, interval, plain

_NAME = "latency"


def latency_gate(comparison: Comparison, config: params.Promote) -> GateResult:
    """Return whether a token, or a row, takes the candidate longer than the bound allows."""
    bound = config.gates.latency
    turns = comparison.candidate.turns, comparison.baseline.turns
    if not len(turns[0]) or len(turns[0]) != len(turns[1]) or not min(map(min, turns)) > 0:
        return not_measured(_NAME, bound)
    ratio = median_ratio(turns[0], turns[1], config.confidence)
    slow, unsettled = ratio.low > bound, ratio.low <= bound < ratio.high
    decimals = PLAIN.decimals_apart((ratio.low, bound), (ratio.high, bound), (ratio.value, bound))
    what = "token" if "seconds_a_token" in comparison.candidate.metrics else "row"
    seconds = [model.metrics.get(f"seconds_a_{what}", 0.0) for model in (comparison.candidate, comparison.baseline)]
    beginning = "It is too slow" if slow else "Latency is within its bound"
    if unsettled:
        beginning = "This machine was too busy to tell whether it is too slow"
    sentence = (
        f"{beginning}: a {what} takes {plain(1e3 * seconds[0])} ms, the {comparison.against} {plain(1e3 * seconds[1])};"
        f" that is {plain(ratio.value, decimals)} times as long"
        f" {interval(config.confidence, ratio.low, ratio.high, PLAIN, decimals)} in {ratio.rounds} rounds by turns;"
        f" promote.gates.latency allows {plain(bound, decimals)} times."
    )
    change = f"{_NAME}: an interval wholly above {plain(bound, decimals)} times would not have passed."
    if slow:
        change = (
            f"{_NAME}: at most {plain(bound, decimals)} times the {comparison.against}'s would have passed. Start"
            " from a smaller base, or raise the bound if the service may be slower."
        )
    return GateResult(
        name=_NAME,
        value=ratio.value,
        low=ratio.low,
        bound=bound,
        reference=1.0,
        passed=not slow,
        sentence=sentence,
        counterfactual=change,
        high=ratio.high,
        is_warning=unsettled,
    )
