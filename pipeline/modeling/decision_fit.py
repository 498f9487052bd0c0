"""Chooses how a classifier decides: temperature, thresholds and costs, on validation rows and never on test rows.

Truth is a (rows,) array of label indices, or a (rows, labels) matrix of 0 and 1 where a row may have several labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from pipeline.modeling.decision import Costs, Decision, Floats, Ints, cost_matrix, probabilities, scaled

FEW = 10  # rows of a class on validation below which a threshold of it is little more than chance
_COLDEST, _HOTTEST = 0.05, 20.0
_TIE = 1e-12  # values of cuts that differ by less differ by rounding alone


@dataclass(frozen=True)
class Rule:
    """How to choose a decision: `tasks.classify` in params.yaml."""

    by: Literal["f1", "cost", "argmax"]
    positive: str | None = None  # the label of interest, of two
    costs: Costs = field(default_factory=dict)


def choose_decision(
    logits: npt.NDArray[Any], truth: npt.NDArray[Any], labels: Sequence[str], rule: Rule
) -> tuple[Decision, list[str]]:
    """Return temperature and thresholds for validation rows, and sentences about what could not be chosen well."""
    temperature = fit_temperature(logits, truth)
    shares = probabilities(logits, temperature, multi_label=truth.ndim == 2)
    return choose_thresholds(shares, truth, Decision(tuple(labels), temperature), rule)


def row_losses(logits: npt.NDArray[Any], truth: npt.NDArray[Any], temperature: float) -> Floats:
    """Return the log loss of each row in nats: (rows,).

    Of a row that may have several labels it is the mean over the labels of the binary log loss, as
    `torch.nn.BCEWithLogitsLoss` has it. Computed from logits, so that no probability is clipped.
    """
    values = scaled(logits, temperature)
    if truth.ndim == 2:
        return cast(Floats, np.logaddexp(0.0, np.where(truth == 1, -values, values)).mean(axis=1))
    return cast(Floats, -log_softmax(values, axis=1)[np.arange(len(truth)), truth])


def fit_temperature(logits: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Return the temperature, from 0.05 to 20, that minimises the log loss of validation rows.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2; with a Gamma prior on the inverse
    temperature a, which adds a - 1 - ln a to the sum of the losses: as much as about one row says that 1 is right. It
    keeps the minimum inside where all rows are decided right, or there are only a few. The sum is convex in a (Guo et
    al. 2017, supplement S2; the prior is), so there is one minimum. Rounded to four digits.

    Args:
        logits: (rows, labels); without rows the temperature is 1.
        truth: (rows,) indices or (rows, labels) of 0 and 1.

    Raises:
        ValueError: Logits are not finite, or truth is not of their shape.
    """
    _check(logits, truth)
    if len(logits) == 0:
        return 1.0

    def objective(inverse: float) -> float:
        return float(row_losses(logits, truth, 1 / inverse).sum()) + inverse - 1 - math.log(inverse)

    result = minimize_scalar(
        objective, bounds=(1 / _HOTTEST, 1 / _COLDEST), method="bounded", options={"xatol": 1e-6, "maxiter": 200}
    )
    return float(f"{1 / float(result.x):.4g}")


def choose_thresholds(
    shares: Floats, truth: npt.NDArray[Any], decision: Decision, rule: Rule
) -> tuple[Decision, list[str]]:
    """Return `decision` with thresholds by `rule`, and sentences about what could not be chosen well.

    - One label a row and `rule.positive`: one threshold, which maximises F1 or minimises the cost of these rows.
      Without rows of one of the two classes: none by F1; by cost that of Elkan 2001, see `elkan_threshold`.
    - One label a row, by cost, no positive: no threshold; the label of the least expected cost (`Decision.costs`).
    - One label a row, by F1, no positive: no threshold; the likeliest label.
    - Several labels a row: a threshold each, by F1 or 0.5; 0.5 too for a label that no row has, or all have.

    Args:
        shares: Probabilities, (rows, labels).
        truth: (rows,) indices or (rows, labels) of 0 and 1.
        decision: Its labels and temperature are kept.
        rule: What to choose by.

    Raises:
        ValueError: The costs do not fit the labels, or are asked for where a row may have several labels.
    """
    _check(shares, truth)
    if truth.ndim == 2:
        return _thresholds_of_each(shares, truth, decision, rule)
    matrix = cost_matrix(rule.costs, decision.labels)
    unset = Decision(decision.labels, decision.temperature)
    if rule.by == "argmax" or (rule.by == "f1" and rule.positive is None):
        return unset, []
    if rule.positive is None:
        return replace(unset, by="cost", costs=rule.costs), []
    column = decision.labels.index(rule.positive)
    if rule.by == "f1":
        threshold, notes = _threshold_by_f1(shares[:, column], truth == column)
    elif len(decision.labels) == 2:
        order = [1 - column, column]
        threshold, notes = _threshold_by_cost(shares[:, column], truth == column, matrix[np.ix_(order, order)])
    else:
        raise ValueError(f"a threshold by cost needs two labels; found {len(decision.labels)}")
    notes = [note.format(label=repr(rule.positive)) for note in notes]
    if threshold is None:
        return unset, notes
    return replace(unset, thresholds={rule.positive: threshold}, by=rule.by), notes


def elkan_threshold(matrix: Floats) -> float:
    """Return the probability of the positive from which deciding for it is cheaper.

    Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001, equation 2; it holds for calibrated probabilities.

    Args:
        matrix: (2, 2), rows are the truth, columns the decision; the positive is the second of each.
    """
    false_alarm = matrix[0, 1] - matrix[0, 0]
    missed = matrix[1, 0] - matrix[1, 1]
    return float(false_alarm / (false_alarm + missed)) if false_alarm + missed > 0 else 0.5


def _thresholds_of_each(
    shares: Floats, truth: npt.NDArray[Any], decision: Decision, rule: Rule
) -> tuple[Decision, list[str]]:
    """Return the decision for rows that may have several labels."""
    if rule.by == "cost":
        raise ValueError(
            "costs are of one label for another; expected `decide: f1` where a row may have several labels"
        )
    thresholds, notes = dict.fromkeys(decision.labels, 0.5), []
    for column, label in enumerate(decision.labels if rule.by == "f1" else ()):
        threshold, of_label = _threshold_by_f1(shares[:, column], truth[:, column] == 1)
        thresholds[label] = 0.5 if threshold is None else threshold
        notes += [note.format(label=repr(label)) for note in of_label]
    return Decision(decision.labels, decision.temperature, thresholds, rule.by, multi_label=True), notes


def _threshold_by_f1(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> tuple[float | None, list[str]]:
    """Return the threshold that maximises F1 = 2 TP / (2 TP + FP + FN), if there are rows of both classes, and notes.

    Of equally good ones the nearest to F1 / 2, the best threshold of calibrated probabilities (Lipton, Elkan and
    Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", ECML 2014, theorem 1).
    """
    notes, positives = _counted(is_positive), int(is_positive.sum())
    if positives in (0, len(is_positive)):
        return None, notes
    thresholds, found, alarms = _cuts(scores, is_positive)
    f1 = 2 * found / (found + alarms + positives)
    return _nearest_best(thresholds, -f1, float(f1.max()) / 2), notes


def _threshold_by_cost(scores: Floats, is_positive: npt.NDArray[np.bool_], matrix: Floats) -> tuple[float, list[str]]:
    """Return the threshold of the least cost, and notes; that of Elkan where there are few rows of a class.

    Of equally good ones the nearest to Elkan's.
    """
    notes, positives = _counted(is_positive), int(is_positive.sum())
    expected = elkan_threshold(matrix)
    if min(positives, len(is_positive) - positives) < FEW:
        return expected, notes
    thresholds, found, alarms = _cuts(scores, is_positive)
    missed, quiet = positives - found, len(is_positive) - positives - alarms
    cost = found * matrix[1, 1] + missed * matrix[1, 0] + alarms * matrix[0, 1] + quiet * matrix[0, 0]
    return _nearest_best(thresholds, cost, expected), notes


def _counted(is_positive: npt.NDArray[np.bool_]) -> list[str]:
    """Return a sentence where a threshold rests on few rows, with {label} to fill in."""
    positives, rows = int(is_positive.sum()), len(is_positive)
    if positives in (0, rows):
        return [f"{positives} of {rows} validation rows have the label {{label}}: no threshold can be chosen on them"]
    if min(positives, rows - positives) < FEW:
        few = f"{positives} of {rows} validation rows have the label {{label}}"
        return [f"{few}: a threshold chosen on fewer than {FEW} rows of either class is little more than chance"]
    return []


def _cuts(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> tuple[Floats, Ints, Ints]:
    """Return every threshold that decides differently, with the positives and the others that reach it.

    A threshold is the middle between two neighbouring scores, so that it does not hang on the last digits of either;
    the outer ones are the middle between a score and 0 or 1.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], is_positive[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each run of equal scores
    found = np.append(0, np.cumsum(hits)[last])
    upper = np.append(1.0, ordered[last])
    lower = np.append(ordered[last], 0.0)
    middle = np.maximum((upper + lower) / 2, np.nextafter(lower, 2))
    thresholds = np.where(middle > upper, upper, middle)
    alarms = np.append(0, last + 1) - found
    is_cut = upper > lower  # a score of exactly 1 or 0 leaves no room beyond it
    is_cut[-1] = True
    return thresholds[is_cut], found[is_cut], alarms[is_cut]


def _nearest_best(thresholds: Floats, values: npt.NDArray[Any], target: float) -> float:
    """Return the threshold of the least value; of equals the one nearest to `target`."""
    best = thresholds[values <= values.min() + _TIE * max(1.0, abs(float(values.min())))]
    return float(best[np.abs(best - target).argmin()])


def _check(values: npt.NDArray[Any], truth: npt.NDArray[Any]) -> None:
    """Raise ValueError unless `truth` is of as many rows, and of as many labels at most, as `values`."""
    fits = truth.shape == values.shape if truth.ndim == 2 else truth.shape == values.shape[:1]
    highest = 1 if truth.ndim == 2 else values.shape[1] - 1
    if not fits or (truth.size and (truth.min() < 0 or truth.max() > highest)):
        raise ValueError(
            f"truth of shape {truth.shape} does not fit {values.shape[0]} rows and {values.shape[1]} labels"
        )
