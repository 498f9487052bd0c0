"""Words and vocabulary drift."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from pipeline.data_diff import reader
from pipeline.data_diff import words as words_module
from pipeline.data_diff.result import Word
from pipeline.data_diff.words import words
from tests.pipeline.data_diff.corpora import HARBOUR, compare_texts, row_counts

pytestmark = pytest.mark.integration


def test_vocabulary_drift_matches_a_hand_computed_case(tmp_path: Path) -> None:
    vocabulary = compare_texts(tmp_path, ["Gull gull rope.", "Rope!"], ["gull lamp", "lamp 7"]).vocabulary
    assert (vocabulary.words_old, vocabulary.words_new) == (4, 4)
    assert (vocabulary.distinct_old, vocabulary.distinct_new) == (2, 3)
    assert (vocabulary.distinct_added, vocabulary.distinct_gone) == (2, 1)
    assert vocabulary.unseen_share == 0.75
    # gull 1/2 -> 1/4, rope 1/2 -> 0, lamp 0 -> 1/2, 7: 0 -> 1/4
    gull = (0.5 * math.log2(0.5 / 0.375) + 0.25 * math.log2(0.25 / 0.375)) / 2
    assert vocabulary.distance == pytest.approx(math.sqrt(gull + 0.25 + 0.25 + 0.125), rel=1e-5)
    assert vocabulary.added == (Word("lamp", 0, 2),)
    assert vocabulary.gone == (Word("rope", 2, 0),)
    assert [word.word for word in vocabulary.rose] == ["lamp"]
    assert [word.word for word in vocabulary.fell] == ["rope", "gull"]


def test_vocabulary_distance_matches_scipy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [[" ".join(f"w{number}" for number in rng.zipf(a, 30)) for _ in range(40)] for a in (1.5, 1.7)]
    result = compare_texts(tmp_path, *texts).vocabulary
    frequencies = [Counter(" ".join(side).split()) for side in texts]
    vocabulary = sorted(frequencies[0] | frequencies[1])
    p, q = ([counted[word] for word in vocabulary] for counted in frequencies)
    assert result.distance == pytest.approx(jensenshannon(p, q, base=2), rel=1e-5)
    assert result.distinct_gone == len(frequencies[0].keys() - frequencies[1].keys())


def test_counts_do_not_depend_on_batch_and_counter_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare_texts(tmp_path, HARBOUR, HARBOUR[5:])
    monkeypatch.setattr(words_module, "_MAX_COUNTER_SIZE", 3)
    monkeypatch.setattr(reader, "_BATCH_ROWS", 2)
    assert compare_texts(tmp_path, HARBOUR, HARBOUR[5:]) == whole


@given(st.text(st.sampled_from("ab01_.':,; -\n\t\"(")))
def test_the_ascii_pattern_finds_the_words_of_the_unicode_pattern(text: str) -> None:
    assert words(text) == regex.findall(r"(?w)\w(?:\B.)*", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("couldn't pay 3.50, or 1,000", ["couldn't", "pay", "3.50", "or", "1,000"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 7", ["\u0939\u093f\u0928\u094d\u0926\u0940", "7"]),
        ("\u6e2f\u53e3 \u30ab\u30e2\u30e1", ["\u6e2f", "\u53e3", "\u30ab\u30e2\u30e1"]),
        ("write to jane.doe@example.org\nor @jane now", ["write", "to", "or", "now"]),
    ],
    ids=["English", "Hindi keeps its marks", "Han one by one", "no addresses"],
)
def test_words_follow_unicode_boundaries_and_skip_addresses(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_texts_without_words_have_no_vocabulary_distance(tmp_path: Path) -> None:
    result = compare_texts(tmp_path, ["?!", "", "\n"], ["?!", "..."])
    assert row_counts(result) == (1, 0, 2, 1)
    assert result.vocabulary.distance is None
