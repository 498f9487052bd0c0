"""The gates: bounds that a candidate must keep to, however low its perplexity.

A gate is one row of `GATES`: the figure, what it is compared with, the test, and the words for it. A share of generated
texts breaks its bound only beyond chance; the other figures are sums over thousands of tokens, counts or times, and are
compared as they are. What was not measured never passes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline import params
from pipeline.verdict.bound_tests import (
    DIFFERENCE,
    NEVER,
    RATIO,
    SHARE,
    SHARE_ABOVE,
    BoundTest,
    Measurement,
    NotMeasuredError,
    Outcome,
)
from pipeline.verdict.groups import group_gate
from pipeline.verdict.likeness import likeness_gate
from pipeline.verdict.records import Comparison, GateResult, Metrics

Figure = Callable[[Comparison], float | None]


def megabytes(size: float) -> float:
    """Convert from bytes."""
    return size / 1e6


def milliseconds(seconds: float) -> float:
    """Convert from seconds."""
    return seconds * 1e3


def candidate(path: str, convert: Callable[[float], float] = float) -> Figure:
    """Return what reads a figure of the candidate's metrics; `path` is section.key, or a key."""
    return lambda comparison: _read(comparison.candidate.metrics, path, convert)


def baseline(path: str, convert: Callable[[float], float] = float) -> Figure:
    """Return what reads a figure of the champion or, without one, of the base."""
    return lambda comparison: _read(comparison.baseline.metrics, path, convert)


def base(path: str) -> Figure:
    """Return what reads a figure of the base."""
    return lambda comparison: _read(comparison.base_metrics, path)


def real_texts(path: str) -> Figure:
    """Return what reads a figure of real texts."""
    return lambda comparison: _read(comparison.reference_metrics, path)


def _read(metrics: Metrics, path: str, convert: Callable[[float], float] = float) -> float | None:
    section, _, key = path.rpartition(".")
    value = (metrics.get(section, {}) if section else metrics).get(key)
    return None if value is None else convert(value)


class Gate(Protocol):
    """A row of `GATES`."""

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
    if_broken: str = "at most {limit} would have passed."

    def evaluate(self, comparison: Comparison, config: params.Promote) -> GateResult | None:
        """Measure, test, and put the outcome in words."""
        if not self.applies(comparison):
            return None
        bound = 0.0 if self.setting is None else float(getattr(config.gates, self.setting or self.name))
        try:
            measured = self._measure(comparison, bound, config.confidence)
            outcome = self.test.run(measured)
        except NotMeasuredError as error:
            return _not_measured(self.name, bound, str(error))
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
        )

    def _measure(self, comparison: Comparison, bound: float, confidence: float) -> Measurement:
        if self.test.needs_texts and not comparison.generations:
            raise NotMeasuredError("no text was written")
        figure = self.figure(comparison)
        reference = self.reference(comparison) if self.reference else 0.0
        if figure is None or reference is None or not math.isfinite(figure) or not math.isfinite(reference):
            raise NotMeasuredError
        return Measurement(figure, reference, bound, comparison.generations, confidence)

    def _fields(self, comparison: Comparison, measured: Measurement, outcome: Outcome) -> dict[str, str]:
        figure, value = self.test.figure, self.test.value
        fields = {
            "figure": figure(measured.figure),
            "reference": figure(measured.reference),
            "limit": figure(outcome.limit) + self.unit,
            "value": value(outcome.value),
            "low": "" if outcome.low is None else value(outcome.low),
            "bound": value(measured.bound),
            "against": comparison.against,
            "generations": str(comparison.generations),
            "copied_tokens": str(comparison.copied_tokens),
            "rolled_back": comparison.rolled_back or "",
        }
        texts = {name: getattr(self, name).format_map(fields) for name in ("problem", "subject", "finding")}
        return fields | texts


def _not_measured(name: str, bound: float, why: str) -> GateResult:
    sentence = f"Not measured: {name}{f' ({why})' if why else ''}, so it may be out of bounds."
    return GateResult(name, None, None, bound, None, False, sentence, f"{name}: a figure for it.")


@dataclass(frozen=True)
class GroupGate:
    """The bound on how much perplexity may rise in any group of rows."""

    def evaluate(self, comparison: Comparison, config: params.Promote) -> GateResult | None:
        """Return the result; None where the corpus has no groups."""
        return group_gate(comparison, config)


@dataclass(frozen=True)
class LikenessGate:
    """The bound on how far texts may be from real ones."""

    def evaluate(self, comparison: Comparison, config: params.Promote) -> GateResult:
        """Return the result."""
        return likeness_gate(comparison, config)


GATES: tuple[Gate, ...] = (
    LikenessGate(),
    FigureGate(
        "copied",
        candidate("memorisation.copied"),
        SHARE_ABOVE,
        reference=real_texts("memorisation.copied"),
        problem="It copies",
        subject="Copying",
        finding="{figure} of its {generations} texts contain {copied_tokens} tokens or more of one training row, letter"
        " for letter; {reference} of real unseen texts do",
    ),
    FigureGate(
        "extracted",
        candidate("memorisation.extracted"),
        SHARE,
        applies=lambda comparison: comparison.canaries > 0,
        problem="It gives away planted secrets",
        subject="It keeps planted secrets",
        finding="{figure} of the canaries can be extracted from it word for word",
    ),
    FigureGate(
        "membership",
        candidate("memorisation.membership"),
        DIFFERENCE,
        reference=base("memorisation.membership"),
        problem="It has memorised training rows",
        subject="Memorising",
        finding="training rows are {figure} nats per token likelier to it than test rows, to the base {reference}",
    ),
    FigureGate(
        "repetition",
        candidate("text.repetition"),
        SHARE_ABOVE,
        reference=real_texts("text.repetition"),
        problem="It repeats itself",
        subject="Repetition",
        finding="{figure} of the 4-grams in its {generations} texts occurred before in the same text; {reference} of"
        " those in real texts do",
    ),
    FigureGate(
        "loops",
        candidate("text.loops"),
        SHARE_ABOVE,
        reference=real_texts("text.loops"),
        problem="It loops",
        subject="Looping",
        finding="{figure} of its {generations} texts end in a loop; {reference} of real texts do",
    ),
    FigureGate(
        "forgetting",
        candidate("general.bits_per_byte"),
        DIFFERENCE,
        reference=base("general.bits_per_byte"),
        problem="It has forgotten general English",
        subject="Forgetting",
        finding="a byte of it takes {figure} bits, with the base {reference}",
    ),
    GroupGate(),
    FigureGate(
        "size",
        candidate("bytes", megabytes),
        RATIO,
        reference=baseline("bytes", megabytes),
        problem="It is too big",
        subject="Size",
        finding="its weights take {figure} MB of memory",
        unit=" MB",
    ),
    FigureGate(
        "latency",
        candidate("seconds_a_token", milliseconds),
        RATIO,
        reference=baseline("seconds_a_token", milliseconds),
        problem="It is too slow",
        subject="Latency",
        finding="it takes {figure} ms per token",
        unit=" ms",
    ),
    FigureGate(
        "rolled_back",
        lambda comparison: float(comparison.rolled_back is not None),
        NEVER,
        setting=None,
        problem="This version was champion and was rolled back: {rolled_back}",
        subject="This version was not rolled back.",
        if_kept="a rollback of this version.",
        if_broken="another candidate; or --force with the reason why it may come back.",
    ),
)


def evaluate_gates(comparison: Comparison, config: params.Promote) -> list[GateResult]:
    """Return the result of each gate that applies."""
    results = (gate.evaluate(comparison, config) for gate in GATES)
    return [result for result in results if result is not None]
