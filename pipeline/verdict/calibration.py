"""The gate on calibration: is a candidate that says 90 % right less than nine times in ten, and more so than before?

The expected calibration error is above 0 by chance alone, and more so the more its bins are used. So a candidate breaks
the bound only if its error lies beyond what a calibrated model of the same confidences shows by chance, and above the
baseline's beyond chance.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from pipeline import params
from pipeline.verdict.paired_means import Pairs, pairs_of
from pipeline.verdict.records import Comparison, GateResult, NotMeasuredError, not_measured
from pipeline.verdict.statistics import Estimate
from pipeline.verdict.wording import POINTS, interval, points

BINS = 15  # at most, of equally many rows, as in the figure `ece` of classifiers
_ROWS_A_BIN = 10  # at least
_RESAMPLES = 2000  # at most
_MAX_DRAWS = 2**20  # rows drawn at once: 8 MB, a few times
_LEVER = "Raise finetune.dropout, lower finetune.epochs, or enlarge the validation split, which sets the temperature"

Floats = npt.NDArray[np.float64]


class Calibration(NamedTuple):
    """The calibration errors of both models."""

    candidate: float
    baseline: float
    by_chance: float  # what a calibrated model with the candidate's confidences stays below, with the confidence
    rise: Estimate


def calibration_gate(comparison: Comparison, config: params.Promote) -> GateResult:
    """Return whether the expected calibration error rises by more than the bound, beyond chance."""
    name, bound = "calibration", config.gates.calibration
    try:
        result = _measure(comparison, config)
    except NotMeasuredError:
        return not_measured(name, bound)
    over = result.candidate > result.by_chance and not result.rise.low <= bound
    passed = not over or comparison.against == "base"
    decimals = POINTS.decimals_apart((result.rise.value, bound), (result.rise.low, bound))
    ends = interval(config.confidence, result.rise.low, result.rise.high, POINTS, decimals)
    finding = (
        f"its confidence is {points(result.candidate, decimals)} points off on average (expected calibration error; by"
        f" chance up to {points(result.by_chance, decimals)}), the {comparison.against}'s"
        f" {points(result.baseline, decimals)}, which is {points(result.rise.value, decimals)} more {ends};"
        f" promote.gates.calibration allows {points(bound, decimals)}"
    )
    beginning = "It is calibrated worse" if over else "Calibration is within its bound"
    first = " A first model is not refused for that." if over and passed else ""
    limit = points(bound + result.rise.value - result.rise.low, decimals)
    change = f"more than about {limit} points more would not have passed."
    if over:
        change = f"at most about {limit} points more would have passed. {_LEVER}."
    return GateResult(
        name=name,
        value=result.rise.value,
        low=result.rise.low,
        bound=bound,
        reference=result.baseline,
        passed=passed,
        sentence=f"{beginning}: {finding}.{first}",
        counterfactual=f"{name}: {change}",
        high=result.rise.high,
        is_warning=over and passed,
    )


def _measure(comparison: Comparison, config: params.Promote) -> Calibration:
    confidence, correct = pairs_of(comparison, "confidence"), pairs_of(comparison, "correct")
    if len(confidence.candidate) != len(correct.candidate):
        raise NotMeasuredError
    resamples = min(config.resamples, _RESAMPLES)
    random = np.random.default_rng(comparison.seed)
    gaps = _gaps(confidence, correct)
    candidate, baseline = (_error(gap.sum(axis=0), len(gap)) for gap in gaps)
    rises = _resampled(gaps, resamples, random)
    reach = float(stdtrit(len(gaps[0]) - 1, (1 + config.confidence) / 2) * rises.std(ddof=1))
    rise = float(candidate - baseline)
    chance = np.quantile(_by_chance(confidence.candidate, resamples, random), (1 + config.confidence) / 2)
    return Calibration(float(candidate), float(baseline), float(chance), Estimate(rise, rise - reach, rise + reach))


def _gaps(confidence: Pairs, correct: Pairs) -> tuple[Floats, Floats]:
    """Return for each model by how much each row's confidence is off, in the column of its bin: (rows, bins)."""
    gaps = (
        _bins(confidence.candidate) * (confidence.candidate - correct.candidate)[:, None],
        _bins(confidence.baseline) * (confidence.baseline - correct.baseline)[:, None],
    )
    if not all(np.isfinite(gap).all() for gap in gaps):
        raise NotMeasuredError
    return gaps


def _bins(confidence: Floats) -> Floats:
    """Return 1 in the column of each row's bin: (rows, bins)."""
    rows = len(confidence)
    count = min(BINS, max(1, rows // _ROWS_A_BIN))
    number = np.searchsorted(np.sort(confidence), confidence, side="left") * count // rows
    result: Floats = (number[:, None] == np.arange(BINS)).astype(np.float64)
    return result


def _error(sums: Floats, rows: int) -> Floats:
    """Return the expected calibration error of gaps that were added up by bin: (..., bins) to (...,)."""
    result: Floats = np.abs(sums).sum(axis=-1) / rows
    return result


def _resampled(gaps: tuple[Floats, Floats], resamples: int, random: np.random.Generator) -> Floats:
    """Return the rises of a paired bootstrap over rows: (resamples,)."""
    both, rows = np.concatenate(gaps, axis=1), len(gaps[0])
    rises = []
    for count in _chunks(resamples, rows):
        drawn = random.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)
        sums = times @ both  # (count, 2 * bins)
        rises.append(_error(sums[:, :BINS], rows) - _error(sums[:, BINS:], rows))
    return np.concatenate(rises)


def _by_chance(confidence: Floats, resamples: int, random: np.random.Generator) -> Floats:
    """Return the errors of a model that is right as often as it says: (resamples,).

    Consistency resampling (Broecker and Smith 2007, Increasing the reliability of reliability diagrams, section 3).
    """
    bins, rows = _bins(confidence), len(confidence)
    errors = []
    for count in _chunks(resamples, rows):
        correct = random.random((count, rows)) < confidence
        errors.append(_error((confidence - correct) @ bins, rows))
    return np.concatenate(errors)


def _chunks(resamples: int, rows: int) -> Iterator[int]:
    """Yield how many resamples to draw at once."""
    chunk = max(1, _MAX_DRAWS // rows)
    for first in range(0, resamples, chunk):
        yield min(chunk, resamples - first)
