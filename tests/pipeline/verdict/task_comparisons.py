"""Comparisons of each task to judge: scores and figures made up, no model."""

from dataclasses import replace
from typing import Any

import numpy as np

from bench.simulated_tasks import Outcome, TaskRows
from pipeline import params
from pipeline.evaluation.scores import Probes, Scores
from pipeline.verdict.judge import judge
from pipeline.verdict.records import Comparison, ModelFigures, Verdict
from pipeline.verdict.tables import load_table
from tests.pipeline.verdict.comparisons import QUICK, turns

NONE = Scores(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def rows_of(loss: float, seed: int, rows: int = 100) -> Scores:
    """Return scores of rows that take a model this loss, give or take."""
    weight = np.ones(rows, dtype=np.int64)
    return Scores(loss * np.random.default_rng(seed).gamma(4, 0.25, rows), weight, 40 * weight)


def model(outcome: Outcome, gap: float = 0.0, seconds: float = 0.002, **metrics: Any) -> ModelFigures:
    """Return a model whose training rows are likelier to it by `gap` nats than rows held out."""
    figures = {"version": "0123456789ab", "bytes": 15e6, "seconds_a_row": seconds} | metrics
    probes = Probes(NONE, rows_of(2.5 - gap, 1), rows_of(2.5, 2))
    return ModelFigures(figures, outcome.scores, probes, turns(seconds, round(1e6 * seconds)), outcome.row_figures)


def compared(rows: TaskRows, candidate: Outcome, baseline: Outcome, **changes: Any) -> Comparison:
    """Return a comparison with a champion, in which `gap` is of the candidate's training rows."""
    gap = changes.pop("gap", 0.0)
    comparison = Comparison(
        candidate=model(candidate, gap),
        baseline=model(baseline),
        against="champion",
        base=model(baseline),
        reference_metrics={"text": dict(rows.reference)},
        groups=[],
        generations=0,
        copied_tokens=40,
        seed=42,
        clusters=rows.clusters,
        classes=rows.classes,
        test_share=0.1,
    )
    return replace(comparison, **changes)


def judged(task: str, comparison: Comparison, config: params.Promote = QUICK, **arguments: Any) -> Verdict:
    """Return the verdict on a comparison by the table of a task."""
    return judge(comparison, config, table=load_table(f"{task}_gates"), **arguments)


def broken(verdict: Verdict) -> list[str]:
    """Return the names of the gates that were broken."""
    return [gate.name for gate in verdict.gates if not gate.passed]
