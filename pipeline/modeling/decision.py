"""From a classifier's logits to its labels, by the temperature, the thresholds and the costs that `task.json` holds.

Needs numpy alone, since the service decides by it; `decision_fit` chooses what is decided by.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Costs = Mapping[str, Mapping[str, float]]  # of deciding (inner key) for a row whose label is (outer key)


@dataclass(frozen=True)
class Decision:
    """How logits become labels: what `task.json` holds, with the labels of config.json in order."""

    labels: tuple[str, ...]
    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    by: str = "argmax"
    multi_label: bool = False
    costs: Costs = field(default_factory=dict)  # only where the decision is that of the least expected cost

    @classmethod
    def from_task(cls, task: Mapping[str, Any], labels: Sequence[str]) -> "Decision":
        """Return the decision that the content of a `task.json` describes."""
        keys = ("temperature", "thresholds", "by", "multi_label", "costs")
        return cls(tuple(labels), **{key: task[key] for key in keys if key in task})

    def as_json(self) -> dict[str, Any]:
        """Return the keys of `task.json`; `costs` only where they decide."""
        content: dict[str, Any] = {
            "temperature": self.temperature,
            "thresholds": dict(self.thresholds),
            "by": self.by,
            "multi_label": self.multi_label,
        }
        if self.costs:
            content["costs"] = {truth: dict(row) for truth, row in self.costs.items()}
        return content


def probabilities(logits: npt.NDArray[Any], temperature: float, *, multi_label: bool) -> Floats:
    """Return softmax(logits / temperature), or the sigmoid of each where a row may have several labels.

    Raises ValueError for logits that are not finite.
    """
    values = scaled(logits, temperature)
    if multi_label:
        return cast(Floats, np.exp(-np.logaddexp(0.0, -values)))  # the sigmoid, without overflow
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return cast(Floats, exponentials / exponentials.sum(axis=1, keepdims=True))


def decide(shares: Floats, decision: Decision) -> Ints:
    """Return the decisions for probabilities: (rows,) indices, or (rows, labels) of 0 and 1 for several labels.

    One label a row: the label that has a threshold where its probability reaches it, else the likeliest of the others.
    Without a threshold the likeliest, or with `costs` the label of the least expected cost (Elkan 2001, equation 1);
    the first of equals. Several labels a row: each label whose probability reaches its threshold.
    """
    if decision.multi_label:
        limits = np.array([decision.thresholds[label] for label in decision.labels])
        return (shares >= limits).astype(np.int64)
    if decision.costs:
        return cast(Ints, (shares @ cost_matrix(decision.costs, decision.labels)).argmin(axis=1))
    decided: Ints = shares.argmax(axis=1)
    for label, threshold in decision.thresholds.items():
        column = decision.labels.index(label)
        others = shares.copy()
        others[:, column] = -1
        decided = np.where(shares[:, column] >= threshold, column, others.argmax(axis=1))
    return decided


def cost_matrix(costs: Costs, labels: Sequence[str]) -> Floats:
    """Return `costs` as a matrix, rows are the truth: (labels, labels).

    What is not named costs 0 where the decision is right, and 1 where it is wrong; so without any costs the mean cost
    is the share of wrong decisions.

    Raises:
        ValueError: A label is unknown, a cost is not finite, or a wrong decision is cheaper than the right one.
    """
    matrix: Floats = 1.0 - np.eye(len(labels))
    column = {label: number for number, label in enumerate(labels)}
    for truth, row in costs.items():
        for decided, cost in row.items():
            unknown = [label for label in (truth, decided) if label not in column]
            if unknown:
                raise ValueError(f"costs: {unknown[0]!r} is no label of the corpus; expected one of {shown(labels)}")
            if not math.isfinite(cost):
                raise ValueError(f"costs.{truth}.{decided} is {cost}; expected a finite number")
            matrix[column[truth], column[decided]] = cost
    cheap = np.argwhere(matrix < np.diag(matrix)[:, None])
    if len(cheap):
        truth, decided = (labels[number] for number in cheap[0])
        wrong, right = matrix[tuple(cheap[0])], matrix[cheap[0][0], cheap[0][0]]
        raise ValueError(
            f"costs.{truth}.{decided} is {wrong:g}, less than costs.{truth}.{truth}, {right:g}: expected a wrong "
            "decision to cost at least as much as the right one"
        )
    return matrix


def shown(labels: Sequence[str], most: int = 5) -> str:
    """Return the first labels for a sentence, and how many more there are."""
    rest = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(map(repr, labels[:most])) + rest


def scaled(logits: npt.NDArray[Any], temperature: float) -> Floats:
    """Return logits / temperature in float64; raises ValueError for logits that are not finite."""
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits).all(axis=1)).sum())
        raise ValueError(f"{bad} of {len(logits)} rows have logits that are not finite")
    return np.asarray(logits, np.float64) / temperature
