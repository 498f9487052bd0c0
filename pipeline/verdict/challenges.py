"""How sure a challenge of the champion must be: a budget of false promotions, spent challenge by challenge.

Each challenge is another chance of promoting a model that is not better: at one-sided 2.5 %, 90 nights do it in one
quarter of three (`bench.verdict`). The error rates (alphas) of all challenges in any 90 days therefore add up to
promote.false_promotions at most, and by the union bound (Bonferroni 1936; Dunn 1961, JASA 56) so does the chance that
any of them is false, however much the nights depend on each other: they share test rows. An alpha depends on when
challenges were made, never on what came of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pipeline.registry.history import MOVES, Entry

DAYS = 90  # over which the budget is spent
_SAVED = 0.25  # of the budget: the most that the credit grows to
_SECONDS_PER_DAY = 86_400
_LEAST = 1e-12  # the smallest alpha, so that a gain beyond any doubt passes even after a hundred tries in an hour


@dataclass(frozen=True)
class Challenge:
    """One comparison of a candidate with the champion, and what it may spend."""

    number: int  # among those of the last `days`, this one included
    alpha: float  # chance of promoting a candidate that is not better: one-sided
    spent: float  # by the others
    budget: float  # promote.false_promotions
    days: int = DAYS


def next_challenge(history: Iterable[Entry], budget: float, at: str) -> Challenge:
    """Return what a challenge at the time `at` may spend, given the registry's history.

    A credit grows day by day, up to a quarter of the budget, and each challenge takes half of it. Whatever the rhythm,
    90 days can spend no more than the credit at their beginning and what it grows by: the budget. Nightly challenges
    have what a day brings, weekly ones seven times that. Of several within a day each has half of what the one before
    had, and they leave the days after them enough: a budget that could be spent in a week would stop all promotions for
    the rest of the quarter.
    """
    entries = list(history)
    challenges = [entry for entry in entries if _is_challenge(entry)]
    recent = [entry for entry in challenges if _days(entry.at, at) < DAYS]
    first = next((entry for entry in entries if entry.action in MOVES), None)
    credit = _credit(challenges, budget, since=first.at if first else at, at=at)
    return Challenge(
        number=len(recent) + 1,
        alpha=max(credit / 2, _LEAST),
        spent=sum(_spent(entry, budget) for entry in recent),
        budget=budget,
    )


def daily(budget: float) -> float:
    """Return what the credit grows by in a day, and a nightly challenge spends."""
    return budget * (1 - _SAVED) / DAYS


def _credit(challenges: Iterable[Entry], budget: float, since: str, at: str) -> float:
    """Return the credit at the time `at`; when the first champion came, it was a day's."""
    credit, last = daily(budget), since
    for entry in challenges:
        credit = _grown(credit, budget, last, entry.at)
        credit, last = max(0.0, credit - _spent(entry, budget)), entry.at
    return _grown(credit, budget, last, at)


def _grown(credit: float, budget: float, last: str, at: str) -> float:
    return min(_SAVED * budget, credit + daily(budget) * _days(last, at))


def _is_challenge(entry: Entry) -> bool:
    """Return whether a candidate was compared with a champion, and the comparison decided."""
    return (
        entry.action in ("promote", "refuse") and entry.from_ is not None and entry.figures.get("alpha", 1) is not None
    )


def _spent(entry: Entry, budget: float) -> float:
    """Return an entry's alpha; those from before there was a budget count as nightly ones."""
    alpha = entry.figures.get("alpha")
    return alpha if isinstance(alpha, float) else daily(budget)


def _days(start: str, end: str) -> float:
    """Return the days between two times, ISO 8601; 0 where a clock was put back."""
    passed = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return max(0.0, passed.total_seconds() / _SECONDS_PER_DAY)
