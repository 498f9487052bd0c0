"""Challenges of the champion spend a budget of false promotions, by when they were made."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.registry.history import Entry
from pipeline.verdict.challenges import DAYS, Challenge, next_challenge

BUDGET = 0.05
DAILY = BUDGET / 120
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


def test_nightly_challenges_have_a_day_of_credit_each_and_weekly_ones_seven() -> None:
    assert [one.alpha for one in spend([float(day) for day in range(400)])] == pytest.approx([DAILY] * 400)
    weekly = [one.alpha for one in spend([7.0 * week for week in range(40)])]
    assert weekly[10:] == pytest.approx([7 * DAILY] * 30, rel=0.05)
    assert spend([0.0, 1.0, 2.0])[-1].number == 3


def test_a_challenge_a_month_or_more_rarely_has_an_eighth_of_the_budget() -> None:
    assert [one.alpha for one in spend([200.0, 230.0, 400.0])] == pytest.approx([BUDGET / 8] * 3)


@pytest.mark.parametrize(
    "days",
    [
        [float(day) for day in range(400)],
        [day + (day % 3) / 1000 for day in range(400)],  # the scheduler is late at times
        [day / 10 for day in range(1000)],
        [10 * (day // 5) + day % 5 for day in range(300)],
        [200.0 + day for day in range(200)],
    ],
    ids=["nightly", "jitter", "ten a day", "in bursts", "nightly after a rest"],
)
def test_no_90_days_ever_spend_more_than_the_budget(days: list[float]) -> None:
    challenges = spend(days)
    times = [datetime.fromisoformat(at(day)) for day in days]
    for last in range(len(days)):
        ages = [times[last] - time for time in times[: last + 1]]
        recent = [one.alpha for age, one in zip(ages, challenges, strict=False) if age < timedelta(days=DAYS)]
        assert sum(recent) <= BUDGET * (1 + 1e-6)
    assert all(one.alpha > 0 for one in challenges)


def test_of_ten_tries_in_an_afternoon_each_has_half_of_the_one_before_and_the_next_nights_hardly_less() -> None:
    nights = [float(day) for day in range(50)]
    afternoon = [49.5 + minute / 1440 for minute in range(10)]
    alphas = [one.alpha for one in spend([*nights, *afternoon, *(50.0 + day for day in range(5))])]
    assert alphas[51:60] == pytest.approx([alpha / 2 for alpha in alphas[50:59]], rel=0.5)
    assert alphas[59] < DAILY / 100
    assert alphas[-1] == pytest.approx(DAILY, rel=0.05)


def test_however_often_the_champion_is_challenged_the_budget_never_runs_dry() -> None:
    alphas = [one.alpha for one in spend([day / 10 for day in range(1000)])]
    assert min(alphas) >= DAILY / 10 * 0.99
    assert sum(alphas[-900:]) == pytest.approx(90 * DAILY, rel=0.05)


def test_only_the_last_90_days_count() -> None:
    history = [entry(day, alpha=0.01) for day in range(5)]
    assert next_challenge(history, BUDGET, at(20)).spent == pytest.approx(0.05)
    assert next_challenge(history, BUDGET, at(93)).spent == pytest.approx(0.01)


def test_a_first_model_a_forced_one_a_rollback_and_a_deletion_spend_nothing() -> None:
    history = [
        entry(0, "promote", champion=None, alpha=None),
        entry(1, "force", alpha=None),
        entry(2, "rollback"),
        entry(3, "delete"),
        entry(4, "refuse", alpha=None),  # too few test rows
    ]
    assert next_challenge(history, BUDGET, at(5)) == Challenge(1, pytest.approx(6 * DAILY / 2), 0, BUDGET)


def test_entries_from_before_there_was_a_budget_count_as_nightly_ones() -> None:
    history = [entry(-1, "promote", champion=None), *(entry(day, gain=0.01) for day in range(30))]
    assert next_challenge(history, BUDGET, at(30)).spent == pytest.approx(30 * DAILY)
    assert next_challenge(history, BUDGET, at(30)).alpha == pytest.approx(DAILY)
    assert next_challenge(history, BUDGET, at(30)).number == 31


def test_a_budget_that_is_lowered_binds_at_once() -> None:
    history = [entry(-1, "promote", champion=None), entry(0, alpha=0.04)]
    assert next_challenge(history, 0.01, at(1)).alpha == pytest.approx(0.01 / 120 / 2)


def test_a_clock_that_was_put_back_breaks_nothing() -> None:
    history = [entry(3, "promote", champion=None), entry(4, alpha=0.0001)]
    assert 0 < next_challenge(history, BUDGET, at(1)).alpha < DAILY
