"""What a gate is: a bound on a figure that a candidate must keep to, with the words for it.

A figure that varies by chance breaks its bound only if its whole interval lies above; counts and sizes are exact. What
was not measured never passes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline import params
from pipeline.evaluation.quantity import Quantity
from pipeline.verdict.bound_tests import BoundTest, Measurement, Outcome
from pipeline.verdict.records import Comparison, GateResult, Metrics, NotMeasuredError, not_measured

Figure = Callable[[Comparison], float | None]


def megabytes(size: float) -> float:
    """Convert from bytes."""
    return size / 1e6


def candidate(path: str, convert: Callable[[float], float] = float) -> Figure:
    """Return what reads a figure of the candidate's metrics; `path` is section.key, or a key."""
    return lambda comparison: _read(comparison.candidate.metrics, path, convert)


def baseline(path: str, convert: Callable[[float], float] = float) -> Figure:
    """Return what reads a figure of the champion or, without one, of the base."""
    return lambda comparison: _read(comparison.baseline.metrics, path, convert)


def real_texts(path: str) -> Figure:
    """Return what reads a figure of real unseen texts, of the lengths of those that the candidate wrote."""
    return lambda comparison: _read(comparison.candidate.metrics, f"real.{path}")


def _read(metrics: Metrics, path: str, convert: Callable[[float], float] = float) -> float | None:
    section, _, key = path.rpartition(".")
    value = (metrics.get(section, {}) if section else metrics).get(key)
    return None if value is None else convert(value)


class Gate(Protocol):
    """A row of a task's table."""

    def evaluate(self, comparison: Comparison, config: params.Promote) -> GateResult | None:
        """Return the result; None where the gate does not apply."""


@dataclass(frozen=True)
class FigureGate:
    """A bound on one figure. The texts may use the fields that `_fields` returns."""

    name: str
    figure: Figure
    test: BoundTest
    problem: str
    subject: str
    reference: Figure | None = None
    finding: str = ""
    unit: str = ""  # of the limit
    setting: str | None = ""  # the bound's key under promote.gates; "": the name; None: the bound is 0
    applies: Callable[[Comparison], bool] = lambda _: True
    if_kept: str = "more than {limit} would not have passed."
    if_broken: str = "at most {limit} would have passed. {lever}"
    lever: str = ""  # what to change in data or training

    def evaluate(self, comparison: Comparison, config: params.Promote) -> GateResult | None:
        """Measure, test, and put the outcome in words."""
        if not self.applies(comparison):
            return None
        bound = 0.0 if self.setting is None else float(getattr(config.gates, self.setting or self.name))
        try:
            measured = self._measure(comparison, bound, config.confidence)
            outcome = self.test.run(measured)
        except NotMeasuredError as error:
            return not_measured(self.name, bound, str(error))
        passed = (outcome.value if outcome.low is None else outcome.low) <= bound
        fields = self._fields(comparison, measured, outcome)
        sentence, counterfactual = (self.test.kept, self.if_kept) if passed else (self.test.broken, self.if_broken)
        return GateResult(
            name=self.name,
            value=outcome.value,
            low=outcome.low,
            bound=bound,
            reference=outcome.reference,
            passed=passed,
            sentence=sentence.format_map(fields),
            counterfactual=f"{self.name}: {counterfactual.format_map(fields)}",
            high=outcome.high,
        )

    def _measure(self, comparison: Comparison, bound: float, confidence: float) -> Measurement:
        if self.test.needs_texts and not comparison.generations:
            raise NotMeasuredError("no text was written")
        figure = self.figure(comparison)
        reference = self.reference(comparison) if self.reference else 0.0
        if figure is None or reference is None or not math.isfinite(figure) or not math.isfinite(reference):
            raise NotMeasuredError
        counts = comparison.generations, int(comparison.candidate.metrics.get("real", {}).get("texts", 0))
        if self.test.needs_texts and not counts[1]:
            raise NotMeasuredError("there is no real text to compare with")
        return Measurement(figure, reference, bound, counts, confidence)

    def _fields(self, comparison: Comparison, measured: Measurement, outcome: Outcome) -> dict[str, str]:
        figure, value = self.test.figure, self.test.value
        # The sentence compares these pairs, so they must not read alike where they differ.
        figure_decimals = figure.decimals_apart((measured.figure, outcome.limit))
        value_decimals = value.decimals_apart((outcome.value, measured.bound), (outcome.low, measured.bound))
        fields = {
            "figure": figure.read(measured.figure, figure_decimals),
            "reference": figure.read(measured.reference, figure_decimals),
            "limit": figure.read(outcome.limit, figure_decimals) + self.unit,
            "value": value.read(outcome.value, value_decimals),
            "low": "" if outcome.low is None else value.read(outcome.low, value_decimals),
            "bound": value.read(measured.bound, value_decimals),
            "against": comparison.against,
            "generations": str(comparison.generations),
            "copied_tokens": str(comparison.copied_tokens),
            "rolled_back": comparison.rolled_back or "",
            "setting": f"promote.gates.{self.setting or self.name}",
            "lever": self.lever,
        }
        texts = {name: getattr(self, name).format_map(fields) for name in ("problem", "subject", "finding")}
        return fields | texts


@dataclass(frozen=True)
class FunctionGate:
    """A gate whose test has a module of its own."""

    check: Callable[[Comparison, params.Promote], GateResult | None]

    def evaluate(self, comparison: Comparison, config: params.Promote) -> GateResult | None:
        """Return the result of the test; None where it does not apply."""
        return self.check(comparison, config)


@dataclass(frozen=True)
class GateTable:
    """What the verdict on models of a task compares, and the bounds it holds them to."""

    quantity: Quantity
    gates: tuple[Gate, ...]
