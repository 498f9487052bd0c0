"""Challenges of the champion spend a budget of false promotions, by when they were made."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.registry.history import Entry
from pipeline.verdict.challenges import DAYS, Challenge, next_challenge

BUDGET = 0.05
START = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)


def at(day: float) -> str:
    return (START + timedelta(days=day)).isoformat(timespec="seconds")


def entry(day: float, action: Any = "refuse", *, champion: str | None = "texts:a", **figures: float | None) -> Entry:
    return Entry(1, at(day), "ada", action, champion, "texts:b", "why", dict(figures))


def spend(days: list[float], action: Any = "refuse") -> list[Challenge]:
    """Return the challenges of these days, each recorded as promote records it."""
    history, challenges = [entry(-1, "promote", champion=None, alpha=None)], []
    for day in days:
        challenges.append(next_challenge(history, BUDGET, at(day)))
        history.append(entry(day, action, alpha=challenges[-1].alpha))
    return challenges


def test_nightly_challenges_have_a_ninetieth_each_and_weekly_ones_seven() -> None:
    assert [one.alpha for one in spend([float(day) for day in range(88)])] == pytest.approx([BUDGET / 90] * 88)
    assert [one.alpha for one in spend([7.0 * week for week in range(12)])][1:10] == pytest.approx(
        [7 * BUDGET / 90] * 9
    )
    assert spend([0.0, 1.0, 2.0])[-1].number == 3


def test_a_challenge_a_quarter_is_as_sure_as_one_by_itself() -> None:
    assert spend([200.0])[0].alpha == pytest.approx(0.025)


@pytest.mark.parametrize(
    "days",
    [
        [float(day) for day in range(400)],
        [day + (day % 3) / 1000 for day in range(400)],  # the scheduler is late at times
        [day / 10 for day in range(1000)],
        [10 * (day // 5) + day % 5 for day in range(300)],
    ],
    ids=["nightly", "jitter", "ten a day", "in bursts"],
)
def test_no_90_days_ever_spend_more_than_the_budget(days: list[float]) -> None:
    challenges = spend(days)
    times = [datetime.fromisoformat(at(day)) for day in days]
    for last in range(len(days)):
        ages = [times[last] - time for time in times[: last + 1]]
        recent = [one.alpha for age, one in zip(ages, challenges, strict=False) if age < timedelta(days=DAYS)]
        assert sum(recent) <= BUDGET * (1 + 1e-6)
    assert all(one.alpha > 0 for one in challenges)


def test_nightly_challenges_never_run_dry() -> None:
    alphas = [one.alpha for one in spend([float(day) for day in range(400)])]
    assert min(alphas) >= BUDGET / 90 / 2
    assert sum(alphas[-90:]) == pytest.approx(BUDGET, rel=0.05)


def test_ten_tries_in_an_afternoon_have_a_ninetieth_each() -> None:
    tries = spend([50 + minute / 1440 for minute in range(10)])
    assert [one.alpha for one in tries[1:]] == pytest.approx([BUDGET / 90] * 9)


def test_what_was_spent_longer_ago_is_free_again() -> None:
    history = [entry(day, alpha=0.01) for day in range(5)]
    assert next_challenge(history, BUDGET, at(20)).spent == pytest.approx(0.05)
    assert next_challenge(history, BUDGET, at(20)).alpha < 1e-9
    assert next_challenge(history, BUDGET, at(93)).spent == pytest.approx(0.01)


def test_a_first_model_a_forced_one_a_rollback_and_a_deletion_spend_nothing() -> None:
    history = [
        entry(0, "promote", champion=None, alpha=None),
        entry(1, "force", alpha=None),
        entry(2, "rollback"),
        entry(3, "delete"),
        entry(4, "refuse", alpha=None),  # too few test rows
    ]
    assert next_challenge(history, BUDGET, at(5)) == Challenge(1, pytest.approx(BUDGET * 5 / 90), 0, BUDGET)


def test_entries_from_before_there_was_a_budget_count_as_nightly_ones() -> None:
    history = [entry(day, "refuse", gain=0.01) for day in range(30)]
    assert next_challenge(history, BUDGET, at(30)).spent == pytest.approx(BUDGET / 3)
    assert next_challenge(history, BUDGET, at(30)).number == 31


def test_a_budget_lowered_below_what_is_spent_leaves_a_gain_beyond_doubt_its_chance() -> None:
    assert 0 < next_challenge([entry(0, alpha=0.04)], 0.01, at(1)).alpha < 1e-9


def test_a_clock_that_was_put_back_breaks_nothing() -> None:
    assert next_challenge([entry(3, alpha=0.0001)], BUDGET, at(1)).alpha == pytest.approx(BUDGET / 90)
