"""Figures of a classifier from its logits on labelled rows; see `decision` for how logits become labels.

A figure that has no meaning on these rows is None, with a sentence in `undefined`; no figure is NaN.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from pipeline.evaluation.bootstrap import interval
from pipeline.modeling.decision import Costs, Decision, Floats, Ints, cost_matrix, decide, probabilities, shown
from pipeline.modeling.decision_fit import row_losses

Bools = npt.NDArray[np.bool_]

_BINS = 15
_ROWS_A_BIN = 10
_TOP = 5
_MAX_DRAWS = 2**21  # rows drawn at once: 16 MB, a few times
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Settings:
    """What the figures are taken by, besides the decision."""

    positive: str | None = None  # the label that roc_auc and pr_auc are of; None: the mean over all labels
    costs: Costs = field(default_factory=dict)  # of the project, the same for every model
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


def classification_metrics(
    logits: npt.NDArray[Any], truth: npt.NDArray[Any], decision: Decision, settings: Settings
) -> dict[str, Any]:
    """Return the figures of one model as they stand in JSON.

    - accuracy: share of rows decided right; of rows with several labels, all of them (subset accuracy).
    - macro_f1: mean F1 over the labels that occur in truth or decisions.
    - log_loss: mean of `row_losses`, in nats.
    - brier: squared error of the probabilities, from 0 to 1: half of Brier 1950's sum over the labels ("Verification
      of forecasts expressed in terms of probability"), so that with two labels it is the usual one of the positive.
      With several labels a row, the mean over all rows and labels.
    - ece, reliability: see `reliability_bins`; of the decided labels, or with several labels a row of every label.
    - classes: precision, recall, F1 and support of each label.
    - roc_auc, pr_auc: of `settings.positive`, else the mean over the labels that some rows have and some have not.
      pr_auc is the average precision, which does not interpolate between points (Davis and Goadrich 2006, "The
      relationship between precision-recall and ROC curves"); its interval is that of `pr_auc_interval`.
    - cost: mean cost of a decision, see `cost_matrix`; with several labels a row 1 for each row that is not all right.
    - top_5_accuracy, of more than 5 labels: share of rows whose label is among the five likeliest, equals before it.
    - confusion: counts, rows are the truth; None with several labels a row.

    Args:
        logits: (rows, labels).
        truth: (rows,) indices, or (rows, labels) of 0 and 1.
        decision: How the model decides, chosen on validation.
        settings: The same for every model that is compared.

    Raises:
        ValueError: There is no row, or logits are not finite.
    """
    if len(logits) == 0:
        raise ValueError("a classifier's figures need labelled rows; found none")
    shares = probabilities(logits, decision.temperature, multi_label=decision.multi_label)
    decided = decide(shares, decision)
    columns = np.arange(len(decision.labels))
    indicator = truth == 1 if decision.multi_label else truth[:, None] == columns  # (rows, labels)
    rows = _row_records(shares, truth, decided, settings.costs, decision)
    bins = (
        _bins_of_each(shares, indicator)
        if decision.multi_label
        else reliability_bins(rows["confidence"], rows["correct"])
    )
    classes = _classes(truth, decided, decision.labels)
    f1 = [figures["f1"] for figures in classes.values() if figures["f1"] is not None]
    figures: dict[str, Any] = {
        "accuracy": float(rows["correct"].mean()),
        "macro_f1": float(np.mean(f1)) if f1 else None,
        "log_loss": float(row_losses(logits, truth, decision.temperature).mean()),
        "brier": _brier(shares, indicator, multi_label=decision.multi_label),
        "ece": calibration_error(bins),
        "classes": classes,
        "cost": float(rows["cost"].mean()),
        "decision": decision.as_json(),
        "confusion": None
        if decision.multi_label
        else metrics.confusion_matrix(truth, decided, labels=columns).tolist(),
        "reliability": bins,
        **_areas(shares, indicator, decision, settings),
    }
    if not decision.multi_label and len(columns) > _TOP:
        likelier = (shares >= shares[np.arange(len(truth)), truth][:, None]).sum(axis=1)
        figures[f"top_{_TOP}_accuracy"] = float((likelier <= _TOP).mean())
    if not f1:
        figures["undefined"].append("macro_f1 is not defined: no row has a label, nor was given one")
    return figures


def row_figures(
    logits: npt.NDArray[Any], truth: npt.NDArray[Any], decision: Decision, costs: Costs
) -> dict[str, Floats]:
    """Return figures of each row, (rows,) each: `correct`, `confidence`, `cost` and `recall/<label>`.

    - correct: 1 where the row is decided right, of several labels all; else 0.
    - confidence: the probability of the decision; of several labels the product over all labels, as if they were
      independent of each other.
    - cost: of the decision.
    - recall/<label>: 1 or 0 on the rows that have the label, NaN elsewhere.
    """
    shares = probabilities(logits, decision.temperature, multi_label=decision.multi_label)
    decided = decide(shares, decision)
    figures = _row_records(shares, truth, decided, costs, decision)
    for column, label in enumerate(decision.labels):
        has_label = truth[:, column] == 1 if decision.multi_label else truth == column
        is_decided = decided[:, column] == 1 if decision.multi_label else decided == column
        figures[f"recall/{label}"] = np.where(has_label, is_decided.astype(np.float64), np.nan)
    return figures


def reliability_bins(confidence: Floats, outcome: npt.NDArray[Any]) -> list[dict[str, float]]:
    """Return up to 15 bins of equally many rows by confidence, with the mean confidence and the share of outcomes 1.

    Equal mass instead of equal width, because most rows of a good classifier have a confidence near 1, where bins of
    equal width put all of them into one; and its estimate has less bias (Roelofs et al., "Mitigating Bias in
    Calibration Error Estimation", AISTATS 2022). Fewer bins below 150 rows, 10 rows each: smaller ones show noise.
    Rows of equal confidence share a bin, so that their order does not matter.
    """
    if len(confidence) == 0:
        return []
    count = min(_BINS, max(1, len(confidence) // _ROWS_A_BIN))
    ordered = np.sort(confidence)
    number = np.searchsorted(ordered, confidence, side="left") * count // len(ordered)
    bins = []
    for at in np.unique(number):
        inside = number == at
        bins.append(
            {
                "low": float(confidence[inside].min()),
                "high": float(confidence[inside].max()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(outcome[inside].mean()),
                "rows": int(inside.sum()),
            }
        )
    return bins


def calibration_error(bins: Sequence[dict[str, float]]) -> float | None:
    """Return the expected calibration error: the mean gap between confidence and accuracy, weighted by rows.

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    total = sum(entry["rows"] for entry in bins)
    gaps = sum(entry["rows"] * abs(entry["confidence"] - entry["accuracy"]) for entry in bins)
    return float(gaps / total) if total else None


def pr_auc_interval(
    scores: Floats, indicator: Bools, strata: npt.NDArray[Any], settings: Settings
) -> tuple[float, float]:
    """Return the interval of the mean average precision over columns: percentile bootstrap within strata.

    Within strata (for two labels the positives and the others), because a draw of all rows often holds few or no rows
    of a rare label; Boyd, Eng and Page, "Area under the Precision-Recall Curve: Point Estimates and Confidence
    Intervals", ECML 2013. Too narrow where a stratum has fewer than some 20 rows.

    Args:
        scores: (rows, columns).
        indicator: Which rows have the column's label, (rows, columns); each has some that do and some that do not.
        strata: Of each row, (rows,).
        settings: Its resamples, confidence and seed.
    """
    values = []
    for counts in _draws(strata, settings.resamples, settings.seed):  # (draws, rows)
        areas = [_average_precision(scores[:, at], indicator[:, at], counts) for at in range(scores.shape[1])]
        values.append(np.nanmean(np.stack(areas), axis=0))
    return interval(np.concatenate(values), settings.confidence)


def precision_recall_points(scores: Floats, is_positive: Bools) -> list[dict[str, float]]:
    """Return at most 200 points of the precision-recall curve, from the highest threshold to the lowest.

    Empty where no row is positive.
    """
    if not is_positive.any():
        return []
    precision, recall, thresholds = metrics.precision_recall_curve(is_positive, scores, drop_intermediate=True)
    kept = np.unique(np.linspace(0, len(thresholds) - 1, _CURVE_POINTS).round().astype(int))[::-1]
    return [
        {"threshold": float(thresholds[at]), "precision": float(precision[at]), "recall": float(recall[at])}
        for at in kept
    ]


def _row_records(
    shares: Floats, truth: npt.NDArray[Any], decided: Ints, costs: Costs, decision: Decision
) -> dict[str, Floats]:
    """Return `correct`, `confidence` and `cost` of each row, see `row_figures`."""
    if decision.multi_label:
        correct = (decided == truth).all(axis=1).astype(np.float64)
        confidence = np.where(decided == 1, shares, 1 - shares).prod(axis=1)
        return {"correct": correct, "confidence": confidence, "cost": 1 - correct}
    return {
        "correct": (decided == truth).astype(np.float64),
        "confidence": shares[np.arange(len(truth)), decided],
        "cost": cost_matrix(costs, decision.labels)[truth, decided],
    }


def _bins_of_each(shares: Floats, indicator: Bools) -> list[dict[str, float]]:
    """Return the bins of all probabilities of rows that may have several labels."""
    return reliability_bins(shares.ravel(), indicator.ravel())


def _brier(shares: Floats, indicator: Bools, *, multi_label: bool) -> float:
    squares = (shares - indicator) ** 2
    return float(squares.mean() if multi_label else squares.sum(axis=1).mean() / 2)


def _classes(truth: npt.NDArray[Any], decided: Ints, labels: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return precision, recall, F1 and support of each label; None where one is 0 / 0."""
    figures = metrics.precision_recall_fscore_support(
        truth, decided, labels=np.arange(len(labels)), average=None, zero_division=np.nan
    )
    names = ("precision", "recall", "f1")
    return {
        label: {
            **{name: _number(values[at]) for name, values in zip(names, figures[:3], strict=True)},
            "support": int(figures[3][at]),
        }
        for at, label in enumerate(labels)
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _areas(shares: Floats, indicator: Bools, decision: Decision, settings: Settings) -> dict[str, Any]:
    """Return roc_auc, pr_auc and its interval, with `undefined`."""
    labels = decision.labels if settings.positive is None else (settings.positive,)
    columns = np.array([decision.labels.index(label) for label in labels])
    scores, indicator_of = shares[:, columns], indicator[:, columns]
    support = indicator_of.sum(axis=0)
    is_defined = (support > 0) & (support < len(shares))
    undefined = []
    if not is_defined.all():
        missing = [label for label, defined in zip(labels, is_defined, strict=True) if not defined]
        undefined.append(
            f"roc_auc and pr_auc need rows with a label and rows without; not so for {len(missing)} of {len(labels)} "
            f"labels, which are left out: {shown(missing)}"
        )
    figures: dict[str, Any] = {"roc_auc": None, "pr_auc": None, "pr_auc_low": None, "pr_auc_high": None}
    if is_defined.any():
        scores, indicator_of = scores[:, is_defined], indicator_of[:, is_defined]
        pairs = list(zip(indicator_of.T, scores.T, strict=True))
        figures["roc_auc"] = float(np.mean([metrics.roc_auc_score(*pair) for pair in pairs]))
        figures["pr_auc"] = float(np.mean([metrics.average_precision_score(*pair) for pair in pairs]))
        least = int(np.minimum(support, len(shares) - support)[is_defined].min())
        if settings.positive is not None and least < 2:
            undefined.append(f"pr_auc_low and pr_auc_high need two rows of each class; found {least} of one")
        else:
            strata = indicator_of[:, 0] if settings.positive is not None else _strata(indicator)
            low, high = pr_auc_interval(scores, indicator_of, strata, settings)
            figures |= {"pr_auc_low": low, "pr_auc_high": high}
    return {**figures, "undefined": undefined}


def _strata(indicator: Bools) -> Ints:
    """Return a stratum of each row: its label, of several the one that the fewest rows have; -1 without one."""
    rarity = np.argsort(np.argsort(indicator.sum(axis=0), kind="stable"), kind="stable")  # 0: the rarest label
    strata: Ints = np.where(indicator, rarity, len(rarity)).min(axis=1)
    return np.where(indicator.any(axis=1), strata, -1)


def _draws(strata: npt.NDArray[Any], resamples: int, seed: int) -> Iterator[Ints]:
    """Yield how often each row is drawn with replacement within its stratum: (draws, rows) a time."""
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    generator = np.random.default_rng(seed)
    chunk = max(1, _MAX_DRAWS // len(strata))
    for first in range(0, resamples, chunk):
        count = min(chunk, resamples - first)
        counts = np.zeros((count, len(strata)), np.int64)
        for rows in members:
            drawn = generator.integers(len(rows), size=(count, len(rows))) + len(rows) * np.arange(count)[:, None]
            counts[:, rows] = np.bincount(drawn.ravel(), minlength=count * len(rows)).reshape(count, len(rows))
        yield counts


def _average_precision(scores: Floats, is_positive: Bools, counts: Ints) -> Floats:
    """Return the average precision of each draw, NaN where it has no positive row: (draws,).

    Equal to sklearn's with `counts` as weights. Precision is needed only where a run of equal scores has a positive.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], is_positive[order]
    run = np.cumsum(np.append(False, ordered[1:] != ordered[:-1]))
    ends = np.flatnonzero(np.append(run[1:] != run[:-1], True))[np.unique(run[hits])]  # of the runs with a positive
    starts = np.append(0, ends[:-1] + 1)
    drawn = counts[:, order[: ends[-1] + 1]]
    total = np.add.reduceat(drawn, starts, axis=1).cumsum(axis=1)  # (draws, runs)
    found = np.add.reduceat(drawn * hits[: ends[-1] + 1], starts, axis=1)
    positives = found.sum(axis=1)
    with np.errstate(invalid="ignore"):
        areas: Floats = (found * (found.cumsum(axis=1) / np.maximum(total, 1))).sum(axis=1) / positives
    return areas
