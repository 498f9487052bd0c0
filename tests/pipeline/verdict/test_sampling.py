"""Chance draws clusters, not their rows, and within classes; what is said of either is as sure as it says."""

from dataclasses import replace

import numpy as np
import pytest

from bench.simulated_tasks import RankRows
from pipeline.evaluation.scores import Scores
from pipeline.verdict.class_rows import rows_to_tell
from pipeline.verdict.evidence import least_gain, sample_evidence
from pipeline.verdict.gains import shown_gain
from pipeline.verdict.improvement import improvement
from pipeline.verdict.sampling import Sample, collapsed, numbered, sample_of
from pipeline.verdict.stratified import bootstrap_ratios, moments
from tests.pipeline.verdict.comparisons import QUICK
from tests.pipeline.verdict.task_comparisons import compared


def test_names_are_numbered_in_the_order_in_which_they_first_occur() -> None:
    assert numbered(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


def test_rows_of_a_cluster_are_added_up_and_one_with_an_old_row_is_old() -> None:
    rows = RankRows(20, np.random.default_rng(1))
    comparison = replace(compared(rows, rows.outcome(), rows.outcome()), old_rows=51)
    sample = sample_of(comparison)
    assert len(sample.candidate.loss) == 20
    assert sample.candidate.tokens.tolist() == [10] * 20
    assert sample.candidate.loss.sum() == pytest.approx(comparison.candidate.scores.loss.sum())
    assert sample.old == 6  # queries 0 to 4, and the one of row 50
    assert [sample_of(replace(comparison, old_rows=old)).old for old in (None, 0, 200)] == [None, 0, 20]


def test_the_rows_that_are_asked_for_are_counted_in_clusters() -> None:
    rows = RankRows(5, np.random.default_rng(1))
    sentence = improvement(compared(rows, rows.outcome(1.0), rows.outcome()), QUICK).sentence
    assert "cannot tell a better model from chance: at least 6 are needed" in sentence


def test_as_rows_of_their_own_the_rows_of_a_query_would_err_too_often() -> None:
    random, rows = np.random.default_rng(2), RankRows(40, np.random.default_rng(1))
    equal = compared(rows, rows.outcome(), rows.outcome())
    wrong = np.zeros(2)
    for _ in range(300):
        gains = np.repeat(random.normal(0, 0.1, 40), 10) + random.normal(0, 0.1, 400)
        scores = equal.baseline.scores._replace(loss=equal.baseline.scores.loss - gains)
        comparison = replace(equal, candidate=replace(equal.candidate, scores=scores))
        for number, one in enumerate((comparison, replace(comparison, clusters=None))):
            wrong[number] += sample_evidence(sample_of(one), 0.05).all_rows.nats < 0
    assert wrong[0] <= 26  # 15 are expected; 27 or more have a chance of 1 in 300
    assert wrong[1] >= 45


def test_small_strata_are_one_with_the_smallest_other_one_if_need_be() -> None:
    strata = np.repeat([0, 1, 2, 3], [100, 20, 3, 4])
    assert np.bincount(collapsed(strata)).tolist() == [100, 20, 7]
    assert np.bincount(collapsed(np.repeat([0, 1, 2], [100, 20, 3]))).tolist() == [100, 23]
    assert collapsed(np.repeat([0, 1], [2, 2])).tolist() == [0, 0, 0, 0]


def test_of_one_stratum_the_moments_are_those_of_a_mean() -> None:
    values = np.random.default_rng(3).exponential(1, 50)
    error, freedom, _ = moments(values, np.zeros(50, dtype=np.int64))
    assert error == pytest.approx(values.std(ddof=1) * 50**0.5)
    assert freedom == pytest.approx(49)


def test_the_degrees_of_freedom_are_those_of_the_stratum_that_varies() -> None:
    random = np.random.default_rng(4)
    values = np.r_[0.001 * random.normal(0, 1, 1000), random.normal(0, 1, 12)]
    assert moments(values, np.repeat([0, 1], [1000, 12])).freedom == pytest.approx(11, abs=0.1)


def test_a_resample_within_strata_has_the_error_of_the_estimate_also_of_few_rows() -> None:
    random = np.random.default_rng(5)
    values, strata = random.normal(0, 1, 36), np.repeat(np.arange(6), 6)
    ratios = bootstrap_ratios(values, np.ones(36), strata, 20_000, seed=1)
    assert ratios.std() == pytest.approx(moments(values, strata).error / 36, rel=0.03)
    assert ratios.mean() == pytest.approx(values.mean(), abs=0.01)


def test_a_difference_between_classes_is_no_chance() -> None:
    random = np.random.default_rng(6)
    strata = np.repeat([0, 1], [200, 100])
    gains = np.where(strata == 0, 2.0, 1.0) + 0.1 * random.normal(0, 1, 300)
    weight = np.ones(300, dtype=np.int64)
    candidate, baseline = Scores(5 - gains, weight, weight), Scores(np.full(300, 5.0), weight, weight)
    within, all_rows = (shown_gain(Sample(candidate, baseline, one), QUICK, 1) for one in (strata, None))
    assert within.nats == pytest.approx(all_rows.nats)
    assert within.nats_high - within.nats_low < 0.3 * (all_rows.nats_high - all_rows.nats_low)


@pytest.mark.parametrize("rare", [17, 40])
def test_with_few_rows_of_a_class_it_is_wrong_no_more_often_than_it_says(rare: int) -> None:
    random = np.random.default_rng(7)
    strata = np.repeat([0, 1], [400, rare])
    weight = np.ones(len(strata), dtype=np.int64)
    wrong = 0
    for _ in range(2000):
        gains = np.where(strata == 1, 0.6, 0.05) * random.normal(0, 1, len(strata))
        wrong += (
            least_gain(Scores(5 - gains, weight, weight), Scores(0 * gains + 5, weight, weight), 0.01, strata).nats < 0
        )
    assert wrong <= 33  # 20 are expected; 34 or more have a chance of 1 in 300


def test_new_rows_with_too_few_of_a_class_decide_nothing() -> None:
    random = np.random.default_rng(8)
    strata = np.r_[np.repeat([0, 1], [400, 100]), np.repeat([0, 1], [300, 10])]
    weight = np.ones(len(strata), dtype=np.int64)
    gains = 0.5 + random.normal(0, 0.1, len(strata))
    sample = Sample(Scores(5 - gains, weight, weight), Scores(0 * gains + 5, weight, weight), strata, old=500)
    assert sample_evidence(sample, 0.025).new_rows is None
    assert sample_evidence(replace(sample, strata=None), 0.025).new_rows is not None


def test_half_of_a_class_lost_is_seen_four_times_in_five_on_as_many_rows_as_are_asked_for() -> None:
    random = np.random.default_rng(9)
    for alpha in (0.0125, 0.05 / 120):
        rows = rows_to_tell(alpha)
        seen = [np.mean(0.5 ** random.binomial(count, 0.5, 20_000) <= alpha) for count in (rows, rows - 1)]
        assert seen[0] >= 0.79
        assert seen[1] < 0.81
