"""Simulate the verdict on models of each task: `python -m bench.verdict_tasks [--quick] [--json]`.

Scores and figures are made up (`bench.simulated_tasks`); what judges them is what judges real ones, gates included.
Peers: the same without clusters or classes, every row by itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench import harness
from bench.harness import FRESH, Row
from bench.simulated_tasks import FRAUD, INTENTS, ClassifyRows, Outcome, RankRows, TaskRows, masked_rows, seq2seq_rows
from bench.verdict_simulations import Share
from pipeline import params
from pipeline.command import arg_parser, run, warn
from pipeline.evaluation.scores import Probes, Scores
from pipeline.verdict.challenges import daily
from pipeline.verdict.class_rows import rows_to_judge
from pipeline.verdict.evidence import least_gain
from pipeline.verdict.gate import GateTable
from pipeline.verdict.gates import evaluate_gates
from pipeline.verdict.improvement import improvement
from pipeline.verdict.records import Comparison, ModelFigures
from pipeline.verdict.tables import load_table

ROWS_ALONE = "every row by itself"
LIBRARIES = ("numpy", "scipy")
RARE_NOISE = 0.6  # nats that the gains of a rare class vary by from row to row
EMPTY = Scores(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class Case:
    """Test rows of a task, and by how much a better model is better."""

    name: str
    table: str
    rows: Callable[[np.random.Generator], TaskRows]
    better: float


CASES = (
    Case("classify: 2,000 rows, 2 % fraud", "classify", lambda random: ClassifyRows(2000, FRAUD, random), 0.4),
    Case("classify: 1,000 rows, 77 intents", "classify", lambda random: ClassifyRows(1000, INTENTS, random, 14), 0.05),
    Case("rank: 150 queries of 10 passages", "rank", lambda random: RankRows(150, random), 0.15),
    Case("seq2seq: 300 rows", "seq2seq", lambda random: seq2seq_rows(300, random), 0.025),
    Case("masked_lm: 300 rows", "masked_lm", lambda random: masked_rows(300, random), 0.04),
)


@dataclass(frozen=True)
class Sizes:
    """How much is simulated."""

    nulls: int = 200
    better: int = 100
    draws: Sequence[int] = (2_000, 10_000)  # at 2.5 %, and at a day of a budget of 5 %


QUICK = Sizes(6, 3, (100, 100))


def main() -> None:
    """Simulate and publish."""
    parser = arg_parser()
    parser.add_argument("--quick", action="store_true", help="few simulations; the figures mean nothing")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    config = params.load().promote.model_copy(update={"resamples": 100})  # of intervals; the gain needs none
    rows, lines = [], []
    for case in CASES:
        warn(f"simulating {case.name}")
        case_rows, line = _case(case, config, sizes)
        rows += case_rows
        lines.append(line)
        warn("; ".join(line))
    heads = ["promoted, %", "of equal models", ROWS_ALONE, "of better ones", "their loss is lower by"]
    warn("simulating few rows of a class")
    few_rows, few = _few(sizes)
    text = f"{harness.table(heads, lines)}\n\n{few}"
    harness.publish("verdict_tasks", text, rows + few_rows, LIBRARIES, arguments.json)


def _case(case: Case, config: params.Promote, sizes: Sizes) -> tuple[list[Row], list[str]]:
    equal = share(case, config, 0.0, sizes.nulls)
    alone = share(case, config, 0.0, sizes.nulls, alone=True)
    better = share(case, config, case.better, sizes.better)
    gain = 1 - _loss(case, case.better) / _loss(case, 0.0)
    rows = [
        _row(FRESH, f"{case.name}: equal models promoted", equal),
        _row(ROWS_ALONE, f"{case.name}: equal models promoted", alone),
        _row(FRESH, f"{case.name}: models whose loss is {gain:.1%} lower promoted", better),
    ]
    return rows, [case.name, *map(_text, (equal, alone, better)), f"{100 * gain:.1f} %"]


def share(case: Case, config: params.Promote, better: float, times: int, *, alone: bool = False) -> Share:
    """Return how often a candidate replaces the champion, each time on other rows.

    Args:
        case: The task and its rows.
        config: The section `promote` of params.yaml.
        better: By which share of its signal, or of its perplexity, the candidate is better.
        times: Simulations.
        alone: Whether clusters and classes are left out, gates too.
    """
    random, table = np.random.default_rng(7), load_table(f"{case.table}_gates")
    hits = 0
    for _ in range(times):
        rows = case.rows(random)
        comparison = compared(rows, rows.outcome(better), rows.outcome(), table)
        if alone:
            hits += improvement(replace(comparison, clusters=None, classes=None), config).is_better
        else:
            hits += _is_promoted(comparison, config, table)
    return Share(hits, times)


def compared(rows: TaskRows, candidate: Outcome, baseline: Outcome, table: GateTable) -> Comparison:
    """Return a comparison in which size, speed and training rows speak against nobody."""
    figures = {"bytes": 15e6, "seconds_a_row": 0.002}
    one, other = (
        ModelFigures(
            figures, outcome.scores, Probes(EMPTY, few(outcome), few(outcome)), [0.002] * 12, outcome.row_figures
        )
        for outcome in (candidate, baseline)
    )
    return Comparison(
        candidate=one,
        baseline=other,
        against="champion",
        base=other,
        reference_metrics={"text": dict(rows.reference)},
        groups=[],
        generations=0,
        copied_tokens=40,
        seed=1,
        quantity=table.quantity,
        clusters=rows.clusters,
        classes=rows.classes,
        test_share=0.1,
    )


def few(outcome: Outcome) -> Scores:
    """Return the scores of some rows, in the place of training and validation rows."""
    scores = outcome.scores
    return Scores(scores.loss[:100], scores.tokens[:100], scores.bytes[:100])


def _is_promoted(comparison: Comparison, config: params.Promote, table: GateTable) -> bool:
    """Return what `judge` decides."""
    is_better = improvement(comparison, config).is_better
    return is_better and all(gate.passed for gate in evaluate_gates(comparison, config, table.gates))


def _loss(case: Case, better: float) -> float:
    """Return the true loss of a model, per unit of weight."""
    random = np.random.default_rng(8)
    sums = np.zeros(2)
    for _ in range(40):
        scores = case.rows(random).outcome(better).scores
        sums += scores.loss.sum(), scores.tokens.sum()
    return float(sums[0] / sums[1])


def _few(sizes: Sizes) -> tuple[list[Row], str]:
    """Simulate equal models on few rows of a class, whose gains are more and more skewed against the candidate."""
    rows, lines = [], []
    for alpha, often, draws in zip((0.025, daily(0.05)), ("one test", "every night"), sizes.draws, strict=True):
        needed = rows_to_judge(alpha, 0.95)
        for skewness in (0.0, -1.0, -2.0):
            cells = []
            for count in (7, needed, 2 * needed):
                rates = error_rates(count, skewness, alpha, draws)
                rows += harness.compare(
                    {name: [rate] for name, rate in rates.items()},
                    f"{often}, {count} rows of a class, skewness {skewness:g}: errors as a multiple of alpha",
                    "x",
                    ROWS_ALONE,
                )
                cells.append(f"{count} rows: {rates[FRESH]:.1f} ({rates[ROWS_ALONE]:.1f})")
            lines.append([f"{often}, skewness {skewness:g}", *cells])
    title = f"errors as a multiple of what is allowed ({ROWS_ALONE})"
    return rows, harness.table([title, "too few", "as many as are asked for", "twice as many"], lines)


def error_rates(rare: int, skewness: float, alpha: float, draws: int) -> Mapping[str, float]:
    """Return how many times more often than `alpha` equal models differ beyond chance, with classes and without."""
    random = np.random.default_rng(9)
    strata = np.repeat([0, 1], [20 * rare, rare])
    weight = np.ones(len(strata), dtype=np.int64)
    wrong = {FRESH: 0, ROWS_ALONE: 0}
    for _ in range(draws):
        gains = 0.05 * random.standard_normal(len(strata))
        gains[-rare:] = RARE_NOISE * _skewed(skewness, rare, random)
        candidate, baseline = Scores(2 - gains, weight, weight), Scores(np.full(len(gains), 2.0), weight, weight)
        wrong[FRESH] += least_gain(candidate, baseline, alpha, strata).nats < 0
        wrong[ROWS_ALONE] += least_gain(candidate, baseline, alpha).nats < 0
    return {name: count / draws / alpha for name, count in wrong.items()}


def _skewed(skewness: float, rows: int, random: np.random.Generator) -> np.ndarray:
    """Return noise of mean 0, standard deviation 1 and this skewness: (rows,)."""
    if skewness == 0:
        return random.standard_normal(rows)
    shape = (2 / skewness) ** 2
    return math.copysign(1, skewness) * (random.gamma(shape, 1, rows) - shape) / math.sqrt(shape)


def _row(variant: str, metric: str, found: Share) -> Row:
    low, high = found.interval
    figure, low, high = (round(100 * value, 3) for value in (found.value, low, high))
    return Row(variant, metric, figure, "%", low, high, variant, 1.0)


def _text(found: Share) -> str:
    low, high = found.interval
    return f"{100 * found.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    run(main)
