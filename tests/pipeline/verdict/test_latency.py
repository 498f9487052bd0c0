"""A busy machine makes no equal model slow, and a slow one is found out all the same."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.evaluation.timing import MAX_ROUNDS, MIN_ROUNDS, interleaved, median_ratio
from tests.pipeline.verdict.comparisons import compared, gate, judged, turns


def test_a_model_too_slow_is_stopped() -> None:
    (reason,) = judged(compared(seconds=(0.0061, 0.002))).reasons
    assert reason.startswith("It is too slow: a token takes 6.10 ms, the champion 2.00; that is 3.0")
    assert reason.endswith(" in 12 rounds by turns; promote.gates.latency allows 1.50 times.")
    assert judged(compared(seconds=(0.0029, 0.002))).promoted


def test_an_interval_across_the_bound_is_a_warning() -> None:
    comparison = compared()
    noisy = [0.002, 0.005] * 6
    verdict = judged(comparison, candidate=comparison.candidate.__class__(
        comparison.candidate.metrics, comparison.candidate.scores, comparison.candidate.probes, noisy
    ))  # fmt: skip
    assert verdict.promoted
    assert verdict.warnings[0].startswith("This machine was too busy to tell whether it is too slow: ")
    assert gate("latency", verdict).is_warning


class Machine:
    """A machine with a clock of its own, whose other load comes and goes."""

    def __init__(self, seed: int) -> None:
        self._random, self._load = np.random.default_rng(seed), 1.0

    def program(self, seconds: float) -> Callable[[], float]:
        def turn() -> float:
            if self._random.random() < 0.15:  # other programs start or end: up to five take turns with this one
                self._load = float(self._random.integers(1, 6))
            spike = 10.0 if self._random.random() < 0.05 else 1.0
            return seconds * self._load * spike * float(self._random.lognormal(0, 0.2))

        return turn


def test_on_a_busy_machine_equal_models_pass_and_models_of_double_the_time_do_not() -> None:
    stopped = {1.0: 0, 1.4: 0, 2.2: 0}
    for seed in range(100):
        for times in stopped:
            machine = Machine(seed)
            ratio = median_ratio(*interleaved([machine.program(times), machine.program(1.0)]), 0.95)
            stopped[times] += ratio.low > 1.5
    assert stopped[1.0] == 0
    assert stopped[1.4] <= 5
    assert stopped[2.2] >= 90


def test_rounds_end_once_the_ratio_has_settled_and_at_the_latest_at_the_limit() -> None:
    machine = Machine(1)
    assert len(interleaved([machine.program(1.0), machine.program(1.0)])[0]) == MAX_ROUNDS
    quiet = iter(turns(1.0, rounds=1000))
    assert list(map(len, interleaved([lambda: next(quiet), lambda: next(quiet)]))) == [MIN_ROUNDS] * 2


def test_a_machine_that_slows_down_steadily_favours_neither_of_two_equal_models() -> None:
    clock = iter(np.linspace(1.0, 3.0, 1000))
    ratio = median_ratio(*interleaved([lambda: float(next(clock))] * 2), 0.95)
    assert ratio.low <= 1.0 <= ratio.high


@pytest.mark.parametrize("rounds", [6, 12, 33, 60])
def test_the_interval_of_the_median_is_that_of_the_sign_test(rounds: int) -> None:
    ratio = median_ratio(list(range(1, rounds + 1)), [1.0] * rounds, 0.95)
    outside = binom.cdf(ratio.low - 1, rounds, 0.5)
    assert outside <= 0.025 < binom.cdf(ratio.low, rounds, 0.5)
    assert ratio.high == rounds + 1 - ratio.low


def test_fewer_rounds_than_could_tell_anything_have_no_bounds() -> None:
    assert median_ratio([1.0] * 5, [1.0] * 5, 0.95)[1:3] == (0.0, float("inf"))
