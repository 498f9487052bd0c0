"""Losses in nats as factors, bounded where a float ends."""

import math

MOST_NATS = 700.0  # exp of more is no float; a guess at random loses ln(vocabulary), about 11


def exp(nats: float) -> float:
    """Return e ** nats, for more than MOST_NATS that of MOST_NATS, where math.exp raises OverflowError."""
    return math.exp(min(nats, MOST_NATS))


def expm1(nats: float) -> float:
    """Return e ** nats - 1, bounded likewise."""
    return math.expm1(min(nats, MOST_NATS))
