"""The gate on groups of rows: a candidate that is better on the whole may be worse for some.

Each group is tested by itself, with Bonferroni's correction for their number; groups too small to tell are counted.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline import params
from pipeline.verdict.records import Comparison, GateResult
from pipeline.verdict.sampling import numbered
from pipeline.verdict.statistics import bonferroni, perplexity_rise, rows_needed
from pipeline.verdict.wording import PERCENT, percent


class Rise(NamedTuple):
    """By which share perplexity rises in a group, the lower end of the interval, and on how many rows."""

    value: float
    low: float
    rows: int


def group_gate(comparison: Comparison, config: params.Promote) -> GateResult | None:
    """Return whether perplexity rises by more than the bound in any group, beyond chance; None without groups."""
    names = sorted(set(comparison.groups))
    if names in ([], [""]):
        return None
    bound = config.gates.group_loss
    confidence = bonferroni(config.confidence, len(names))
    least_rows = rows_needed(confidence)
    rows, quantity = comparison.quantity.rows, comparison.quantity.name
    rises = _rises(comparison, names, least_rows, confidence)
    if not rises:
        sentence = f"All {len(names)} groups have fewer than {least_rows} test {rows}, too few to compare any of them."
        return _result(None, bound, sentence, f"at least {least_rows} test {rows} in one.", passed=True)
    too_small = len(names) - len(rises)
    remark = f" {too_small} of fewer than {least_rows} {rows} are too small to tell." if too_small else ""
    broken = {name: rise for name, rise in rises.items() if not rise.low <= bound}  # so that NaN breaks it
    worst = max((broken or rises).values())
    if broken:
        sentence = (
            f"It got worse at {len(broken)} of {len(names)} groups ({_listed(broken, bound, comparison)});"
            f" promote.gates.group_loss allows {percent(bound)}."
        )
        change = (
            f"a rise of {percent(bound)} or less, or one that may be chance, would have passed. Add training rows of"
            f" {next(iter(broken)) or 'these rows'}, and see in the report whether its rows changed since the champion."
        )
    else:
        sentence = (
            f"Each of {len(rises)} groups is within its bound: {quantity} rises by more than {percent(bound)} beyond"
            " chance in none."
        )
        change = f"a rise beyond chance of more than {percent(bound)} in one would not have passed."
    return _result(worst, bound, sentence + remark, change, passed=not broken)


def _rises(comparison: Comparison, names: Sequence[str], least_rows: int, confidence: float) -> dict[str, Rise]:
    """Return the rise in each group that has rows, or clusters of them, enough."""
    groups = np.array(comparison.groups, dtype=object)
    losses = comparison.candidate.scores.loss - comparison.baseline.scores.loss
    tokens = comparison.candidate.scores.tokens
    cluster = None if comparison.clusters is None else numbered(comparison.clusters)
    rises = {}
    for name in names:
        rows = groups == name
        sums = [losses[rows], tokens[rows]]
        if cluster is not None:
            own = np.unique(cluster[rows], return_inverse=True)[1].ravel()
            sums = [np.bincount(own, weights=values) for values in sums]
        if len(sums[0]) >= least_rows:
            rises[name] = Rise(*perplexity_rise(sums[0], sums[1], confidence), len(sums[0]))
    return rises


def _listed(broken: Mapping[str, Rise], bound: float, comparison: Comparison) -> str:
    decimals = PERCENT.decimals_apart(*((rise.low, bound) for rise in broken.values()))
    quantity = comparison.quantity
    return "; ".join(
        f"{name or '(no group)'}: {quantity.name} up by {percent(rise.value, decimals)}, at least"
        f" {percent(rise.low, decimals)} allowing for chance, on {rise.rows} {quantity.rows}"
        for name, rise in sorted(broken.items(), key=lambda group: -group[1].low)
    )


def _result(worst: Rise | None, bound: float, sentence: str, change: str, *, passed: bool) -> GateResult:
    return GateResult(
        name="groups",
        value=worst.value if worst else None,
        low=worst.low if worst else None,
        bound=bound,
        reference=None,
        passed=passed,
        sentence=sentence,
        counterfactual=f"groups: {change}",
    )
