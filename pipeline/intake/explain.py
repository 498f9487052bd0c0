"""The numbers behind a decision: the value and the bound that refused a row, and the rows that just passed."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import param_rules
from pipeline.intake.rules import duplicate_bounds, row_bounds

_FLAGS = {"empty", "language"}  # their value, 0 or 1, says no more than their name


class Explainer:
    """Describes a rule's value and bound in words."""

    def __init__(self, rules: param_rules.Rules) -> None:
        """Take the bounds from `rules`."""
        self._bounds = row_bounds(rules) | duplicate_bounds(rules)

    def explain(self, reason: str, values: dict[str, float], earlier_row: int) -> str:
        """Return the value and the bound of one reason, "" if it has none.

        Args:
            reason: The rule's name.
            values: The row's value for each rule that has one.
            earlier_row: The row that this one repeats, 0 for none.
        """
        if reason == "duplicate":
            return f"of row {earlier_row}"
        if reason not in values or reason in _FLAGS:
            return ""
        bound = self._bounds[reason]
        value = _format(values[reason])
        if reason == "near_duplicate":
            return f"{value} to row {earlier_row} (below {_format(bound['max_value'])})"
        words, limit = ("at least", bound["min_value"]) if "min_value" in bound else ("at most", bound["max_value"])
        return f"{value} ({words} {_format(limit)})"

    def details(self, reasons: str, values: dict[str, float], earlier_row: int) -> str:
        """Return what `explain` says of each of a row's reasons, which are separated by a space."""
        explained = [(reason, self.explain(reason, values, earlier_row)) for reason in reasons.split()]
        return "; ".join(f"{reason}: {words}" for reason, words in explained if words)


def _format(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


class LowestPassing:
    """The rows with the lowest values that a lower bound still accepts; the same however the corpus is chunked."""

    def __init__(self, bound: float, most: int = 5) -> None:
        """Start empty; values below `bound` are not accepted."""
        self._bound, self._most = bound, most
        self.kept: list[tuple[float, int, str]] = []
        """The value, the row and its text, lowest first."""

    def add(self, values: NDArray[np.float64], rows: NDArray[np.int64], texts: pa.Array) -> None:
        """Take the rows of a chunk."""
        passing = np.flatnonzero(values >= self._bound)
        lowest = passing[np.argsort(values[passing], kind="stable")[: self._most]].tolist()
        self.kept += [(float(values[at]), int(rows[at]), texts[at].as_py()) for at in lowest]
        self.kept = sorted(self.kept, key=lambda entry: entry[:2])[: self._most]
