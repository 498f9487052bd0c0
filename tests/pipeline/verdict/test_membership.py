"""Membership knows chance, compares with the base row by row, and lets pass what the champion does too."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.scores import Scores
from pipeline.verdict.statistics import Sums, ratio_difference
from tests.pipeline.verdict.comparisons import compared, first, gate, judged


def test_a_candidate_to_which_training_rows_are_much_likelier_is_stopped() -> None:
    verdict = judged(compared(gap=(1.25, 0.0, 0.0)))
    (reason,) = verdict.reasons
    assert reason.startswith("Training shows in its losses: 100 training rows are 1.")
    assert " nats per token likelier to it than 2,060 rows held out, to the base " in reason
    assert reason.endswith("promote.gates.membership allows 0.50.")
    assert "heart" not in reason
    assert verdict.counterfactuals[0].startswith("membership: at most about ")
    assert "finetune.epochs" in verdict.counterfactuals[0]
    assert not judged(first(compared(gap=(1.25, 0.0, 0.0)))).promoted


def test_what_sets_training_rows_apart_also_for_the_base_is_not_memorised() -> None:
    assert judged(compared(gap=(1.25, 1.25, 1.25))).promoted


def test_a_figure_at_the_bound_passes_as_long_as_its_interval_reaches_below() -> None:
    result = gate("membership", judged(compared(gap=(0.5, 0.0, 0.0))))
    assert result.value == pytest.approx(0.5, abs=0.1)
    assert result.low is not None
    assert result.low < 0.5
    assert result.passed


def test_above_the_bound_a_candidate_no_worse_than_the_champion_passes_with_a_warning() -> None:
    verdict = judged(compared(gap=(0.9, 0.9, 0.0)))
    assert verdict.promoted
    assert verdict.warnings[0].startswith(
        "Training shows in its losses, but no more than in the champion's beyond chance"
    )
    assert not judged(compared(gap=(1.2, 0.9, 0.0))).promoted


def test_too_few_rows_to_compare_never_pass() -> None:
    comparison = compared()
    one = comparison.candidate.measured_probes()
    one = one._replace(train=Scores(*(field[:1] for field in one.train)))
    models = {name: replace(getattr(comparison, name), probes=one) for name in ("candidate", "baseline", "base")}
    (reason,) = judged(comparison, **models).reasons
    assert reason.startswith("Not measured: membership (1 training rows and 2060 held out; at least 2 of each")


def sample(rows: int, random: np.random.Generator, above: float, spread: float) -> Sums:
    """Return differences of losses whose ratio is truly `above`, with long tails."""
    tokens = random.lognormal(4, 0.5, rows).round().clip(4)
    return Sums((above + spread * random.standard_t(4, rows)) * tokens, tokens)


@pytest.mark.parametrize(("rows", "spreads"), [((60, 20), (0.5, 0.5)), ((100, 12), (0.2, 0.8)), ((12, 60), (0.8, 0.2))])
def test_of_samples_exactly_at_a_difference_about_5_percent_lie_beyond_its_interval(
    rows: tuple[int, int], spreads: tuple[float, float]
) -> None:
    random = np.random.default_rng(50)
    above = below = 0
    for _ in range(300):
        train, held_out = (
            sample(count, random, true, spread) for count, true, spread in zip(rows, (0.5, 0.0), spreads, strict=True)
        )
        _, low, high = ratio_difference(train, held_out, 0.95, 300, 1)
        above += low > 0.5
        below += high < 0.5
    assert above <= 18  # 2.5 % are 7.5, four standard errors more are 18
    assert below <= 18


def test_samples_that_do_not_vary_have_an_interval_without_width() -> None:
    same = Sums(np.zeros(5), np.full(5, 10.0))
    assert ratio_difference(same, same, 0.95, 100, 1) == (0.0, 0.0, 0.0)
