"""How sure a challenge of the champion must be: a budget of false promotions, spent challenge by challenge.

Each challenge is another chance of promoting a model that is not better: at one-sided 2.5 %, 90 nights do it nearly
surely. The error rates (alphas) of all challenges in any 90 days therefore add up to promote.false_promotions at most,
and by the union bound (Bonferroni 1936; Dunn 1961, JASA 56) so does the chance that any of them is false, however much
the nights depend on each other: they share test rows. An alpha depends on when challenges were made, never on what came
of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.registry.history import MOVES, Entry

DAYS = 90  # over which the budget is spent; what was spent longer ago is free again
_SECONDS_PER_DAY = 86_400
_LEAST = 1e-12  # the smallest alpha, also where more is spent than a budget that was lowered since


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

    A challenge has a ninetieth of the budget for each day since the last one, and for tries within a day one each, so
    nightly ones have a ninetieth and weekly ones seven. It never takes more than half of what is left, so however many
    tries there were, one that is better beyond doubt still passes.
    """
    entries = list(history)
    past = [entry for entry in entries if _is_challenge(entry)]
    recent = [entry for entry in past if _days(entry.at, at) < DAYS]
    daily = budget / DAYS
    spent = sum(_spent(entry, daily) for entry in recent)
    alpha = min((budget - spent) / 2, daily * max(1.0, _days_waited(entries, past, at)))
    return Challenge(len(recent) + 1, max(alpha, _LEAST), spent, budget)


def _is_challenge(entry: Entry) -> bool:
    """Return whether a candidate was compared with a champion, and the comparison decided."""
    return (
        entry.action in ("promote", "refuse") and entry.from_ is not None and entry.figures.get("alpha", 1) is not None
    )


def _spent(entry: Entry, daily: float) -> float:
    """Return an entry's alpha; those from before there was a budget count as nightly ones."""
    alpha = entry.figures.get("alpha")
    return alpha if isinstance(alpha, float) else daily


def _days_waited(entries: Sequence[Entry], past: Sequence[Entry], at: str) -> float:
    """Return the days since the last challenge or, before the first one, since there is a champion."""
    since = past[-1:] or [entry for entry in entries if entry.action in MOVES][:1]
    return _days(since[0].at, at) if since else float(DAYS)


def _days(start: str, end: str) -> float:
    """Return the days between two times, ISO 8601."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / _SECONDS_PER_DAY
