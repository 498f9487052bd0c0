"""Which rows repeat an earlier one, exactly or nearly, and which of them stays."""

import random
import string
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import params
from pipeline.intake import duplicates, minhash
from pipeline.intake.duplicates import DuplicateMatches, Duplicates
from pipeline.intake.minhash import banding, fingerprint
from pipeline.intake.splits import assign_splits, normalize_text, split_of
from tests.conftest import LINES, ROOT

FROM_PARAMS = params.load(ROOT / "params.yaml").validate_


def settings_with(**rules: Any) -> params.Validate:
    """Return the settings that come with the project, with some keys of some rules changed."""
    changed = {name: getattr(FROM_PARAMS.rules, name).model_copy(update=keys) for name, keys in rules.items()}
    return FROM_PARAMS.model_copy(update={"rules": FROM_PARAMS.rules.model_copy(update=changed)})


AT_08 = settings_with(near_duplicate={"similarity": 0.8})


def matches_in(
    texts: Sequence[str],
    refused: Sequence[int] = (),
    cuts: Sequence[int] = (),
    settings: params.Validate = AT_08,
) -> DuplicateMatches:
    """Return what is found in the rows 1, 2, ... with those in `refused` refused by a row rule."""
    with tempfile.TemporaryDirectory() as scratch:
        search = Duplicates(Path(scratch), settings.rules)
        for first, last in zip([0, *cuts], [*cuts, len(texts)], strict=True):
            rows = np.arange(first, last) + 1
            search.add(rows, fingerprint(texts[first:last], settings), np.isin(rows, refused))
        search.find()
        return search.matches(np.arange(len(texts)) + 1)


def shingles(text: str) -> set[str]:
    text = normalize_text(text)
    return {text[start : start + 5] for start in range(len(text) - 4)} or {text}


def jaccard(one: str, other: str) -> float:
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def varied(count: int, seed: int = 0) -> list[str]:
    """Return texts of which many are edits of others, of all degrees of similarity."""
    draw = random.Random(seed)
    words = " ".join(LINES).split()
    texts = [" ".join(draw.choices(words, k=draw.randrange(1, 40))) for _ in range(count // 4)]
    while len(texts) < count:
        edited = draw.choice(texts).split()
        for _ in range(draw.randrange(4)):
            edited[draw.randrange(len(edited))] = draw.choice(words)
        texts.append(" ".join(edited))
    draw.shuffle(texts)
    return texts


def test_a_text_that_differs_in_case_white_space_or_unicode_form_alone_is_a_duplicate() -> None:
    matches = matches_in(["A café", "another", "a  CAFÉ\n", "a cafe\u0301", "A caf\u00e9!"])
    assert matches.duplicate_of.tolist() == [0, 0, 1, 1, 0]


def test_the_original_is_the_first_that_no_row_rule_refuses() -> None:
    assert matches_in(["same", "same", "same"], refused=[1]).duplicate_of.tolist() == [2, 0, 2]


def test_the_original_is_the_first_if_all_are_refused() -> None:
    assert matches_in(["same", "same"], refused=[1, 2]).duplicate_of.tolist() == [0, 1]


def test_blank_texts_are_not_duplicates_of_each_other() -> None:
    matches = matches_in(["", "  ", "\n", ""])
    assert not matches.duplicate_of.any()
    assert not matches.near_duplicate_of.any()


def test_a_near_copy_of_an_earlier_text_is_found_with_its_similarity() -> None:
    edited = LINES[0].replace("quick", "quiet")
    matches = matches_in([LINES[1], LINES[0], edited], settings=settings_with(near_duplicate={"similarity": 0.7}))
    assert matches.near_duplicate_of.tolist() == [0, 0, 2]
    assert matches.similarity.tolist() == [0, 0, jaccard(LINES[0], edited)]


def test_a_text_less_similar_than_the_threshold_stays() -> None:
    edited = LINES[0].replace("quick", "quiet")
    matches = matches_in([LINES[0], edited], settings=settings_with(near_duplicate={"similarity": 0.9}))
    assert not matches.near_duplicate_of.any()


def test_a_text_near_only_a_refused_one_stays() -> None:
    start = "".join(random.Random(2).choices(string.ascii_lowercase, k=100))
    chain = [start, start[8:] + "12345678", start[16:] + "1234567887654321"]  # each 0.85 to the one before
    assert jaccard(chain[0], chain[2]) < 0.8
    matches = matches_in(chain)
    assert matches.near_duplicate_of.tolist() == [0, 1, 0]


def test_a_row_refused_by_a_row_rule_has_no_near_duplicates() -> None:
    matches = matches_in([LINES[0], LINES[0] + "!"], refused=[1])
    assert not matches.near_duplicate_of.any()


def test_a_copy_that_may_stay_shares_the_match_of_its_original() -> None:
    texts = [LINES[0], LINES[0] + "!", LINES[0] + "!"]
    assert matches_in(texts).near_duplicate_of.tolist() == [0, 1, 0]
    kept = matches_in(
        texts, settings=settings_with(duplicate={"severity": "ignore"}, near_duplicate={"similarity": 0.8})
    )
    assert kept.duplicate_of.tolist() == [0, 0, 2]
    assert kept.near_duplicate_of.tolist() == [0, 1, 1]


def test_by_default_short_texts_that_differ_in_one_word_stay_and_copies_with_a_typo_are_refused() -> None:
    pairs = [
        ("The sum of two even numbers is even, as you can check with a few examples.",
         "The sum of two odd numbers is even, as you can check with a few examples."),
        ("Can my friends top up my account?", "How can my friends top up my account?"),
        ("I do recommend the blue one for small kitchens and for flats.",
         "I don't recommend the blue one for small kitchens and for flats."),
    ]  # fmt: skip
    for pair in pairs:
        assert not matches_in(pair, settings=FROM_PARAMS).near_duplicate_of.any(), pair
        assert jaccard(*pair) >= 0.7
    slip = " ".join(LINES[:2])
    matches = matches_in([slip, slip.replace(".", "!")], settings=FROM_PARAMS)
    assert matches.near_duplicate_of.tolist() == [0, 1]


def test_the_pairs_just_below_the_bound_are_kept_to_show_where_it_cuts(tmp_path: Path) -> None:
    texts = [LINES[0], LINES[0].replace("quick", "quiet"), LINES[1]]
    search = Duplicates(tmp_path, FROM_PARAMS.rules)
    search.add(np.array([2, 5, 9]), fingerprint(texts, FROM_PARAMS), np.zeros(3, bool))
    search.find()
    assert search.closest == [(jaccard(texts[0], texts[1]), 5, 2)]


def test_texts_shorter_than_a_shingle_match_only_equal_texts() -> None:
    matches = matches_in(["a", "b", "ab", "abc", "abcd", "Ab"])
    assert matches.duplicate_of.tolist() == [0, 0, 0, 0, 0, 3]
    assert not matches.near_duplicate_of.any()


def test_no_two_rows_that_stay_are_near_each_other() -> None:
    texts = varied(600)
    sets = [shingles(text) for text in texts]
    matches = matches_in(texts)
    stay = [row for row in range(600) if not (matches.duplicate_of[row] or matches.near_duplicate_of[row])]
    overlooked = [
        (one, other)
        for place, one in enumerate(stay)
        for other in stay[:place]
        if len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= 0.8
    ]
    assert overlooked == []
    assert np.count_nonzero(matches.near_duplicate_of) > 50


def test_every_near_duplicate_is_similar_enough_and_its_original_stays() -> None:
    texts = varied(600)
    matches = matches_in(texts)
    for row in np.flatnonzero(matches.near_duplicate_of):
        original = matches.near_duplicate_of[row] - 1
        assert original < row
        assert not matches.near_duplicate_of[original]
        assert not matches.duplicate_of[original]
        assert matches.similarity[row] == jaccard(texts[row], texts[original]) >= 0.8


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 120), max_size=6), st.integers(0, 3))
def test_chunking_does_not_change_the_result(cuts: list[int], seed: int) -> None:
    texts = varied(120, seed)
    whole, cut = matches_in(texts, refused=[3, 50]), matches_in(texts, refused=[3, 50], cuts=sorted(cuts))
    for name in ("duplicate_of", "near_duplicate_of", "similarity"):
        assert getattr(cut, name).tolist() == getattr(whole, name).tolist()


def test_of_a_large_family_of_near_copies_the_first_stays() -> None:
    family = [f"{' '.join(LINES)} Number {number} of many." for number in range(4000)]
    matches = matches_in(family)
    assert matches.near_duplicate_of.tolist() == [0] + [1] * 3999


def test_rows_that_share_a_band_with_too_many_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "KEPT", 2)
    text = " ".join(LINES)
    letters = ["".join(random.Random(number).choices(string.ascii_lowercase, k=60)) for number in range(300)]
    search = Duplicates(tmp_path, AT_08.rules)
    search.add(np.arange(300) + 1, fingerprint([text + end for end in letters], AT_08), np.zeros(300, bool))
    search.find()
    assert search.crowded > 0


def test_near_copies_of_a_text_too_long_for_one_block_are_found() -> None:
    text = "".join(random.Random(0).choices(string.ascii_lowercase, k=300_000))
    matches = matches_in([text[:150_000], text, text[20_000:] + text[:20_000], text[100_000:]])
    assert matches.near_duplicate_of.tolist() == [0, 0, 2, 0]
    assert matches.similarity[2] == pytest.approx(1, abs=0.01)


def test_a_text_too_long_to_keep_is_compared_by_its_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minhash, "LONGEST", 100)
    matches = matches_in([" ".join(LINES), LINES[0], " ".join(LINES) + "!"])
    assert matches.near_duplicate_of.tolist() == [0, 0, 1]
    assert matches.similarity[2] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.9999, 1.0])
def test_bands_find_a_pair_at_the_threshold_99_times_in_100(similarity: float) -> None:
    bands, length = banding(similarity)
    assert 1 - (1 - similarity**length) ** bands >= 0.99
    assert bands * length <= 128


@pytest.mark.parametrize("similarity", [0.5, 1.0])
def test_the_extreme_thresholds_work(similarity: float) -> None:
    texts = ["no, no, no, no.", "No, no, no, no, no, no.", LINES[0], LINES[0][:-20]]
    expected = [0, 1, 0, 3] if similarity == 0.5 else [0, 1 if jaccard(*texts[:2]) == 1 else 0, 0, 0]
    matches = matches_in(texts, settings=settings_with(near_duplicate={"similarity": similarity}))
    assert matches.near_duplicate_of.tolist() == expected


def test_without_the_near_duplicate_rule_nothing_is_written_and_only_copies_are_found(tmp_path: Path) -> None:
    without = settings_with(near_duplicate={"severity": "ignore"})
    search = Duplicates(tmp_path, without.rules)
    search.add(np.array([2, 5, 9]), fingerprint(["a b", "A  b", "a b!"], without), np.zeros(3, bool))
    search.find()
    assert list(tmp_path.iterdir()) == []
    assert search.matches(np.array([2, 5, 9])).duplicate_of.tolist() == [0, 2, 0]


def test_a_fingerprint_holds_the_split_key_of_the_text() -> None:
    texts = [f"text {number}" for number in range(100)]
    positions = fingerprint(texts, FROM_PARAMS).digests[:, 0]
    assert assign_splits(positions, 0.2, 0.2).tolist() == [split_of(text, 0.2, 0.2) for text in texts]


def test_a_text_has_the_same_fingerprint_on_every_machine() -> None:
    prints = fingerprint([LINES[0]], AT_08)
    assert prints.bands[0, :3].tolist() == [1332170992, 3706928447, 2293110627]
    assert prints.signatures[0, :6].tolist() == [35, 28, 80, 209, 226, 126]


def test_the_search_reports_progress(tmp_path: Path) -> None:
    search, seen = Duplicates(tmp_path, FROM_PARAMS.rules), []
    search.add(np.arange(4) + 1, fingerprint(LINES, FROM_PARAMS), np.array([False, True, False, False]))
    search.find(lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3)]


def test_an_empty_search_finds_nothing() -> None:
    assert len(matches_in([]).duplicate_of) == 0


def test_only_rows_that_were_added_can_be_asked_for(tmp_path: Path) -> None:
    search = Duplicates(tmp_path, FROM_PARAMS.rules)
    search.add(np.array([2, 4]), fingerprint(LINES[:2], FROM_PARAMS), np.zeros(2, bool))
    search.find()
    for row in (3, 5):
        with pytest.raises(ValueError, match="not added"):
            search.matches(np.array([row]))


def test_texts_with_a_lone_surrogate_that_json_may_hold_are_compared_like_others() -> None:
    text = "Half of a pair: \ud83d. " + LINES[0]
    matches = matches_in([text, text.upper(), text + "!", "\ud83d"])
    assert matches.duplicate_of.tolist() == [0, 1, 0, 0]
    assert matches.near_duplicate_of.tolist() == [0, 0, 1, 0]
