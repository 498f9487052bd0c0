"""What is said to be sure of a gain is as sure as it says, also far out and for skewed losses."""

import math

import numpy as np
import pytest
from scipy import stats

from bench.simulated_scores import BANKING77, TALES
from pipeline.evaluation.scores import Scores
from pipeline.verdict.evidence import evidence, least_gain
from tests.pipeline.verdict.comparisons import scores

NIGHTLY = 0.05 / 120


def of_gains(gains: np.ndarray) -> tuple[Scores, Scores]:
    """Return scores of rows of 100 tokens by a candidate with these gains, in nats per token, and its baseline."""
    tokens = np.full(len(gains), 100)
    return Scores(400.0 - 100 * gains, tokens, 4 * tokens), Scores(np.full(len(gains), 400.0), tokens, 4 * tokens)


def false_share(skew: float, rows: int, alpha: float, draws: int) -> float:
    """Return how often a gain is said to be sure of models that are equal, whose gains have this skewness."""
    random = np.random.default_rng(11)
    shape = (2 / skew) ** 2
    gains = math.copysign(0.05, skew) * (random.gamma(shape, 1, (draws, rows)) - shape) / math.sqrt(shape)
    return sum(least_gain(*of_gains(one), alpha).nats < 0 for one in gains) / draws


def test_of_symmetric_losses_it_is_students_bound() -> None:
    gains = np.concatenate([np.linspace(-0.03, 0.05, 41)])
    bound = least_gain(*of_gains(gains), NIGHTLY)
    student = stats.ttest_1samp(gains, 0).confidence_interval(1 - 2 * NIGHTLY).low
    assert -bound.nats == pytest.approx(student)
    assert bound.estimate == pytest.approx(-math.expm1(-gains.mean()))


def test_losses_skewed_against_the_candidate_need_more_and_others_no_less_than_students() -> None:
    gains = np.random.default_rng(3).exponential(0.02, 60)
    for one, more in ((0.1 - gains, True), (gains - 0.1, False)):
        student = stats.ttest_1samp(one, 0).confidence_interval(1 - 2 * NIGHTLY).low
        bound = -least_gain(*of_gains(one), NIGHTLY).nats
        assert bound < student - 1e-4 if more else bound == pytest.approx(student)


@pytest.mark.parametrize("tokens", [TALES, BANKING77], ids=["tales", "banking77"])
@pytest.mark.parametrize("rows", [12, 100])
def test_with_the_measured_noise_it_is_wrong_no_more_often_than_it_says(rows: int, tokens: tuple[float, float]) -> None:
    random = np.random.default_rng(5)
    wrong = sum(least_gain(*scores(rows, 0.0, random, tokens), 0.01).nats < 0 for _ in range(3000))
    assert wrong <= 45  # 30 are expected; 46 or more have a chance of 1 in 300


def test_where_few_rows_are_far_worse_it_is_wrong_less_often_than_student() -> None:
    assert false_share(-2, 60, 0.005, 2000) <= 0.012  # Student's bound: 0.03
    assert false_share(2, 60, 0.005, 2000) <= 0.005


def test_new_rows_have_a_fifth_of_alpha_and_all_rows_the_rest() -> None:
    pair = scores(200, 0.02, np.random.default_rng(1))
    both = evidence(*pair, NIGHTLY, old_rows=150)
    assert both.new_rows is not None
    assert both.new_rows.rows == 50
    assert both.new_rows.alpha == pytest.approx(0.2 * NIGHTLY)
    assert both.all_rows.alpha + both.new_rows.alpha == pytest.approx(NIGHTLY)
    for old_rows in (None, 0, 190, 200):
        alone = evidence(*pair, NIGHTLY, old_rows)
        assert (alone.new_rows, alone.all_rows.alpha) == (None, NIGHTLY)


def test_losses_all_alike_are_no_chance_and_no_error() -> None:
    bound = least_gain(*of_gains(np.full(20, 0.01)), NIGHTLY)
    assert bound.gain == pytest.approx(-math.expm1(-0.01), abs=1e-6)
