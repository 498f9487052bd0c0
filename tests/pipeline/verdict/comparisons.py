"""Comparisons to judge: scores and figures made up, no model."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from bench.simulated_scores import NOISE, TALES
from pipeline import params
from pipeline.evaluation.scores import Probes, Scores
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
        forgetting=0.5,
        forgetting_cap=None,
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
        "text": {"repetition": 0.02, "loops": 0.0},
        "likeness": {
            "bits": {"figure": 2.2, "distance": 0.1, "low": 0.0, "high": 0.2, "nonsense": 4.0},
            "words": {"figure": 0.07, "distance": 0.05, "low": -0.03, "high": 0.13, "nonsense": 0.45},
        },
        "memorisation": {"copied": 0.01},
        "real": {"texts": 100, "copied": 0.01, "repetition": 0.02, "loops": 0.0},
        "bytes": 15e6,
    }
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (result[section] if section else result)[key] = value
    return result


def general(bits: float, seed: int = 0) -> Scores:
    """Return scores of 90 plain texts that take `bits` per byte in all; the texts are as hard for every model."""
    size = np.random.default_rng(30).integers(300, 700, 90)
    hardness = np.random.default_rng(31).normal(1, 0.2, 90) + np.random.default_rng([32, seed]).normal(0, 0.03, 90)
    loss = hardness * size
    return Scores(loss * bits * math.log(2) * size.sum() / loss.sum(), size // 4, size)


def probes(bits: float = 2.0, gap: float = 0.0, seed: int = 0) -> Probes:
    """Return scores of plain texts, and of training rows `gap` nats per token likelier than validation rows."""
    random = np.random.default_rng([33, seed])
    tokens = np.full(160, 80)
    loss = np.random.default_rng(34).normal(3.6, 0.3, 160) + NOISE * random.normal(0, 1, 160) / np.sqrt(tokens)
    rows = Scores(loss * tokens, tokens, 4 * tokens)
    train, validation = (Scores(*(field[part] for field in rows)) for part in (slice(100), slice(100, None)))
    return Probes(general(bits, seed), train._replace(loss=train.loss - gap * train.tokens), validation)


def turns(seconds: float, seed: int = 0, rounds: int = 12) -> list[float]:
    """Return the seconds per token of a model in rounds on a quiet machine."""
    return list(seconds * (1 + 0.01 * np.random.default_rng([35, seed]).normal(size=rounds)))


def model(
    figures: dict[str, Any], row_scores: Scores, model_probes: Probes | None = None, seconds: float = 0.002
) -> ModelFigures:
    """Return a model with these metrics."""
    return ModelFigures(
        figures | {"seconds_a_token": seconds},
        row_scores,
        model_probes or probes(),
        turns(seconds, round(1e6 * seconds)),
    )


def compared(
    pair: tuple[Scores, Scores] | None = None,
    /,
    *,
    baseline: Any = None,
    bits: tuple[float, float, float] = (2.0, 2.0, 2.0),
    gap: tuple[float, float, float] = (0.0, 0.0, 0.0),
    seconds: tuple[float, float] = (0.002, 0.002),
    **changes: Any,
) -> Comparison:
    """Return a candidate that is better and keeps to every bound, except for `changes` to its metrics.

    `baseline` is the champion's metrics; `bits` (per byte of plain text), `gap` (of training rows) and `seconds` (per
    token) are of candidate, champion and base.
    """
    candidate_scores, baseline_scores = pair or scores(2000, GAIN_OF_2_PERCENT, np.random.default_rng(1))
    candidate, champion, base = (probes(*figures, seed) for seed, figures in enumerate(zip(bits, gap, strict=True)))
    return Comparison(
        candidate=model(metrics(**changes), candidate_scores, candidate, seconds[0]),
        baseline=model(baseline or metrics(version="ba9876543210"), baseline_scores, champion, seconds[1]),
        against="champion",
        base=model(metrics(version="ba5e"), baseline_scores, base),
        reference_metrics=metrics(),
        groups=[],
        generations=100,
        copied_tokens=40,
        seed=42,
    )


def first(comparison: Comparison) -> Comparison:
    """Return the candidate of a comparison with its base as the baseline, as there is no champion."""
    return replace(comparison, baseline=comparison.base, against="base")


def judged(
    comparison: Comparison | None = None, config: params.Promote = QUICK, forced: str | None = None, **changes: Any
) -> Verdict:
    """Return the verdict on a comparison with `changes` to its fields."""
    return judge(replace(comparison or compared(), **changes), config, forced=forced)


def gate(name: str, verdict: Verdict) -> GateResult:
    """Return the result of one gate."""
    return next(gate for gate in verdict.gates if gate.name == name)
