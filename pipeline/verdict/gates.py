"""The gates: bounds that a candidate must keep to, however low its perplexity.

A gate is one row of `GATES`: the figure, what it is compared with, the test, and the words for it. A figure that varies
by chance breaks its bound only if its whole interval lies above; counts and sizes are exact. What was not measured
never passes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline import params
from pipeline.verdict.bound_tests import (
    NEVER,
    RATIO,
    SHARE,
    SHARE_ABOVE,
    BoundTest,
    Measurement,
    Outcome,
)
from pipeline.verdict.forgetting import forgetting_cap_gate, forgetting_gate
from pipeline.verdict.groups import group_gate
from pipeline.verdict.latency import latency_gate
from pipeline.verdict.likeness import likeness_gate
from pipeline.verdict.membership import membership_gate
from pipeline.verdict.records import Comparison, GateResult, Metrics, NotMeasuredError, not_measured

Figure = Callable[[Comparison], float | None]

_REPEATS = (
    "Remove rows that repeat themselves, raise evaluate.temperature (and service.temperature) if it is below 1, or"
    " lower finetune.epochs."
)


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


GATES: tuple[Gate, ...] = (
    FunctionGate(likeness_gate),
    FigureGate(
        "copied",
        candidate("memorisation.copied"),
        SHARE_ABOVE,
        reference=real_texts("copied"),
        problem="It copies",
        subject="Copying",
        finding="{figure} of its {generations} texts contain {copied_tokens} tokens or more of one training row,"
        " besides boilerplate; {reference} of real unseen texts of the same lengths do",
        lever="Lower finetune.epochs or finetune.learning_rate, add rows, or let validate.rules.near_duplicate refuse"
        " near copies.",
    ),
    FigureGate(
        "extracted",
        candidate("memorisation.extracted"),
        SHARE,
        applies=lambda comparison: comparison.canaries > 0,
        problem="It gives away planted secrets",
        subject="It keeps planted secrets",
        finding="{figure} of the canaries can be extracted from it word for word",
        lever="Lower finetune.epochs or finetune.learning_rate, add rows, or set finetune.lora_rank; a row that occurs"
        " once is recited less than one that occurs tokenize.canary_repeats times.",
    ),
    FunctionGate(membership_gate),
    FigureGate(
        "repetition",
        candidate("text.repetition"),
        SHARE_ABOVE,
        reference=real_texts("repetition"),
        problem="It repeats itself",
        subject="Repetition",
        finding="{figure} of the 4-grams in its {generations} texts occurred before in the same text; {reference} of"
        " those in real texts of the same lengths do",
        lever=_REPEATS,
    ),
    FigureGate(
        "loops",
        candidate("text.loops"),
        SHARE_ABOVE,
        reference=real_texts("loops"),
        problem="It loops",
        subject="Looping",
        finding="{figure} of its {generations} texts end in a loop; {reference} of real texts of the same lengths do",
        lever=_REPEATS,
    ),
    FunctionGate(forgetting_gate),
    FunctionGate(forgetting_cap_gate),
    FunctionGate(group_gate),
    FigureGate(
        "size",
        candidate("bytes", megabytes),
        RATIO,
        reference=baseline("bytes", megabytes),
        problem="It is too big",
        subject="Size",
        finding="its weights take {figure} MB of memory",
        unit=" MB",
        lever="Start from a smaller base, or raise the bound if the servers have the memory.",
    ),
    FunctionGate(latency_gate),
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
