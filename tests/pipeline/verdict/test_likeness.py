"""The gate on texts stops nonsense beyond chance, and a candidate whose texts are much worse than the champion's."""

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

from tests.pipeline.verdict.comparisons import QUICK, compared, gate, judged, metrics

LIKE = metrics()["likeness"]


def likeness(bits: tuple[float, float, float], words: tuple[float, float, float] = (0.05, -0.03, 0.13)) -> Any:
    """Return what `evaluate` says of texts: for each figure the distance and its interval."""
    result = deepcopy(LIKE)
    for name, distance in (("bits", bits), ("words", words)):
        result[name] |= dict(zip(("distance", "low", "high"), distance, strict=True))
    return result


def test_nonsense_is_stopped_and_the_sentence_has_the_figures_and_the_setting() -> None:
    texts = likeness((0.9, 0.8, 1.0))
    texts["bits"]["figure"] = 3.82
    verdict = judged(compared(likeness=texts), against="base")
    assert verdict.reasons == [
        "Its texts are not like real ones: by the letter sequences of the training rows a byte of its 100 texts takes"
        " 3.82 bits, one of real unseen texts 2.20, one of nonsense 4.00; of their words, 7.0 %, 7.0 % and 45.0 % occur"
        " in no training row. That is 90.0 % of the way from real texts to nonsense, at least 80.0 % allowing for"
        " chance; promote.gates.likeness allows 50.0 %."
    ]
    (change,) = verdict.counterfactuals
    assert change.startswith("likeness: at most 60.0 % would have passed. Start from a base that knows the language")


def test_either_figure_stops_it() -> None:
    assert judged(compared(likeness=likeness((0.1, 0.0, 0.2)))).promoted
    assert not judged(compared(likeness=likeness((0.1, 0.0, 0.2), (0.9, 0.7, 1.1)))).promoted
    assert not judged(compared(likeness=likeness((0.9, 0.7, 1.1), (math.nan, None, None)))).promoted


def test_a_distance_that_may_be_chance_passes_with_how_many_texts_would_tell() -> None:
    result = gate("likeness", judged(compared(likeness=likeness((0.6, 0.3, 0.9))), against="base"))
    assert result.passed
    assert result.sentence.startswith("Its texts may be unlike real ones: ")
    assert "100 texts are too few to be sure: about 910 would do (evaluate.generations" in result.sentence
    assert "too few" not in gate("likeness", judged()).sentence


def test_a_candidate_whose_texts_are_much_worse_than_the_champions_is_stopped() -> None:
    champion = metrics(likeness=likeness((0.0, -0.03, 0.03)))
    worse = compared(baseline=champion, likeness=likeness((0.4, 0.36, 0.44)))
    verdict = judged(worse)
    assert verdict.reasons[0].endswith(
        "They are 40.0 % of the way from real texts to nonsense, the champion's 0.0 %: 40.0 points more, at least 35.0"
        " allowing for chance; promote.gates.likeness_rise allows 20.0."
    )
    assert judged(worse, against="base").promoted
    assert judged(compared(baseline=champion, likeness=likeness((0.3, 0.0, 0.6)))).promoted


def test_a_candidate_no_worse_than_a_bad_champion_keeps_to_the_bound_all_the_same() -> None:
    bad = likeness((0.9, 0.8, 1.0))
    assert not judged(compared(baseline=metrics(likeness=bad), likeness=bad)).promoted


def test_empty_or_unmeasured_texts_never_pass() -> None:
    empty = {name: dict.fromkeys(LIKE["bits"]) for name in LIKE}
    verdict = judged(compared(likeness=empty))
    assert verdict.reasons == [
        "Not measured: likeness (there is no figure, or all its texts are empty), so its texts may be nonsense."
    ]
    old = compared()
    del old.candidate.metrics["likeness"]  # type: ignore[attr-defined]
    assert not judged(old).promoted


def test_a_corpus_whose_rows_are_nonsense_themselves_is_told_apart_from_nothing() -> None:
    untold = {name: LIKE[name] | {"distance": None, "low": None, "high": None} for name in LIKE}
    result = gate("likeness", judged(compared(likeness=untold)))
    assert result.passed
    assert "cannot be told: real texts of this corpus follow the training rows no better" in result.sentence
    result = gate("likeness", judged(replace(compared(likeness=untold), generations=1)))
    assert "a single text tells nothing" in result.sentence


def test_a_lower_end_just_above_the_bound_does_not_read_like_it() -> None:
    (reason,) = judged(compared(likeness=likeness((0.9, 0.5002, 1.3))), against="base").reasons
    assert "at least 50.02 % allowing for chance; promote.gates.likeness allows 50.00 %." in reason


def test_the_bounds_are_settings() -> None:
    config = QUICK.model_copy(update={"gates": QUICK.gates.model_copy(update={"likeness": 0.95})})
    assert judged(compared(likeness=likeness((0.9, 0.8, 1.0))), config, against="base").promoted
