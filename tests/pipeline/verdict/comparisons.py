"""Comparisons to judge: scores and figures made up, no model."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from bench.simulated_scores import NOISE, TALES
from pipeline import params
from pipeline.evaluation.scores import Scores
from pipeline.verdict.judge import judge
from pipeline.verdict.records import Comparison, GateResult, ModelFigures, Verdict

CONFIG = params.Promote(
    resamples=10_000,
    confidence=0.95,
    false_promotions=0.05,
    min_gain=0.0,
    gates=params.Gates(
        likeness=0.5,
        likeness_rise=0.2,
        copied=0.1,
        extracted=0.0,
        membership=0.5,
        repetition=0.2,
        loops=0.05,
        forgetting=1.5,
        group_loss=0.05,
        size=1.5,
        latency=1.5,
    ),
)
QUICK = CONFIG.model_copy(update={"resamples": 300})
GAIN_OF_2_PERCENT = -math.log1p(-0.02)  # nats per token


def scores(
    rows: int, gain: float, random: np.random.Generator, tokens: tuple[float, float] = TALES, noise: float = NOISE
) -> tuple[Scores, Scores]:
    """Return scores of random rows by a candidate that truly gains `gain` nats per token, and by its baseline."""
    median, spread = tokens
    length = random.lognormal(math.log(median), spread, rows).round().clip(4).astype(np.int64)
    loss = random.normal(3.6, 0.3, rows)
    candidate = loss - gain + noise * random.standard_t(10, rows) * math.sqrt(0.8) / np.sqrt(length)
    return Scores(candidate * length, length, 4 * length), Scores(loss * length, length, 4 * length)


def noisy_scores(rows: int = 178) -> tuple[Scores, Scores]:
    """Return scores of a candidate that is a little better, which may be chance."""
    return scores(rows, 0.004, np.random.default_rng(5), noise=0.9)


def metrics(**changes: Any) -> dict[str, Any]:
    """Return a model's metrics, like real texts' except for `changes`: `section__key=value`."""
    result: dict[str, Any] = {
        "version": "0123456789ab",
        "perplexity": 36.6,
        "bits_per_byte": 1.3,
        "general": {"bits_per_byte": 2.0},
        "text": {"repetition": 0.02, "loops": 0.0},
        "likeness": {
            "bits": {"figure": 2.2, "distance": 0.1, "low": 0.0, "high": 0.2, "nonsense": 4.0},
            "words": {"figure": 0.07, "distance": 0.05, "low": -0.03, "high": 0.13, "nonsense": 0.45},
        },
        "memorisation": {"copied": 0.01, "membership": 0.05},
        "bytes": 15e6,
        "seconds_a_token": 0.002,
    }
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (result[section] if section else result)[key] = value
    return result


def compared(pair: tuple[Scores, Scores] | None = None, /, *, baseline: Any = None, **changes: Any) -> Comparison:
    """Return a candidate that is better and keeps to every bound, except for `changes` to its metrics."""
    candidate_scores, baseline_scores = pair or scores(2000, GAIN_OF_2_PERCENT, np.random.default_rng(1))
    return Comparison(
        candidate=ModelFigures(metrics(**changes), candidate_scores),
        baseline=ModelFigures(baseline or metrics(version="ba9876543210"), baseline_scores),
        against="champion",
        base_metrics=metrics(),
        reference_metrics=metrics(),
        groups=[],
        generations=100,
        copied_tokens=40,
        seed=42,
    )


def judged(
    comparison: Comparison | None = None, config: params.Promote = QUICK, forced: str | None = None, **changes: Any
) -> Verdict:
    """Return the verdict on a comparison with `changes` to its fields."""
    return judge(replace(comparison or compared(), **changes), config, forced=forced)


def gate(name: str, verdict: Verdict) -> GateResult:
    """Return the result of one gate."""
    return next(gate for gate in verdict.gates if gate.name == name)
