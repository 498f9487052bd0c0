"""The numbers behind a decision: which value against which bound refused a row, or let it in."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import params
from pipeline.intake.rules import duplicate_bounds, row_bounds

_YES_OR_NO = {"empty", "language"}  # their value, 0 or 1, says no more than their name


class Explainer:
    """Puts a rule's value beside its bound, in words."""

    def __init__(self, rules: params.Rules) -> None:
        """Take the bounds from `rules`."""
        self._bounds = row_bounds(rules) | duplicate_bounds(rules)

    def explain(self, reason: str, values: dict[str, float], earlier_row: int) -> str:
        """Return the value and the bound of one reason, "" where it has none.

        Args:
            reason: The rule's name.
            values: The row's value for each rule that has one.
            earlier_row: The row that this one repeats, 0 for none.
        """
        if reason == "duplicate":
            return f"of row {earlier_row}"
        if reason not in values or reason in _YES_OR_NO:
            return ""
        bound = self._bounds[reason]
        if reason == "near_duplicate":
            return f"{_shown(values[reason])} to row {earlier_row} (below {_shown(bound['max_value'])})"
        words, limit = ("at least", bound["min_value"]) if "min_value" in bound else ("at most", bound["max_value"])
        return f"{_shown(values[reason])} ({words} {_shown(limit)})"

    def details(self, reasons: str, values: dict[str, float], earlier_row: int) -> str:
        """Return what `explain` says of each of a row's reasons, which are separated by a space."""
        explained = [(reason, self.explain(reason, values, earlier_row)) for reason in reasons.split()]
        return "; ".join(f"{reason}: {words}" for reason, words in explained if words)


def _shown(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


class LowestPassing:
    """The rows with the lowest values among those that a bound let in; the same whatever the chunks are."""

    def __init__(self, bound: float, most: int = 5) -> None:
        """Start empty; values below `bound` are not let in."""
        self._bound, self._most = bound, most
        self.kept: list[tuple[float, int, str]] = []
        """The value, the row and its text, lowest first."""

    def add(self, values: NDArray[np.float64], rows: NDArray[np.int64], texts: pa.Array) -> None:
        """Take in a chunk's rows."""
        let_in = np.flatnonzero(values >= self._bound)
        lowest = let_in[np.argsort(values[let_in], kind="stable")[: self._most]].tolist()
        self.kept += [(float(values[at]), int(rows[at]), texts[at].as_py()) for at in lowest]
        self.kept = sorted(self.kept, key=lambda entry: entry[:2])[: self._most]
