"""A text's split depends on the text alone and never changes."""

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import splits
from pipeline.intake.splits import assign_splits, normalize_text, split_of, text_digest


def many(count: int) -> list[str]:
    return [f"This is text number {number}." for number in range(count)]


@pytest.mark.parametrize(
    ("text", "share", "split"),
    [
        ("", 0.1, "train"),
        ("Once upon a time.", 0.1, "train"),
        ("Straße", 0.1, "test"),
        ("STRASSE", 0.1, "test"),
        ("漢字", 0.1, "train"),
        ("42", 0.1, "train"),
        ("42", 0.3, "validation"),
        ("x" * 1000, 0.3, "test"),
    ],
)
def test_splits_are_those_of_the_first_release(text: str, share: float, split: str) -> None:
    assert split_of(text, share, share) == split


def test_no_text_changes_its_split_when_the_corpus_grows() -> None:
    before = {text: split_of(text, 0.1, 0.1) for text in many(500)}
    grown = many(5000)
    random.Random(1).shuffle(grown)
    after = {text: split_of(text, 0.1, 0.1) for text in grown}
    assert {text: after[text] for text in before} == before
    shares = {split: list(after.values()).count(split) / len(after) for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.02)


def test_copies_of_a_text_are_in_one_split() -> None:
    for text in many(50):
        variants = {text, text.upper(), f"  {text}\n", text.replace(" ", "\u00a0"), text.replace("f", "\uff46")}
        assert len({split_of(variant, 0.3, 0.3) for variant in variants}) == 1


@given(st.text() | st.text(st.characters(max_codepoint=127)))
def test_the_fast_path_for_ascii_equals_nfkc_and_casefold(text: str) -> None:
    assert normalize_text(text) == " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@given(st.text(st.sampled_from("aB \n\u00a0\u1e9e"), max_size=20), st.integers(1, 7))
def test_a_long_text_is_normalised_by_parts_with_the_same_result(text: str, long: int) -> None:
    expected = normalize_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "LONG", long)
        assert normalize_text(text) == expected


def test_texts_are_split_in_bulk_as_one_by_one() -> None:
    positions = np.array(
        [int.from_bytes(text_digest(normalize_text(text))[:8], "big") for text in many(200)], dtype=np.uint64
    )
    assert assign_splits(positions, 0.2, 0.3).tolist() == [split_of(text, 0.2, 0.3) for text in many(200)]


def test_the_highest_hash_is_in_training() -> None:
    assert assign_splits(np.array([0, 2**64 - 1], dtype=np.uint64), 0.1, 0.1).tolist() == ["test", "train"]


def test_a_lone_surrogate_that_json_may_hold_has_a_split_too() -> None:
    assert split_of("half \ud83d of a pair", 0.1, 0.1) in ("train", "validation", "test")


def test_a_long_run_of_combining_marks_is_normalised_in_time() -> None:
    text = "a" + "\u0315\u0300" * 250_000  # sorted as one run, it took hours
    assert normalize_text(text) == normalize_text(text.upper())
    assert normalize_text("e\u0301" * 5_000) == "\u00e9" * 5_000
