"""Temperature, thresholds and costs are chosen well on validation rows, and hold on any of them."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import f1_score

from pipeline.modeling.decision import Decision, cost_matrix, decide, probabilities
from pipeline.modeling.decision_fit import (
    Rule,
    choose_decision,
    choose_thresholds,
    elkan_threshold,
    fit_temperature,
    row_losses,
)

TWO = ("legit", "fraud")


def drawn(rows: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose softmax is the truth's distribution."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (rows, labels))
    shares = probabilities(logits, 1.0, multi_label=False)
    return logits, np.array([generator.choice(labels, p=row) for row in shares])


def of_two(positive: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(positive), np.array(positive)], axis=1)


def test_the_temperature_undoes_an_overconfident_scale() -> None:
    logits, truth = drawn(4000, 3)
    assert fit_temperature(logits, truth) == pytest.approx(1, abs=0.05)
    assert fit_temperature(2.5 * logits, truth) == pytest.approx(2.5, abs=0.12)
    assert fit_temperature(0.4 * logits, truth) == pytest.approx(0.4, abs=0.02)


def test_the_temperature_is_that_of_the_least_log_loss_where_there_are_many_rows() -> None:
    logits, truth = drawn(3000, 5, seed=1)
    best = minimize_scalar(lambda t: row_losses(3 * logits, truth, t).sum(), bounds=(0.05, 20), method="bounded").x
    assert fit_temperature(3 * logits, truth) == pytest.approx(best, rel=2e-3)


def test_the_temperature_of_several_labels_a_row_is_that_of_the_binary_losses() -> None:
    generator = np.random.default_rng(2)
    logits = generator.normal(0, 2, (3000, 4))
    truth = (generator.random((3000, 4)) < probabilities(logits, 1.0, multi_label=True)).astype(int)
    assert fit_temperature(3 * logits, truth) == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 500])
def test_few_rows_or_rows_all_decided_right_leave_the_temperature_near_1(rows: int) -> None:
    truth = np.arange(rows) % 2
    logits = 4.0 * np.eye(2)[truth]
    assert 0.3 < fit_temperature(logits, truth) < 1.01
    assert fit_temperature(logits, truth) == fit_temperature(logits, truth)


@given(st.integers(1, 12), st.integers(2, 5), st.integers(0, 999), st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_a_temperature_is_within_its_bounds_and_never_worse_than_the_prior_allows(
    rows: int, labels: int, seed: int, scale: float
) -> None:
    generator = np.random.default_rng(seed)
    logits, truth = 10**scale * generator.normal(size=(rows, labels)), generator.integers(labels, size=rows)
    temperature = fit_temperature(logits, truth)
    assert 0.05 <= temperature <= 20
    losses = row_losses(logits, truth, temperature).sum(), row_losses(logits, truth, 1.0).sum()
    assert losses[0] <= losses[1] * (1 + 1e-6) + 1e-6


def test_logits_that_are_not_finite_and_truth_that_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 rows have logits that are not finite"):
        fit_temperature(np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 1]))
    for truth in (np.array([0]), np.array([0, 2]), np.array([-1, 0]), np.array([[0, 1], [0, 2]])):
        with pytest.raises(ValueError, match="truth of shape"):
            fit_temperature(np.zeros((2, 2)), truth)


def chosen(positive: list[float], truth: list[int], **rule: Any) -> tuple[Decision, list[str]]:
    rule = {"by": "f1", "positive": "fraud"} | rule
    return choose_thresholds(of_two(positive), np.array(truth), Decision(TWO), Rule(**rule))


def test_the_threshold_stands_in_the_middle_between_the_scores_that_it_separates() -> None:
    decision, notes = chosen([0.1, 0.2, 0.6, 0.8], [0, 0, 1, 1])
    assert decision.thresholds == {"fraud": pytest.approx(0.4)}
    assert decision.by == "f1"
    assert notes == [
        "2 of 4 validation rows have the label 'fraud': a threshold chosen on fewer than 10 rows of either class is "
        "little more than chance"
    ]


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=150, deadline=None)
def test_no_threshold_has_a_better_f1(rows: list[tuple[int, bool]]) -> None:
    scores, truth = [score / 8 for score, _ in rows], [int(label) for _, label in rows]
    decision, notes = chosen(scores, truth)
    if len(set(truth)) == 1:
        assert not decision.thresholds
        assert decision.by == "argmax"
        assert "no threshold can be chosen" in notes[0]
        return
    decided = decide(of_two(scores), decision)
    best = max(f1_score(truth, np.array(scores) >= limit / 16, zero_division=0) for limit in range(17))
    assert f1_score(truth, decided, zero_division=0) == pytest.approx(best)
    assert 0 <= decision.thresholds["fraud"] <= 1


def test_equal_scores_are_never_split() -> None:
    decision, _ = chosen([0.5] * 6, [0, 1, 0, 1, 0, 0])
    assert decide(of_two([0.5]), decision).tolist() == [1]


COSTS = {"fraud": {"legit": 30.0, "fraud": 1.0}, "legit": {"fraud": 2.0}}


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=20, max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_threshold_costs_less(rows: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([score / 8 for score, _ in rows]), np.array([int(label) for _, label in rows])
    decision, _ = chosen(scores.tolist(), truth.tolist(), by="cost", costs=COSTS)
    matrix = cost_matrix(COSTS, TWO)
    if min(truth.sum(), len(truth) - truth.sum()) < 10:
        assert decision.thresholds["fraud"] == pytest.approx(2 / 31)
        return
    cost = matrix[truth, decide(of_two(scores.tolist()), decision)].sum()
    assert cost == pytest.approx(min(matrix[truth, (scores >= limit / 16).astype(int)].sum() for limit in range(18)))


def test_the_positive_may_be_the_first_label() -> None:
    scores, truth = np.linspace(0.01, 0.99, 60), np.repeat([0, 1], 30)
    shares = of_two(scores.tolist())
    flipped = choose_thresholds(shares[:, ::-1], 1 - truth, Decision(TWO[::-1]), Rule("cost", "fraud", COSTS))[0]
    assert flipped == Decision(
        TWO[::-1], thresholds=chosen(scores.tolist(), truth.tolist(), by="cost", costs=COSTS)[0].thresholds, by="cost"
    )


def test_calibrated_probabilities_get_the_threshold_of_elkan() -> None:
    generator = np.random.default_rng(3)
    scores = generator.random(20_000)
    truth = (generator.random(20_000) < scores).astype(int)
    decision, notes = chosen(scores.tolist(), truth.tolist(), by="cost", costs={"fraud": {"legit": 4.0}})
    assert elkan_threshold(cost_matrix({"fraud": {"legit": 4.0}}, TWO)) == pytest.approx(0.2)
    assert decision.thresholds["fraud"] == pytest.approx(0.2, abs=0.04)
    assert notes == []


def test_of_many_labels_the_one_of_the_least_expected_cost_is_decided() -> None:
    labels = ("a", "b", "c")
    costs = {"c": {"a": 10.0, "b": 10.0}}
    logits, truth = drawn(50, 3)
    decision, _ = choose_decision(logits, truth, labels, Rule("cost", costs=costs))
    assert decision.thresholds == {}
    assert decision.as_json()["costs"] == costs
    # expected cost of a: 0.4 + 10 * 0.1; of b 0.5 + 10 * 0.1; of c: 0.5 + 0.4
    assert decide(np.array([[0.5, 0.4, 0.1], [0.9, 0.08, 0.02]]), decision).tolist() == [2, 0]


def test_what_costs_cannot_mean_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"costs: 'theft' is no label of the corpus; expected one of 'legit', 'fraud'"):
        cost_matrix({"theft": {"legit": 1.0}}, TWO)
    with pytest.raises(ValueError, match=r"costs\.fraud\.legit is 1, less than costs\.fraud\.fraud, 3"):
        cost_matrix({"fraud": {"fraud": 3.0}}, TWO)
    with pytest.raises(ValueError, match=r"costs\.fraud\.legit is nan; expected a finite number"):
        cost_matrix({"fraud": {"legit": float("nan")}}, TWO)
    with pytest.raises(ValueError, match="expected `decide: f1`"):
        choose_thresholds(np.ones((1, 2)), np.ones((1, 2)), Decision(TWO), Rule("cost"))
    with pytest.raises(ValueError, match="needs two labels; found 3"):
        choose_thresholds(np.ones((1, 3)), np.array([0]), Decision(("a", "b", "c")), Rule("cost", "a"))


def test_a_threshold_decides_for_its_label_alone_and_the_likeliest_of_the_others_else() -> None:
    decision = Decision(("a", "b", "c"), thresholds={"c": 0.2}, by="f1")
    shares = np.array([[0.7, 0.1, 0.2], [0.6, 0.21, 0.19], [0.1, 0.75, 0.15], [0.0, 0.0, 1.0]])
    assert decide(shares, decision).tolist() == [2, 0, 1, 2]
    assert decide(np.array([[0.1, 0.4, 0.5]]), Decision(("a", "b", "c"), thresholds={"c": 0.9})).tolist() == [1]


def test_each_of_several_labels_has_a_threshold_and_a_row_may_have_none() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    shares = np.array([[0.9, 0.1, 0.3], [0.2, 0.3, 0.3], [0.8, 0.4, 0.3], [0.1, 0.05, 0.3]])
    decision, notes = choose_thresholds(shares, truth, Decision(("a", "b", "c")), Rule("f1"))
    assert decision.thresholds == {"a": pytest.approx(0.5), "b": pytest.approx(0.2), "c": 0.5}
    assert decide(shares, decision).tolist() == truth.tolist()
    assert "0 of 4 validation rows have the label 'c': no threshold can be chosen on them" in notes
    assert choose_thresholds(shares, truth, Decision(("a", "b", "c")), Rule("argmax"))[0].thresholds["b"] == 0.5


def test_a_decision_comes_back_from_its_task_json() -> None:
    decision = Decision(TWO, 1.3, {"fraud": 0.31}, "f1")
    task = json.loads(json.dumps({"task": "classify", "max_length": 128, **decision.as_json()}))
    assert set(task) == {"task", "max_length", "temperature", "thresholds", "by", "multi_label"}
    assert Decision.from_task(task, TWO) == decision
