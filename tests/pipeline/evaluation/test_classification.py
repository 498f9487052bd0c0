"""The figures of a classifier are those of sklearn and of small cases by hand, and none is ever NaN."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from pipeline.evaluation import classification
from pipeline.evaluation.classification import (
    Settings,
    calibration_error,
    classification_metrics,
    pr_auc_interval,
    precision_recall_points,
    reliability_bins,
    row_figures,
)
from pipeline.modeling.decision import Decision, probabilities

TWO = ("legit", "fraud")
FAST = Settings(resamples=100)
FRAUD = Settings(positive="fraud", resamples=100)


def figures(logits: Any, truth: Any, labels: tuple[str, ...], settings: Settings = FAST, **decision: Any) -> Any:
    result = classification_metrics(np.array(logits), np.array(truth), Decision(labels, **decision), settings)
    json.dumps(result, allow_nan=False)
    return result


def sample(rows: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(labels, size=rows)
    return generator.normal(0, 1, (rows, labels)) + 1.5 * np.eye(labels)[truth], truth


def test_figures_of_many_labels_are_those_of_sklearn() -> None:
    logits, truth = sample(400, 5)
    result = figures(logits, truth, tuple("abcde"), temperature=1.4)
    shares = probabilities(logits, 1.4, multi_label=False)
    decided = shares.argmax(axis=1)
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(truth, decided))
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(truth, decided, average="macro"))
    assert result["log_loss"] == pytest.approx(metrics.log_loss(truth, shares))
    assert result["brier"] == pytest.approx(metrics.brier_score_loss(truth, shares, scale_by_half=True))
    assert result["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, shares, multi_class="ovr"))
    assert result["pr_auc"] == pytest.approx(
        metrics.average_precision_score(metrics.cluster.contingency_matrix(range(400), truth).astype(int), shares)
    )
    assert result["pr_auc_low"] < result["pr_auc"] < result["pr_auc_high"]
    assert result["confusion"] == metrics.confusion_matrix(truth, decided).tolist()
    assert result["cost"] == pytest.approx(1 - result["accuracy"])
    assert result["undefined"] == []
    assert "top_5_accuracy" not in result


def test_figures_of_two_labels_are_of_the_positive_at_its_threshold() -> None:
    logits, truth = sample(300, 2, seed=1)
    costs = {"fraud": {"legit": 20.0}, "legit": {"fraud": 3.0}}
    settings_ = Settings(positive="fraud", costs=costs, resamples=100)
    result = figures(logits, truth, TWO, settings_, thresholds={"fraud": 0.2}, by="cost")
    score = probabilities(logits, 1.0, multi_label=False)[:, 1]
    decided = (score >= 0.2).astype(int)
    assert result["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, score))
    assert result["pr_auc"] == pytest.approx(metrics.average_precision_score(truth, score))
    assert result["brier"] == pytest.approx(metrics.brier_score_loss(truth, score))
    assert result["classes"]["fraud"]["recall"] == pytest.approx(metrics.recall_score(truth, decided))
    assert result["classes"]["fraud"]["support"] == truth.sum()
    missed, alarms = ((truth == 1) & (decided == 0)).sum(), ((truth == 0) & (decided == 1)).sum()
    assert result["cost"] == pytest.approx((20 * missed + 3 * alarms) / 300)
    assert result["decision"] == {
        "temperature": 1.0,
        "thresholds": {"fraud": 0.2},
        "by": "cost",
        "multi_label": False,
    }


@pytest.mark.parametrize("settings_", [FAST, FRAUD])
@pytest.mark.parametrize("only", [0, 1])
def test_a_missing_class_leaves_the_areas_undefined_with_a_sentence(settings_: Settings, only: int) -> None:
    result = figures([[1.0, -1.0], [0.5, 0.4]], [only, only], TWO, settings_)
    assert [result[key] for key in ("roc_auc", "pr_auc", "pr_auc_low", "pr_auc_high")] == [None] * 4
    assert result["undefined"][0].startswith("roc_auc and pr_auc need rows with a label and rows without; not so for")
    assert "'fraud'" in result["undefined"][0]
    assert result["classes"][TWO[1 - only]]["recall"] is None
    assert result["classes"]["fraud"]["precision"] is None


def test_one_positive_row_has_an_area_and_no_interval() -> None:
    result = figures([[0.0, 1.0], [1.0, 0.0], [1.0, 0.5]], [1, 0, 0], TWO, FRAUD)
    assert result["pr_auc"] == result["roc_auc"] == 1
    assert result["pr_auc_low"] is None
    assert result["undefined"] == ["pr_auc_low and pr_auc_high need two rows of each class; found 1 of one"]


def test_a_model_that_gives_all_rows_one_score_is_worth_the_share_of_positives() -> None:
    result = figures(np.zeros((20, 2)), [1] * 5 + [0] * 15, TWO, FRAUD)
    assert result["roc_auc"] == 0.5
    assert result["pr_auc"] == result["pr_auc_low"] == result["pr_auc_high"] == 0.25
    assert result["ece"] == pytest.approx(0.25)
    assert len(result["reliability"]) == 1


def test_a_single_row_has_figures_and_no_row_is_refused() -> None:
    assert figures([[2.0, 0.0]], [0], TWO)["accuracy"] == 1
    with pytest.raises(ValueError, match="need labelled rows; found none"):
        figures(np.zeros((0, 2)), np.zeros(0, int), TWO)


def test_many_labels_some_rare_or_absent_are_all_listed_and_averaged_over_those_that_occur() -> None:
    logits, truth = sample(600, 77, seed=2)
    truth[truth > 70] = 0
    truth[0] = 71
    result = figures(logits, truth, tuple(f"label {number}" for number in range(77)))
    assert len(result["classes"]) == len(result["confusion"]) == 77
    assert result["classes"]["label 76"]["recall"] is None
    assert result["classes"]["label 71"]["support"] == 1
    areas = [
        metrics.average_precision_score(truth == at, probabilities(logits, 1.0, multi_label=False)[:, at])
        for at in range(72)
    ]
    assert result["pr_auc"] == pytest.approx(np.mean(areas))
    assert result["undefined"] == [
        "roc_auc and pr_auc need rows with a label and rows without; not so for 5 of 77 labels, which are left out: "
        "'label 72', 'label 73', 'label 74', 'label 75', 'label 76'"
    ]
    assert result["top_5_accuracy"] == pytest.approx(metrics.top_k_accuracy_score(truth, logits, k=5, labels=range(77)))


def test_the_right_label_among_equals_is_not_counted_as_found() -> None:
    assert figures(np.zeros((4, 7)), [0, 1, 2, 3], tuple("abcdefg"))["top_5_accuracy"] == 0


def test_rows_of_several_labels_have_the_figures_of_sklearn() -> None:
    generator = np.random.default_rng(4)
    truth = generator.integers(2, size=(200, 3))
    truth[:5] = 0  # rows without a label
    logits = generator.normal(size=(200, 3)) + 2 * truth - 1
    limits = {"a": 0.4, "b": 0.5, "c": 0.6}
    result = figures(logits, truth, tuple("abc"), thresholds=limits, multi_label=True)
    shares = probabilities(logits, 1.0, multi_label=True)
    decided = (shares >= list(limits.values())).astype(int)
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(truth, decided))
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(truth, decided, average="macro"))
    assert result["pr_auc"] == pytest.approx(metrics.average_precision_score(truth, shares))
    assert result["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, shares))
    assert result["brier"] == pytest.approx(((shares - truth) ** 2).mean())
    assert result["log_loss"] == pytest.approx(metrics.log_loss(truth.ravel(), shares.ravel()))
    assert result["confusion"] is None
    assert sum(entry["rows"] for entry in result["reliability"]) == 600
    rows = row_figures(logits, truth, Decision(tuple("abc"), thresholds=limits, multi_label=True), {})
    assert rows["correct"].tolist() == (decided == truth).all(axis=1).tolist()
    assert np.nanmean(rows["recall/b"]) == pytest.approx(result["classes"]["b"]["recall"])


def test_rows_without_any_label_are_counted_and_break_nothing() -> None:
    limits = {"a": 0.5, "b": 0.5}
    result = figures([[-1.0, -1.0]], [[0, 0]], ("a", "b"), thresholds=limits, multi_label=True)
    assert result["accuracy"] == 1
    assert result["macro_f1"] is None
    assert result["undefined"][-1] == "macro_f1 is not defined: no row has a label, nor was given one"


def test_figures_of_rows_average_to_those_of_the_model() -> None:
    logits, truth = sample(200, 3, seed=5)
    costs = {"a": {"b": 7.0}}
    result = figures(logits, truth, ("a", "b", "c"), Settings(costs=costs, resamples=100))
    rows = row_figures(logits, truth, Decision(("a", "b", "c")), costs)
    assert rows["correct"].mean() == pytest.approx(result["accuracy"])
    assert rows["cost"].mean() == pytest.approx(result["cost"])
    assert calibration_error(reliability_bins(rows["confidence"], rows["correct"])) == pytest.approx(result["ece"])
    for label in "abc":
        assert np.isnan(rows[f"recall/{label}"]).sum() == (truth != "abc".index(label)).sum()
        assert np.nanmean(rows[f"recall/{label}"]) == pytest.approx(result["classes"][label]["recall"])
    assert all(values.dtype == np.float64 for values in rows.values())


def test_bins_hold_equally_many_rows_and_tell_the_gap_of_each() -> None:
    confidence = np.linspace(0.5, 1, 3000)
    outcome = np.random.default_rng(6).random(3000) < confidence
    bins = reliability_bins(confidence, outcome)
    assert [entry["rows"] for entry in bins] == [200] * 15
    calibrated = calibration_error(bins)
    assert calibrated is not None
    assert calibrated < 0.04
    assert calibration_error(reliability_bins(confidence, np.zeros(3000))) == pytest.approx(0.75)
    assert reliability_bins(np.zeros(0), np.zeros(0)) == []
    assert calibration_error([]) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60), st.randoms())
@settings(max_examples=60, deadline=None)
def test_bins_cover_all_rows_whatever_their_order(rows: list[tuple[int, bool]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    bins, again = (reliability_bins(np.array([r[0] / 5 for r in part]), np.array([r[1] for r in part]))
                   for part in (rows, shuffled))  # fmt: skip
    assert [entry["rows"] for entry in bins] == [entry["rows"] for entry in again]
    assert sum(entry["rows"] for entry in bins) == len(rows)
    assert calibration_error(bins) == pytest.approx(calibration_error(again))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=4, max_size=40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_resampled_area_is_sklearns_with_weights(rows: list[tuple[int, bool]], seed: int) -> None:
    scores, truth = np.array([float(row[0]) for row in rows]), np.array([row[1] for row in rows])
    if not truth.any() or truth.all():
        return
    counts = next(classification._draws(truth, 5, seed))
    assert (counts[:, truth].sum(axis=1) == truth.sum()).all()
    assert (counts.sum(axis=1) == len(truth)).all()
    expected = [metrics.average_precision_score(truth, scores, sample_weight=weights) for weights in counts]
    assert classification._average_precision(scores, truth, counts) == pytest.approx(expected)


def test_the_interval_of_a_rare_class_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    truth = np.repeat([False, True], [400, 40])
    population = np.repeat([False, True], [100_000, 10_000])
    centre = metrics.average_precision_score(population, generator.normal(0, 1, 110_000) + 2 * population)
    covered = 0
    for seed in range(100):
        scores = (generator.normal(0, 1, 440) + 2 * truth)[:, None]
        low, high = pr_auc_interval(scores, truth[:, None], truth, Settings(resamples=200, seed=seed))
        covered += low <= centre <= high
    assert covered >= 88


def test_the_same_seed_gives_the_same_interval() -> None:
    logits, truth = sample(100, 4, seed=8)
    first, second = (figures(logits, truth, tuple("abcd")) for _ in range(2))
    assert first == second
    assert figures(logits, truth, tuple("abcd"), Settings(resamples=100, seed=1))["pr_auc_low"] != first["pr_auc_low"]


def test_the_points_of_a_curve_are_few_and_keep_both_ends() -> None:
    generator = np.random.default_rng(9)
    scores = generator.random(5000)
    is_positive = generator.random(5000) < scores
    points = precision_recall_points(scores, is_positive)
    assert len(points) <= 200
    assert points[-1] == {"threshold": scores.min(), "precision": is_positive.mean(), "recall": 1.0}
    assert [point["threshold"] for point in points] == sorted((point["threshold"] for point in points), reverse=True)
    for point in points[::40]:
        assert point["precision"] == pytest.approx(is_positive[scores >= point["threshold"]].mean())
    assert precision_recall_points(scores, np.zeros(5000, bool)) == []
