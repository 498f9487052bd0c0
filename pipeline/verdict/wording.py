"""Numbers in the sentences of a verdict: rounded, but never so far that two that differ read alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass

_MORE_DECIMALS = 4  # than usual, at most


def percent(share: float, decimals: int = 1) -> str:
    """Return a share of 1, also a negative one, as a percentage with a fixed number of decimals."""
    if abs(share) >= 1e4:  # of a diverged model, whose digits would fill lines
        return f"{100 * share:.2g} %"
    text = f"{100 * share:.{decimals}f} %"
    return text.removeprefix("-") if not text.strip("-0. %") else text  # no -0.0


def percent_beside(share: float, other: float) -> str:
    """Return a share as a percentage with as many decimals as tell it from `other`."""
    decimals = next((number for number in range(1, 6) if percent(share, number) != percent(other, number)), 1)
    return percent(share, decimals)


def points(share: float, decimals: int = 1) -> str:
    """Return a difference of shares in percentage points."""
    return percent(share, decimals).removesuffix(" %")


def confidence(alpha: float) -> str:
    """Return 1 - `alpha`, the chance of an error, as a percentage with as many digits as tell it from 100 %."""
    return percent(1 - alpha, max(0, math.ceil(-math.log10(alpha)) - 1))


def plain(value: float, decimals: int = 2) -> str:
    """Return a number with a fixed number of decimals."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def factor(value: float, decimals: int = 1) -> str:
    """Return how many times one figure is another: "12.3 times", "550 times"."""
    if value >= 1e6:
        return f"{value:.{1 + decimals}g} times"
    return f"{value:,.{decimals if value < 100 else decimals - 1}f} times"


@dataclass(frozen=True)
class Unit:
    """How numbers of one kind read."""

    read: Callable[[float, int], str]
    decimals: int

    def decimals_apart(self, *pairs: tuple[float | None, float | None]) -> int:
        """Return how many decimals tell the two numbers of each pair apart, where they differ."""
        different = [
            (one, other)
            for one, other in pairs
            if one is not None and other is not None and not math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
        ]
        for decimals in range(self.decimals, self.decimals + _MORE_DECIMALS):
            if all(self.read(one, decimals) != self.read(other, decimals) for one, other in different):
                return decimals
        return self.decimals + _MORE_DECIMALS


PERCENT = Unit(percent, 1)
POINTS = Unit(points, 1)
PLAIN = Unit(plain, 2)
FACTOR = Unit(factor, 1)


def interval(level: float, low: float, high: float, unit: Unit, decimals: int, where: str = "") -> str:
    """Return an interval in parentheses; its ends may read alike only if they are."""
    decimals = max(decimals, unit.decimals_apart((low, high)))
    return f"({percent(level, 0)} interval {unit.read(low, decimals)} to {unit.read(high, decimals)}{where})"
