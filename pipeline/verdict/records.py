"""What a verdict is made from, and what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.quantity import PERPLEXITY, Quantity
from pipeline.evaluation.scores import Probes, Scores
from pipeline.verdict.challenges import Challenge

Against = Literal["champion", "base"]
Metrics = Mapping[str, Any]  # of one model, as in reports/evaluate/metrics.json


class NotMeasuredError(Exception):
    """A figure that a gate needs is missing; the message says why, or is empty."""


@dataclass(frozen=True)
class ModelFigures:
    """One model's metrics, with `bytes` (of its weights) and `seconds_a_token` or `seconds_a_row`, and sources."""

    metrics: Metrics
    scores: Scores  # of the test rows
    probes: Probes | None = None  # scores of other texts; None: not measured
    turns: Sequence[float] = ()  # seconds per token or row of each round, by turns with the other model
    row_figures: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)  # (test rows,); NaN: has none

    def measured_probes(self) -> Probes:
        """Return the probes; raises NotMeasuredError without."""
        if self.probes is None:
            raise NotMeasuredError
        return self.probes

    def measured_rows(self, name: str) -> npt.NDArray[np.float64]:
        """Return a figure of each test row, (test rows,); raises NotMeasuredError without."""
        if name not in self.row_figures:
            raise NotMeasuredError
        return np.asarray(self.row_figures[name], dtype=np.float64)


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the baseline, which is the champion or, without one, the base: all that a verdict rests on."""

    candidate: ModelFigures
    baseline: ModelFigures
    against: Against
    base: ModelFigures
    reference_metrics: Metrics  # of the real texts that prompts come from
    groups: Sequence[str]  # of each test row; empty where the corpus has none
    generations: int  # texts that each model wrote
    copied_tokens: int  # length of a run that counts as copied
    seed: int  # of the bootstrap
    canaries: int = 0  # planted in the training texts
    rolled_back: str | None = None  # why this version was rolled back; None: it was not
    old_rows: int | None = None  # the first ones, on which the champion was chosen; None: unknown, or nobody chose
    warnings: Sequence[str] = ()  # what a person should know besides the warnings of gates
    quantity: Quantity = PERPLEXITY
    clusters: Sequence[str] | None = None  # of each test row, where rows of one (a query's) depend on each other
    classes: Sequence[str] | None = None  # of each test row, where rows have labels: chance is taken within each
    test_share: float | None = None  # of the corpus's rows that are test rows, for how large a corpus would do


@dataclass(frozen=True)
class GateResult:
    """The result of a gate; a gate that a person should read about although it passed is a warning."""

    name: str
    value: float | None  # held against the bound; None: not measured
    low: float | None  # the lower end of `value`'s interval; None: chance plays no part
    bound: float
    reference: float | None  # the same figure of real texts, of the base, or of the baseline
    passed: bool
    sentence: str
    counterfactual: str  # which figure would have changed the result
    high: float | None = None  # the upper end of `value`'s interval, where it is known
    is_warning: bool = False  # it passed, but a person should read the sentence


def not_measured(name: str, bound: float, why: str = "") -> GateResult:
    """Return the result of a gate whose figure is missing: it never passes."""
    sentence = f"Not measured: {name}{f' ({why})' if why else ''}, so it may be out of bounds."
    counterfactual = f"{name}: a figure for it; run `dvc repro` if the files of `evaluate` are of an older release."
    return GateResult(name, None, None, bound, None, False, sentence, counterfactual)


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate becomes champion, and why."""

    promoted: bool
    forced: str | None  # the reason for promoting it all the same; `reasons` then speak against it
    reasons: list[str]
    warnings: list[str]  # what speaks neither for nor against it, but a person should know
    candidate: dict[str, Any]
    champion: dict[str, Any] | None  # None: there is none yet
    against: Against
    difference: dict[str, float | int | None] | None  # a Gain, its confidence, and what decides; None: nothing compared
    comparison: str  # the difference in words, whatever the verdict
    gates: list[GateResult]
    counterfactuals: list[str]
    rows: int
    at: str
    challenge: Challenge | None = None  # None: there was no champion, or nothing was compared
