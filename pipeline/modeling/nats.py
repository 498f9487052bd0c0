"""Losses in nats as factors, bounded to what a float holds."""

import math

MAX_NATS = 700.0  # exp of more overflows; a uniform guess loses ln(vocabulary), about 11


def exp(nats: float) -> float:
    """Return e ** nats, of MAX_NATS at most, where math.exp would raise OverflowError."""
    return math.exp(min(nats, MAX_NATS))


def expm1(nats: float) -> float:
    """Return e ** nats - 1, likewise bounded."""
    return math.expm1(min(nats, MAX_NATS))
