"""Every bound stops a better candidate that breaks it beyond chance, and says where it turns."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.verdict.groups import group_gate
from pipeline.verdict.records import Comparison
from tests.pipeline.verdict.comparisons import CONFIG, QUICK, compared, gate, judged, metrics, scores

# name -> the change that breaks it, and the sentence
BROKEN = {
    "copied": (
        {"memorisation__copied": 0.3},
        "It copies: 30.0 % of its 100 texts contain 40 tokens or more of one training row, besides boilerplate; 1.0 % "
        "of real unseen texts of the same lengths do. That is 29.0 points more, at least 19.8 allowing for chance; "
        "promote.gates.copied allows 10.0.",
    ),
    "repetition": (
        {"text__repetition": 0.6},
        "It repeats itself: 60.0 % of the 4-grams in its 100 texts occurred before in the same text; 2.0 % of those in "
        "real texts of the same lengths do. That is 58.0 points more, at least 47.0 allowing for chance; "
        "promote.gates.repetition allows 20.0.",
    ),
    "loops": (
        {"text__loops": 0.25},
        "It loops: 25.0 % of its 100 texts end in a loop; 0.0 % of real texts of the same lengths do. That is 25.0 "
        "points more, at least 16.7 allowing for chance; promote.gates.loops allows 5.0.",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bound_stops_a_better_candidate_and_is_named(name: str) -> None:
    changes, sentence = BROKEN[name]
    verdict = judged(compared(**changes))
    assert not verdict.promoted
    assert verdict.reasons == [sentence]
    assert verdict.comparison.startswith("Better than the champion: ")
    assert [gate.name for gate in verdict.gates if not gate.passed] == [name]
    (change,) = verdict.counterfactuals
    assert change.startswith(f"{name}: at most ")


@pytest.mark.parametrize("name", BROKEN)
def test_the_figure_that_is_said_to_pass_passes_and_a_larger_one_does_not(name: str) -> None:
    ((key, value),) = BROKEN[name][0].items()
    change = gate(name, judged(compared(**{key: value}))).counterfactual
    limit = float(change.split("at most ")[1].split()[0]) / (100 if "%" in change else 1)
    assert judged(compared(**{key: limit})).promoted
    assert not judged(compared(**{key: limit + 0.01})).promoted
    passing = gate(name, judged(compared(**{key: limit})))
    assert change.startswith(
        passing.counterfactual.replace("more than", "at most").replace("would not have", "would have")
    )
    assert "finetune." in change  # what to change


def test_a_model_too_big_is_stopped() -> None:
    assert judged(compared(bytes=30e6)).reasons == [
        "It is too big: its weights take 30.00 MB of memory, 2.00 times the champion's 15.00; promote.gates.size allows"
        " 1.50 times."
    ]
    assert judged(compared(bytes=22.5e6)).promoted


def test_a_figure_a_little_beyond_its_bound_does_not_read_like_the_bound() -> None:
    (reason,) = judged(compared(bytes=22_501_000)).reasons
    assert "1.5001 times the champion's 15.000; promote.gates.size allows 1.5000 times" in reason


def test_canaries_that_can_be_extracted_stop_it_where_any_were_planted() -> None:
    verdict = judged(compared(memorisation__extracted=0.1), canaries=10)
    assert verdict.reasons == [
        "It gives away planted secrets: 10.0 % of the canaries can be extracted from it word for word;"
        " promote.gates.extracted allows 0.0 %."
    ]
    assert judged(compared(memorisation__extracted=0.0), canaries=10).promoted
    assert "extracted" not in [gate.name for gate in judged().gates]


def test_a_version_that_was_rolled_back_does_not_come_back_by_itself() -> None:
    reason = "it wrote {braces} and swore (2026-01-01T00:00:00+00:00)"
    verdict = judged(rolled_back=reason)
    assert verdict.reasons == [f"This version was champion and was rolled back: {reason}"]
    assert judged(rolled_back=reason, forced="that was another model").promoted


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "absent"])
@pytest.mark.parametrize("name", [*BROKEN, "extracted"])
def test_what_was_not_measured_never_passes(name: str, value: Any) -> None:
    key = BROKEN[name][0] if name in BROKEN else {"memorisation__extracted": 0.0}
    section, _, entry = next(iter(key)).partition("__")
    comparison = compared(**{f"{section}__{entry}": value})
    if value == "absent":
        comparison.candidate.metrics[section].pop(entry)
    verdict = judged(comparison, canaries=int(name == "extracted"))
    assert not verdict.promoted
    assert verdict.reasons == [f"Not measured: {name}, so it may be out of bounds."]


@pytest.mark.parametrize(("candidate", "baseline"), [(math.nan, 1.0), (1.0, math.nan), (1.0, 0.0)])
def test_a_size_that_was_not_measured_never_passes(candidate: float, baseline: float) -> None:
    comparison = compared(bytes=candidate)
    champion = replace(comparison.baseline, metrics=metrics(bytes=baseline))
    assert not judged(comparison, baseline=champion).promoted


def test_scores_and_times_that_are_missing_never_pass() -> None:
    comparison = compared()
    candidate = replace(comparison.candidate, probes=None, turns=())
    verdict = judged(comparison, candidate=candidate)
    assert {gate.name for gate in verdict.gates if not gate.passed} == {"membership", "forgetting", "latency"}
    assert all(reason.startswith("Not measured: ") for reason in verdict.reasons)


def test_without_a_real_text_nothing_is_known_of_texts() -> None:
    verdict = judged(compared(real__texts=0))
    assert [reason.split(" (")[0] for reason in verdict.reasons] == [
        "Not measured: copied", "Not measured: repetition", "Not measured: loops"
    ]  # fmt: skip


def test_fewer_real_texts_tell_less() -> None:
    changes = {"text__loops": 0.2, "real__loops": 0.05}
    assert not judged(compared(**changes, real__texts=1000)).promoted
    assert judged(compared(**changes, real__texts=10)).promoted


def test_without_a_generated_text_nothing_is_known_of_texts() -> None:
    verdict = judged(generations=0)
    assert len(verdict.reasons) == 4
    assert all("no text was written" in reason for reason in verdict.reasons)


# Chance


@pytest.mark.parametrize(
    ("name", "section", "real"),
    [("copied", "memorisation", 0.02), ("loops", "text", 0.01), ("repetition", "text", 0.05)],
)
def test_of_models_exactly_at_a_bound_at_most_5_percent_break_it_by_chance(
    name: str, section: str, real: float
) -> None:
    random = np.random.default_rng(8)
    share = real + getattr(CONFIG.gates, name)
    broken = 0
    for _ in range(500):
        written, unseen = random.binomial(100, share) / 100, random.binomial(100, real) / 100
        if name == "repetition":  # a mean of shares: it varies less
            written, unseen = random.beta(2 * share, 2 - 2 * share, 100).mean(), random.beta(0.1, 1.9, 100).mean()
        broken += not share_passes(name, section, written, unseen)
    assert broken <= 25


def test_a_model_far_beyond_a_bound_breaks_it_nearly_always() -> None:
    random = np.random.default_rng(9)
    for share, at_most in ((0.15, 60), (0.25, 0)):  # 5 % above real texts are allowed
        written = random.binomial(100, share, 200) / 100
        assert sum(share_passes("loops", "text", one, 0.0) for one in written) <= at_most


def share_passes(name: str, section: str, written: float, real: float) -> bool:
    """Return whether the gate passes a candidate with this share, beside real texts with theirs."""
    from pipeline.verdict.gates import GATES, FigureGate

    pair = scores(6, 0.1, np.random.default_rng(1))
    comparison = compared(pair, **{f"{section}__{name}": written, f"real__{name}": real})
    (row,) = [row for row in GATES if isinstance(row, FigureGate) and row.name == name]
    result = row.evaluate(comparison, CONFIG)
    assert result is not None
    return result.passed


# Groups


def grouped(loss: dict[str, float], rows: int, seed: int = 4) -> Comparison:
    """Return a candidate that gains 0.1 nats per token, but loses `loss` in the groups that it names."""
    candidate, baseline = scores(rows * 4, 0.1, np.random.default_rng(seed))
    groups = ["cards", "loans", "rates", "other"] * rows
    worse = np.array([0.1 + loss[group] if group in loss else 0.0 for group in groups])
    pair = candidate._replace(loss=candidate.loss + worse * candidate.tokens), baseline
    return replace(compared(pair), groups=groups)


def test_a_group_that_got_worse_stops_a_better_candidate_and_is_named() -> None:
    verdict = judged(grouped({"loans": 0.15}, rows=100))
    assert not verdict.promoted
    assert verdict.comparison.startswith("Better than the champion: ")
    (reason,) = verdict.reasons
    assert reason.startswith("It got worse at 1 of 4 groups (loans: perplexity up by 1")
    assert reason.endswith("on 100 rows); promote.gates.group_loss allows 5.0 %.")
    assert gate("groups", verdict).value == pytest.approx(math.expm1(0.15), abs=0.03)


def test_a_group_worse_within_the_bound_or_within_noise_stops_nothing() -> None:
    assert judged(grouped({"loans": 0.03}, rows=100)).promoted
    assert judged(grouped({"loans": 0.07}, rows=10)).promoted  # 10 rows do not tell 7 % from 5 %
    assert not judged(grouped({"loans": 0.3}, rows=10)).promoted


def test_groups_too_small_to_tell_are_counted() -> None:
    comparison = grouped({}, rows=100)
    groups = ["rare", "rare", *comparison.groups[2:]]
    sentence = gate("groups", judged(comparison, groups=groups)).sentence
    assert "1 of fewer than 8 rows are too small to tell." in sentence
    sentence = gate("groups", judged(comparison, groups=[str(row) for row in range(400)])).sentence
    assert "All 400 groups have fewer than 14 test rows" in sentence


def test_of_equal_models_with_20_groups_at_most_5_percent_break_the_bound_by_chance() -> None:
    random = np.random.default_rng(6)
    config = QUICK.model_copy(update={"gates": QUICK.gates.model_copy(update={"group_loss": 0.0})})
    groups = [str(number) for number in range(20)] * 12
    results = [group_gate(replace(compared(scores(240, 0.0, random)), groups=groups), config) for _ in range(200)]
    assert sum(result is not None and not result.passed for result in results) <= 10
