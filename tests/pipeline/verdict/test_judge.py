"""Equal models are not promoted, better ones are, and the sentence says by how much and what would change it."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from bench.simulated_scores import BANKING77, TALES
from pipeline.evaluation.scores import Scores
from pipeline.verdict.challenges import Challenge
from pipeline.verdict.judge import judge, unchanged
from pipeline.verdict.records import Comparison
from pipeline.verdict.wording import percent
from tests.pipeline.verdict.comparisons import (
    CONFIG,
    GAIN_OF_2_PERCENT,
    QUICK,
    compared,
    judged,
    metrics,
    noisy_scores,
    scores,
)


@pytest.mark.integration
@pytest.mark.parametrize("tokens", [TALES, BANKING77], ids=["tales", "banking77"])
@pytest.mark.parametrize("rows", [12, 30, 230])
def test_of_200_pairs_of_equal_models_at_most_5_percent_are_promoted(rows: int, tokens: tuple[float, float]) -> None:
    random = np.random.default_rng(20)
    promoted = sum(judged(compared(scores(rows, 0.0, random, tokens))).promoted for _ in range(200))
    assert promoted <= 10


@pytest.mark.integration
@pytest.mark.parametrize("tokens", [TALES, BANKING77], ids=["tales", "banking77"])
def test_of_200_candidates_with_a_true_gain_of_2_percent_on_2000_rows_90_percent_are_promoted(
    tokens: tuple[float, float],
) -> None:
    random = np.random.default_rng(21)
    config = CONFIG.model_copy(update={"resamples": 100})
    pairs = (scores(2000, GAIN_OF_2_PERCENT, random, tokens) for _ in range(200))
    assert sum(judged(compared(pair), config).promoted for pair in pairs) >= 180


def test_a_gain_beyond_noise_is_promoted_and_stated_with_its_interval_and_rows() -> None:
    verdict = judged()
    assert verdict.promoted
    assert verdict.difference is not None
    gain, low, high, least = (percent(float(verdict.difference[key] or 0)) for key in ("gain", "low", "high", "least"))
    assert verdict.reasons == [
        f"Better than the champion: perplexity falls by {gain} (95 % interval {low} to {high} on 2,000 test rows), by"
        f" at least {least} with 97.5 % confidence.",
        "It keeps to every bound: likeness, copied, membership, repetition, loops, forgetting, size, latency,"
        " rolled_back.",
    ]


def test_a_gain_that_may_be_chance_is_refused_with_the_rows_that_would_show_it() -> None:
    verdict = judged(compared(noisy_scores()))
    assert not verdict.promoted
    assert verdict.difference is not None
    gain, low, high, least = (float(verdict.difference[key] or 0) for key in ("gain", "low", "high", "least"))
    assert least < 0 < gain
    (reason,) = verdict.reasons
    assert reason.startswith(
        f"Better by {percent(gain)} than the champion (95 % interval {percent(low)} to {percent(high)} on 178 test"
        f" rows), but this may be chance: it must show a gain above 0 with 97.5 % confidence, and shows one above"
        f" {percent(least)}. About "
    )
    assert " test rows would show such a gain; about " in reason
    assert reason.endswith(" would show a true gain of 2 % four times in five.")


def test_with_as_many_rows_as_it_says_the_same_gain_is_beyond_chance() -> None:
    pair = noisy_scores()
    reason = judged(compared(pair)).reasons[0]
    rows = int(reason.split("About ")[1].split()[0].replace(",", ""))
    times = math.ceil(rows / 178)
    for repeats, promoted in ((times, True), (max(1, times // 2), False)):
        candidate, baseline = (Scores(*(np.tile(values, repeats) for values in score)) for score in pair)
        assert judged(compared((candidate, baseline))).promoted is promoted


def test_with_more_gain_than_it_says_the_same_rows_show_it() -> None:
    candidate, baseline = noisy_scores()
    verdict = judged(compared((candidate, baseline)))
    match = re.search(r"or more than ([0-9.]+) % on 178 test rows", verdict.counterfactuals[0])
    assert match is not None
    assert verdict.difference is not None
    for gain, promoted in ((float(match[1]) / 100 + 0.0006, True), (float(match[1]) / 100 - 0.0006, False)):
        shift = math.log1p(-float(verdict.difference["gain"] or 0)) - math.log1p(-gain)
        shifted = candidate._replace(loss=candidate.loss - shift * candidate.tokens)
        assert judged(compared((shifted, baseline))).promoted is promoted


@pytest.mark.parametrize(
    ("gain", "beginning"),
    [
        (-0.05, "Worse than the champion: perplexity rises by "),
        (0.0, "Not better than the champion: perplexity "),
    ],
)
def test_a_candidate_that_is_no_better_is_refused(gain: float, beginning: str) -> None:
    candidate, baseline = scores(200, gain, np.random.default_rng(3))
    if gain == 0.0:  # by luck neither better nor worse
        candidate = candidate._replace(loss=candidate.loss * baseline.loss.sum() / candidate.loss.sum() + 1e-6)
    verdict = judged(compared((candidate, baseline)))
    assert not verdict.promoted
    assert verdict.reasons[0].startswith(beginning)
    if gain < 0:  # stated as a rise, and so is its interval
        assert "interval -" not in verdict.reasons[0]


def test_min_gain_asks_for_more_than_any_gain() -> None:
    config = QUICK.model_copy(update={"min_gain": 0.03})
    verdict = judged(config=config)
    assert not verdict.promoted
    assert "not by more than 3.0 %, the least that promote.min_gain asks for" in verdict.reasons[0]
    assert judged(compared(scores(2000, 0.05, np.random.default_rng(1))), config).promoted


def test_fewer_rows_than_could_show_anything_are_never_enough() -> None:
    verdict = judged(compared(scores(5, 1.0, np.random.default_rng(1))))
    assert not verdict.promoted
    assert verdict.reasons == [
        "5 test rows cannot tell a better model from chance: at least 6 are needed for 97.5 % confidence."
    ]
    assert judged(compared(scores(6, 1.0, np.random.default_rng(1)))).promoted


@pytest.mark.parametrize("worse", [0.1, 1.0, 3.0, 800.0], ids="{} nats per token".format)
def test_the_gain_that_would_do_is_possible_however_bad_this_model_is(worse: float) -> None:
    random = np.random.default_rng(0)
    tokens = np.full(46, 80)
    champion = random.normal(2.4, 0.4, 46) * tokens
    candidate = champion + (worse + random.normal(0, 0.4, 46)) * tokens
    verdict = judged(compared((Scores(candidate, tokens, 4 * tokens), Scores(champion, tokens, 4 * tokens))))
    assert not verdict.promoted
    change = "perplexity rises by" if worse < 2 else "perplexity is "
    assert verdict.comparison.startswith(f"Worse than the champion: {change}")
    assert len(verdict.comparison) < 200  # a rise of e ** 700 has 300 digits
    match = re.search(r"A gain of more than ([0-9.]+) % on 46 test rows would have been", verdict.counterfactuals[0])
    assert match is not None
    assert 5 < float(match[1]) < 20  # the interval of these 46 rows reaches some 0.12 nats to each side


def test_a_loss_that_is_not_a_number_is_never_better() -> None:
    candidate, baseline = scores(200, 1.0, np.random.default_rng(1))
    candidate.loss[7] = math.nan
    verdict = judged(compared((candidate, baseline)))
    assert not verdict.promoted
    assert "is not a number" in verdict.reasons[0]


# Challenges: how sure the gain must be


def challenge(number: int, alpha: float) -> Challenge:
    return Challenge(number, alpha, spent=0.01, budget=0.05)


def test_a_nightly_challenge_must_be_surer_than_a_rare_one() -> None:
    comparison = compared(scores(200, 0.02, np.random.default_rng(3)))
    rare, nightly = (judge(comparison, QUICK, challenge=challenge(*one)) for one in ((1, 0.025), (7, 0.05 / 120)))
    assert rare.promoted
    assert "with 97.5 % confidence (challenge 1 in 90 days)." in rare.reasons[0]
    assert not nightly.promoted
    assert (
        "challenge 7 in 90 days must show a gain above 0 with 99.958 % confidence, and shows one above -"
        in (nightly.reasons[0])
    )
    assert nightly.challenge == challenge(7, 0.05 / 120)


def test_a_gain_beyond_doubt_passes_however_little_is_left_to_spend() -> None:
    comparison = compared(scores(200, 0.1, np.random.default_rng(3)))
    assert judge(comparison, QUICK, challenge=challenge(400, 1e-12)).promoted


def test_too_few_rows_for_the_confidence_that_is_asked_for_spend_nothing() -> None:
    verdict = judge(compared(scores(8, 1.0, np.random.default_rng(1))), QUICK, challenge=challenge(7, 0.05 / 120))
    assert verdict.reasons == [
        "8 test rows cannot tell a better model from chance: at least 12 are needed for 99.958 % confidence"
        " (challenge 7 in 90 days)."
    ]
    assert verdict.challenge is None


# A champion that was chosen for its luck


def lucky_champion(new_rows: int) -> Comparison:
    """Return a candidate that is 3 % better, where the champion was lucky on the 300 rows that it was chosen on."""
    random = np.random.default_rng(11)
    candidate, champion = (
        Scores(*map(np.concatenate, zip(*parts, strict=True)))
        for parts in zip(scores(300, -0.002, random), scores(new_rows, 0.03, random), strict=True)
    )
    return replace(compared((candidate, champion)), old_rows=300)


def test_a_lucky_champion_is_replaced_once_new_rows_show_that_another_is_better() -> None:
    comparison = lucky_champion(new_rows=200)
    nightly = challenge(7, 0.05 / 120)
    assert not judge(replace(comparison, old_rows=None), QUICK, challenge=nightly).promoted
    verdict = judge(comparison, QUICK, challenge=nightly)
    assert verdict.promoted
    assert verdict.reasons[0].startswith(
        "Better than the champion on rows that did not choose it: perplexity falls by "
    )
    assert "On the 200 test rows that are new since the champion was chosen" in verdict.reasons[0]
    assert verdict.difference is not None
    assert float(verdict.difference["new_least"] or 0) > 0 > float(verdict.difference["least"] or 0)


def test_a_few_new_rows_decide_nothing() -> None:
    verdict = judge(lucky_champion(new_rows=12), QUICK, challenge=challenge(7, 0.05 / 120))
    assert not verdict.promoted
    assert "new since" not in verdict.reasons[0]


def test_with_different_tokenizers_bits_per_byte_are_compared() -> None:
    candidate, baseline = scores(500, 0.1, np.random.default_rng(1))
    split_finer = baseline._replace(tokens=2 * baseline.tokens)  # the same loss on the same bytes in more tokens
    verdict = judged(compared((candidate, split_finer), bits_per_byte=1.25))
    assert verdict.promoted
    assert "The tokenizers differ, so bits per byte are compared: 1.250 against 1.300." in verdict.reasons[0]
    worse = judged(compared((split_finer._replace(loss=1.01 * baseline.loss), baseline), bits_per_byte=1.313))
    assert not worse.promoted  # though a token of it is likelier


def test_the_first_model_ever_is_compared_with_the_base() -> None:
    verdict = judged(against="base")
    assert verdict.champion is None
    assert verdict.against == "base"
    assert verdict.reasons[0].startswith("Better than the base: ")


def test_a_large_fall_reads_as_a_factor_with_bits_per_byte() -> None:
    pair = scores(400, 6.3, np.random.default_rng(1))  # 545 times
    reason = judged(compared(pair, bits_per_byte=1.1)).reasons[0]
    pattern = (
        r"Better than the champion: perplexity is 5\d\d times lower \(95 % interval 5\d\d times to 5\d\d times on 400"
        r" test rows\), bits per byte go from 1\.30 to 1\.10, by at least 5\d\d times with .* confidence\."
    )
    assert re.fullmatch(pattern, reason), reason


def test_an_interval_of_a_gain_reads_like_none_of_its_ends() -> None:
    pair = scores(2000, 0.03, np.random.default_rng(1), noise=0.001)
    reason = judged(compared(pair)).reasons[0]
    gain, low, high = re.findall(r"(\d+\.\d+) %", reason)[:3]
    assert float(low) < float(gain) < float(high)


def test_a_forced_verdict_keeps_what_speaks_against_it() -> None:
    comparison = compared(noisy_scores())
    verdict = judged(comparison, forced="the champion is on fire")
    assert verdict.promoted
    assert verdict.forced == "the champion is on fire"
    assert verdict.reasons == judged(comparison).reasons


def test_force_is_not_recorded_where_the_verdict_is_yes() -> None:
    assert judged(forced="to be sure").forced is None


def test_the_champion_itself_is_not_promoted() -> None:
    verdict = unchanged(metrics())
    assert not verdict.promoted
    assert verdict.reasons == ["The candidate already is the champion: both are version 0123456789ab."]


def test_equal_figures_give_an_equal_verdict() -> None:
    comparison = compared(noisy_scores())
    assert judged(comparison) == judged(replace(comparison))
