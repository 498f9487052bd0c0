"""The tests that gates use: how far a figure is from its reference, and the sentences around the finding."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from pipeline.verdict.records import NotMeasuredError
from pipeline.verdict.statistics import excess
from pipeline.verdict.wording import PERCENT, PLAIN, POINTS, Unit


@dataclass(frozen=True)
class Measurement:
    """What a test is given."""

    figure: float
    reference: float  # 0 where the gate has none
    bound: float
    counts: tuple[int, int]  # of generated and of real texts
    confidence: float


class Outcome(NamedTuple):
    """What a test finds."""

    value: float  # held against the bound
    low: float | None  # the lower end of its interval, which is held against the bound instead; None: no interval
    limit: float  # the largest figure that passes
    reference: float | None
    high: float | None = None


def share_above(measured: Measurement) -> Outcome:
    """Test by how much a share of texts lies above that of real texts, beyond chance."""
    estimate = partial(excess, reference=measured.reference, counts=measured.counts, confidence=measured.confidence)
    # The lower end rises with the share, so the largest share that passes is found by bisection, to a tenth of a point.
    passing = bisect_right(range(1001), measured.bound, key=lambda thousandths: estimate(thousandths / 1000).low)
    limit = max(0, passing - 1) / 1000
    value, low, high = estimate(measured.figure)
    return Outcome(value, low, limit, measured.reference, high)


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
    figure: Unit = PLAIN  # how the figure, its reference and its limit read
    value: Unit = PLAIN  # how the value, its lower end and the bound read
    needs_texts: bool = False


SHARE_ABOVE = BoundTest(
    share_above,
    broken="{problem}: {finding}. That is {value} points more, at least {low} allowing for chance; {setting} allows"
    " {bound}.",
    kept="{subject} is within its bound: {finding}, and {setting} allows {bound} points more.",
    figure=PERCENT,
    value=POINTS,
    needs_texts=True,
)


RATIO = BoundTest(
    ratio,
    broken="{problem}: {finding}, {value} times the {against}'s {reference}; {setting} allows {bound} times.",
    kept="{subject} is within its bound: {finding}, {value} times the {against}'s {reference}; {setting} allows {bound}"
    " times.",
)


SHARE = BoundTest(
    absolute,
    broken="{problem}: {finding}; {setting} allows {bound}.",
    kept="{subject}: {finding}; {setting} allows {bound}.",
    figure=PERCENT,
    value=PERCENT,
)


NEVER = BoundTest(absolute, broken="{problem}", kept="{subject}")
