"""What a verdict is made from, and what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.evaluation.scores import Scores
from pipeline.verdict.challenges import Challenge

Against = Literal["champion", "base"]
Metrics = Mapping[str, Any]  # of one model, as in reports/evaluate/metrics.json


@dataclass(frozen=True)
class ModelFigures:
    """One model's metrics, with `bytes` (of its weights) and `seconds_a_token`, and its scores of the test rows."""

    metrics: Metrics
    scores: Scores


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the baseline, which is the champion or, without one, the base: all that a verdict rests on."""

    candidate: ModelFigures
    baseline: ModelFigures
    against: Against
    base_metrics: Metrics
    reference_metrics: Metrics  # of real texts
    groups: Sequence[str]  # of each test row; empty where the corpus has none
    generations: int  # texts that each model wrote
    copied_tokens: int  # length of a run that counts as copied
    seed: int  # of the bootstrap
    canaries: int = 0  # planted in the training texts
    rolled_back: str | None = None  # why this version was rolled back; None: it was not
    old_rows: int | None = None  # the first ones, on which the champion was chosen; None: unknown, or nobody chose


@dataclass(frozen=True)
class GateResult:
    """The result of a gate."""

    name: str
    value: float | None  # held against the bound; None: not measured
    low: float | None  # the lower end of `value`'s interval; None: chance plays no part
    bound: float
    reference: float | None  # the same figure of real texts, of the base, or of the baseline
    passed: bool
    sentence: str
    counterfactual: str  # which figure would have changed the result


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate becomes champion, and why."""

    promoted: bool
    forced: str | None  # the reason for promoting it all the same; `reasons` then speak against it
    reasons: list[str]
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
