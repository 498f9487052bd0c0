"""An interval covers the truth as often as it says, and a difference on the same rows is seen through their noise."""

import math

import numpy as np
import pytest

from pipeline.evaluation import bootstrap
from pipeline.evaluation.bootstrap import bootstrap_ratios, interval, paired_gain
from pipeline.evaluation.scores import Scores


def scores(rows: int, seed: int, gain: float = 0.0, noise: float = 0.05) -> tuple[Scores, Scores]:
    """Return scores of a candidate whose perplexity is truly lower by a share of `gain`, and of its baseline."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(20, 60, rows)
    hardness = generator.gamma(9, 3 / 9, rows)  # 3 nats a token in the mean, the same for both
    losses = [tokens * (hardness + generator.normal(shift, noise, rows)) for shift in (math.log1p(-gain), 0.0)]
    candidate, baseline = (Scores(loss, tokens, 4 * tokens) for loss in losses)
    return candidate, baseline


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        tokens = generator.integers(20, 60, 200)
        loss = tokens * generator.gamma(9, 3 / 9, 200)  # 3 nats a token in the mean
        low, high = interval(bootstrap_ratios(loss, tokens, 400, seed), 0.95)
        covered += low <= 3 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_resampling_is_that_of_drawing_rows_one_by_one() -> None:
    generator = np.random.default_rng(1)
    loss, tokens = generator.gamma(9, 1, 30), generator.integers(1, 9, 30)
    drawn = generator.integers(0, 30, (20_000, 30))
    by_hand = loss[drawn].sum(1) / tokens[drawn].sum(1)
    result = bootstrap_ratios(loss, tokens, 20_000, 2)
    assert result.mean() == pytest.approx(by_hand.mean(), rel=5e-3)
    assert result.std() == pytest.approx(by_hand.std(), rel=3e-2)
    assert interval(result, 0.9) == pytest.approx(interval(by_hand, 0.9), rel=1e-2)


def test_the_same_seed_gives_the_same_figures_however_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, tokens = np.arange(1.0, 8), np.arange(2, 9)
    at_once = bootstrap_ratios(loss, tokens, 100, 3)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 20)  # two at a time
    assert bootstrap_ratios(loss, tokens, 100, 3) == pytest.approx(at_once, rel=1e-14)
    assert not np.allclose(bootstrap_ratios(loss, tokens, 100, 4), at_once)


def test_rows_without_a_token_change_nothing_and_are_never_divided_by() -> None:
    loss, tokens = np.array([0.0, 3.0, 0.0]), np.array([0, 2, 0])
    assert bootstrap_ratios(loss, tokens, 50, 1).tolist() == [1.5] * 50


@pytest.mark.parametrize(("loss", "tokens"), [([], []), ([0.0], [0]), ([1.0, 1.0], [1, 0]), ([1.0, 1.0], [1, -1])])
def test_a_ratio_that_has_no_meaning_is_refused(loss: list[float], tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="a ratio needs rows with a denominator above 0"):
        bootstrap_ratios(np.array(loss), np.array(tokens), 10, 1)


def test_the_gain_is_the_share_by_which_perplexity_falls() -> None:
    candidate, baseline = scores(500, seed=5, gain=0.02)
    result = paired_gain(candidate, baseline, 500, 0.95, 1)
    tokens = candidate.tokens.sum()
    lower, upper = (math.exp(part.loss.sum() / tokens) for part in (candidate, baseline))
    assert result.gain == pytest.approx(1 - lower / upper)
    assert result.nats == pytest.approx(math.log(lower / upper))
    assert (result.low, result.high) == pytest.approx((1 - math.exp(result.nats_high), 1 - math.exp(result.nats_low)))
    assert result.nats_low < result.nats < result.nats_high
    assert (result.rows, result.tokens) == (500, tokens)


def test_the_interval_of_the_gain_is_that_of_the_differences_row_by_row() -> None:
    candidate, baseline = scores(400, seed=6, gain=0.01)
    result = paired_gain(candidate, baseline, 4000, 0.95, 1)
    # The delta method's error of a ratio of sums (Cochran 1977, section 6.3), by hand.
    rest = candidate.loss - baseline.loss - result.nats * candidate.tokens
    error = math.sqrt((rest**2).sum()) / candidate.tokens.sum()
    assert (result.nats_low, result.nats_high) == pytest.approx(
        (result.nats - 1.96 * error, result.nats + 1.96 * error), abs=0.1 * error
    )
    alone = interval(bootstrap_ratios(candidate.loss, candidate.tokens, 1000, 1), 0.95)
    assert result.nats_high - result.nats_low < (alone[1] - alone[0]) / 5  # what is hard for both drops out


def test_equal_models_gain_nothing_and_models_equal_but_for_noise_seldom_seem_to() -> None:
    candidate, _ = scores(100, seed=7)
    same = paired_gain(candidate, candidate, 200, 0.95, 1)
    assert (same.low, same.gain, same.high) == (0, 0, 0)
    result = [paired_gain(*scores(200, seed), 400, 0.95, seed) for seed in range(200)]
    assert 0.90 <= sum(one.low <= 0 <= one.high for one in result) / 200 <= 0.99
    assert sum(one.low > 0 for one in result) / 200 <= 0.05


def test_a_true_gain_is_seen() -> None:
    result = [paired_gain(*scores(200, seed, gain=0.02), 400, 0.95, seed) for seed in range(50)]
    assert sum(one.low > 0 for one in result) >= 45
    assert np.mean([one.gain for one in result]) == pytest.approx(0.02, abs=0.002)


def test_a_candidate_ruined_beyond_floats_loses_by_a_finite_share() -> None:
    tokens = np.full(20, 10)
    ruined, baseline = (Scores(np.full(20, loss) * tokens, tokens, tokens) for loss in (5000.0, 3.0))
    result = paired_gain(ruined, baseline, 100, 0.95, 1)
    assert -math.inf < result.gain == result.low == result.high < -1e300
    assert result.nats == pytest.approx(4997)


def test_scores_of_other_texts_are_refused() -> None:
    candidate, _ = scores(20, seed=8)
    fewer, _ = scores(19, seed=8)
    with pytest.raises(ValueError, match="scores of different texts: 20 and 19 rows"):
        paired_gain(candidate, fewer, 100, 0.95, 1)
