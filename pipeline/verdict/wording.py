"""Numbers in the sentences of a verdict."""

import math


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


def points(share: float) -> str:
    """Return a difference of shares in percentage points."""
    return percent(share).removesuffix(" %")


def two_decimals(value: float) -> str:
    """Return a number with two decimals."""
    return f"{value:.2f}"


def confidence(alpha: float) -> str:
    """Return 1 - `alpha`, the chance of an error, as a percentage with as many digits as tell it from 100 %."""
    return percent(1 - alpha, max(0, math.ceil(-math.log10(alpha)) - 1))
