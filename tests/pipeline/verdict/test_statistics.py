"""Intervals agree with published figures and other implementations."""

import pytest
from scipy.stats import binomtest

from pipeline.verdict.statistics import excess, expanded_confidence, rows_needed, wilson_interval


@pytest.mark.parametrize(("copies", "of", "expected"), [((9, 3), 10, 0.1705), ((6, 2), 7, 0.0582)])
def test_the_lower_end_of_an_excess_is_newcombes(copies: tuple[int, int], of: int, expected: float) -> None:
    assert excess(copies[0] / of, copies[1] / of, (of, of), 0.95).low == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("count", "of"), [(0, 100), (3, 100), (50, 100), (100, 100)])
def test_wilson_interval_is_scipys(count: int, of: int) -> None:
    reference = binomtest(count, of).proportion_ci(0.95, method="wilson")
    assert wilson_interval(count / of, of, 0.95) == pytest.approx((reference.low, reference.high), abs=1e-6)


def test_an_interval_of_few_rows_is_expanded_and_one_of_many_is_not() -> None:
    assert expanded_confidence(0.95, 6) > 0.99
    assert expanded_confidence(0.95, 100_000) == pytest.approx(0.95, abs=1e-4)
    assert expanded_confidence(0.95, 1) == 0.95


def test_six_rows_are_needed_at_95_percent_confidence() -> None:
    assert rows_needed(0.95) == 6
    assert 2 * 0.5**6 <= 0.05 < 2 * 0.5**5
