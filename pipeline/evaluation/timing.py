"""Which of two programs is slower, on a machine that others use too: turns until the interval of the ratio settles."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtrik

MIN_ROUNDS = 12  # of which the interval spans the third to the tenth
MAX_ROUNDS = 60
SETTLED = 1.1  # the upper end of the interval over the lower one
_CONFIDENCE = 0.95


class Ratio(NamedTuple):
    """A ratio of durations with its interval, and from how many rounds."""

    value: float
    low: float
    high: float
    rounds: int


def interleaved(
    measure: Sequence[Callable[[], float]], *, min_rounds: int = MIN_ROUNDS, max_rounds: int = MAX_ROUNDS
) -> list[list[float]]:
    """Return the duration of each round, by program, until the ratio of the first to each other one has settled.

    Each program has a turn in a round, in reversed order every other round, so that load that comes and goes slowly
    hits all of them alike. Stopping by the width of the interval, not by where it lies, leaves its coverage as it is
    (Chow and Robbins 1965, On the asymptotic theory of fixed-width sequential confidence intervals).
    """
    turns: list[list[float]] = [[] for _ in measure]
    for number in range(max_rounds):
        order = range(len(measure)) if number % 2 == 0 else reversed(range(len(measure)))
        for program in order:
            turns[program].append(measure[program]())
        if number + 1 >= min_rounds and all(_is_settled(turns[0], other) for other in turns[1:]):
            break
    return turns


def _is_settled(first: Sequence[float], other: Sequence[float]) -> bool:
    ratio = median_ratio(first, other, _CONFIDENCE)
    return ratio.high <= SETTLED * ratio.low


def median_ratio(first: Sequence[float], other: Sequence[float], confidence: float) -> Ratio:
    """Return the median of the rounds' ratios, with the interval between two of them.

    Of n rounds the r-th smallest and the r-th largest ratio, with the largest r for which P(Binomial(n, 1/2) < r) is at
    most (1 - confidence) / 2: it holds whatever the noise is distributed like (Conover 1999, Practical Nonparametric
    Statistics, section 3.2). Below six rounds there is no such r, and the interval is unbounded.
    """
    ratios = np.sort(np.asarray(first, dtype=np.float64) / np.asarray(other, dtype=np.float64))
    rounds = len(ratios)
    rank = _rank(rounds, confidence)
    low, high = (float(ratios[rank - 1]), float(ratios[rounds - rank])) if rank else (0.0, math.inf)
    return Ratio(float(np.median(ratios)), low, high, rounds)


def _rank(rounds: int, confidence: float) -> int:
    """Return the largest r with P(Binomial(rounds, 1/2) <= r - 1) <= (1 - confidence) / 2; 0 where there is none."""
    tail = (1 - confidence) / 2
    return max(0, math.floor(float(bdtrik(tail, rounds, 0.5)) + 1e-9) + 1) if 0.5**rounds <= tail else 0
