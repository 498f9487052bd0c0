"""The gate on recall: a classifier that is better on the whole may have given up a class.

Each class is tested by itself, by the rows that only one of the two models gets right (McNemar 1947, Psychometrika 12);
classes too small to tell are counted, and tested as one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from pipeline import params
from pipeline.verdict.class_rows import RECALL, rows_to_tell
from pipeline.verdict.records import Comparison, GateResult, NotMeasuredError, not_measured
from pipeline.verdict.statistics import bonferroni, rows_needed
from pipeline.verdict.wording import POINTS, percent, points

_LISTED = 5  # small classes named in the sentence
_LEVER = (
    "Add training rows of {name}, set tasks.classify.class_weight to auto, or see in the report which labels it is"
    " taken for"
)


class Recall(NamedTuple):
    """How often a class is found: rows of it, and those that both models, or only one of them, get right."""

    rows: int
    candidate: int
    baseline: int
    lost: int  # right before, wrong now
    won: int  # the reverse

    def fall(self, alpha: float) -> tuple[float, float]:
        """Return by which share recall falls, and what it falls by at least with a confidence of 1 - `alpha`.

        The exact lower limit of the share of lost rows among those that differ (Clopper and Pearson 1934, Biometrika
        26): it says that recall falls where the exact McNemar test does.
        """
        different = self.lost + self.won
        lowest = float(betaincinv(self.lost, self.won + 1, alpha)) if self.lost else 0.0
        return (self.lost - self.won) / self.rows, (2 * lowest - 1) * different / self.rows


def recall_gate(comparison: Comparison, config: params.Promote) -> GateResult:
    """Return whether the recall of any class falls by more than the bound, beyond chance."""
    bound = config.gates.recall
    try:
        classes = _recalls(comparison)
    except NotMeasuredError as error:
        return not_measured("recall", bound, str(error))
    if comparison.against == "base":
        return _first(classes, config)
    least = rows_needed(bonferroni(config.confidence, len(classes)))
    small = {name: one for name, one in classes.items() if one.rows < least}
    tested = {name: one for name, one in classes.items() if name not in small}
    if small:
        tested[_together(small)] = Recall(*map(sum, zip(*small.values(), strict=True)))
    alpha = (1 - config.confidence) / 2
    alpha /= _testable([one.lost + one.won for one in tested.values()], alpha)
    falls = {name: one.fall(alpha) for name, one in tested.items()}
    broken = {name: tested[name] for name, (_, low) in falls.items() if low > bound}
    remark = _remark(small, least)
    worst = max(falls.values(), key=lambda fall: fall[1])
    if broken:
        sentence = (
            f"It finds less of {len(broken)} of {len(classes)} classes ({_listed(broken, alpha, bound)});"
            f" promote.gates.recall allows {points(bound)} points.{remark}"
        )
        name = max(broken, key=lambda one: falls[one][1])
        change = f"no fall of its recall beyond chance would have passed. {_LEVER.format(name=_quoted(name))}."
    else:
        sentence = (
            f"Each of {len(classes)} classes is within its bound: recall falls by more than {points(bound)} points"
            f" beyond chance in none.{remark}"
        )
        change = f"a fall beyond chance of more than {points(bound)} points in one would not have passed."
    return _result(worst, bound, sentence, change, passed=not broken)


def _recalls(comparison: Comparison) -> dict[str, Recall]:
    """Return the counts of each class that has test rows."""
    names = [name for name in comparison.candidate.row_figures if name.startswith(RECALL)]
    classes = {}
    for name in names:
        candidate, baseline = (model.measured_rows(name) for model in (comparison.candidate, comparison.baseline))
        rows = ~np.isnan(candidate)
        if not np.array_equal(rows, ~np.isnan(baseline)):
            raise NotMeasuredError(f"{name.removeprefix(RECALL)} has other rows for the {comparison.against}")
        if rows.any():
            right, before = candidate[rows] > 0.5, baseline[rows] > 0.5
            counts = [len(right), right.sum(), before.sum(), (before & ~right).sum(), (right & ~before).sum()]
            classes[name.removeprefix(RECALL)] = Recall(*map(int, counts))
    if not classes:
        raise NotMeasuredError
    return classes


def _testable(different: Sequence[int], alpha: float) -> int:
    """Return among how many tests the error is shared: those that could find anything (Tarone 1990, Biometrics 46).

    Of n rows that differ, a sign test can be no surer than 2 ** -n.
    """
    surest = 0.5 ** np.array(different, dtype=np.float64)
    return next(number for number in range(1, len(different) + 2) if (surest <= alpha / number).sum() <= number)


def _first(classes: Mapping[str, Recall], config: params.Promote) -> GateResult:
    """Return the result for a first model: a base was never trained to tell these classes, so none may be ignored."""
    least = rows_to_tell((1 - bonferroni(config.confidence, max(2, len(classes)))) / 2)
    known = {name: one for name, one in classes.items() if one.rows >= least}
    ignored = {name: one for name, one in known.items() if one.candidate == 0}
    if ignored:
        listed = ", ".join(f"none of {one.rows} test rows that are {_quoted(name)}" for name, one in ignored.items())
        sentence = f"It never finds {len(ignored)} of {len(classes)} classes: {listed}."
        name = next(iter(ignored))
        lever = f"Set tasks.classify.decide to f1 or cost. {_LEVER.format(name=_quoted(name))}"
        change = f"one found would have passed. {lever}."
    else:
        small = len(classes) - len(known)
        remark = f" {small} of fewer than {least} test rows are too small to tell." if small else ""
        sentence = f"It ignores no class: it finds rows of each of {len(known)} classes.{remark}"
        change = "a class of which it finds no row would not have passed."
    return _result((float(len(ignored)), None), 0.0, sentence, change, passed=not ignored)


def _together(small: Mapping[str, Recall]) -> str:
    return next(iter(small)) if len(small) == 1 else f"{len(small)} small classes together"


def _remark(small: Mapping[str, Recall], least: int) -> str:
    if not small:
        return ""
    named = ", ".join(f"{_quoted(name)} {one.rows}" for name, one in list(small.items())[:_LISTED])
    more = ", ..." if len(small) > _LISTED else ""
    are = "is too small" if len(small) == 1 else "are too small, and tested together"
    return f" {len(small)} of fewer than {least} test rows ({named}{more}) {are} to tell by themselves."


def _listed(broken: Mapping[str, Recall], alpha: float, bound: float) -> str:
    falls = {name: one.fall(alpha) for name, one in broken.items()}
    decimals = POINTS.decimals_apart(*((low, bound) for _, low in falls.values()))
    return "; ".join(
        f"{_quoted(name)}: recall from {percent(one.baseline / one.rows)} to {percent(one.candidate / one.rows)},"
        f" at least {points(falls[name][1], decimals)} points less allowing for chance, on {one.rows} rows"
        for name, one in sorted(broken.items(), key=lambda item: -falls[item[0]][1])
    )


def _quoted(name: str) -> str:
    return name if name.endswith(" small classes together") else f"`{name}`"


def _result(worst: tuple[float, float | None], bound: float, sentence: str, change: str, *, passed: bool) -> GateResult:
    value, low = worst
    return GateResult("recall", value, low, bound, None, passed, sentence, f"recall: {change}")
