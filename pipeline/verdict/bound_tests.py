"""The tests that gates use: how far a figure is from its reference, and the sentences around the finding."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.verdict.statistics import least_excess
from pipeline.verdict.wording import percent, points, two_decimals


class NotMeasuredError(Exception):
    """A figure that a gate needs is missing; the message says why, or is empty."""


@dataclass(frozen=True)
class Measurement:
    """What a test is given."""

    figure: float
    reference: float  # 0 where the gate has none
    bound: float
    generations: int
    confidence: float


class Outcome(NamedTuple):
    """What a test finds."""

    value: float  # held against the bound
    low: float | None  # the lower end of its interval, which is held against the bound instead; None: no interval
    limit: float  # the largest figure that passes
    reference: float | None


def share_above(measured: Measurement) -> Outcome:
    """Test by how much a share of texts lies above that of real texts, beyond chance."""
    low = partial(
        least_excess, reference=measured.reference, count=measured.generations, confidence=measured.confidence
    )
    limit = max(share for share in np.linspace(0, 1, 1001) if low(share) <= measured.bound)
    return Outcome(measured.figure - measured.reference, low(measured.figure), limit, measured.reference)


def difference(measured: Measurement) -> Outcome:
    """Test by how much a figure lies above its reference."""
    value = measured.figure - measured.reference
    return Outcome(value, None, measured.reference + measured.bound, measured.reference)


def ratio(measured: Measurement) -> Outcome:
    """Test how many times its reference a figure is."""
    if not measured.reference > 0:
        raise NotMeasuredError
    return Outcome(measured.figure / measured.reference, None, measured.bound * measured.reference, 1.0)


def absolute(measured: Measurement) -> Outcome:
    """Test a figure by itself."""
    return Outcome(measured.figure, None, measured.bound, None)


@dataclass(frozen=True)
class BoundTest:
    """A statistical test, and the sentences around its finding."""

    run: Callable[[Measurement], Outcome]
    broken: str
    kept: str
    figure: Callable[[float], str] = two_decimals  # how the figure, its reference and its limit read
    value: Callable[[float], str] = two_decimals  # how the value, its lower end and the bound read
    needs_texts: bool = False


SHARE_ABOVE = BoundTest(
    share_above,
    broken="{problem}: {finding}. That is {value} points more, at least {low} allowing for chance; {bound} points more"
    " are allowed.",
    kept="{subject} is within its bound: {finding}, and {bound} points more are allowed.",
    figure=percent,
    value=points,
    needs_texts=True,
)


DIFFERENCE = BoundTest(
    difference,
    broken="{problem}: {finding}. That is {value} more; {bound} are allowed.",
    kept="{subject} is within its bound: {finding}, and {bound} more are allowed.",
)


RATIO = BoundTest(
    ratio,
    broken="{problem}: {finding}, {value} times the {against}'s {reference}; {bound} times is allowed.",
    kept="{subject} is within its bound: {finding}, {value} times the {against}'s {reference}; {bound} times is"
    " allowed.",
)


SHARE = BoundTest(
    absolute,
    broken="{problem}: {finding}, {bound} are allowed.",
    kept="{subject}: {finding}, {bound} are allowed.",
    figure=percent,
    value=percent,
)


NEVER = BoundTest(absolute, broken="{problem}", kept="{subject}")
