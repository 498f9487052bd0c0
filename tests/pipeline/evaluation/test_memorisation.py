"""What is copied from training rows is found whatever the parts of the index, and it is what a slow search finds."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydivsufsort import sa_search
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerBase

from pipeline.evaluation.folding import fold
from pipeline.evaluation.measure import measure
from pipeline.evaluation.memorisation import (
    Copy,
    CorpusIndex,
    Memorisation,
    Rule,
    longest_copies,
    membership_gap,
    metrics,
    sample_texts,
)
from pipeline.evaluation.scores import Scores
from tests.conftest import LINES

# Few pieces, so that runs recur: tokens and halves of them, characters of one to four bytes, white space, NUL, U+00FF.
PIECES = ["The", " the", " th", "e", " quick", "qu", " cat", " and", "é", "漢", "🙂", "\0", "\n", "  ", "\xff"]
SMALL_TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), max_size=6)


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_gpt2)


def borders_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """Return (tokens, characters) of each place where some first tokens of `text` are some first characters of it."""
    ids = tokenizer(text)["input_ids"]
    backend = tokenizer.backend_tokenizer
    pieces = [bytes(BYTE_OF[character] for character in backend.id_to_token(token)) for token in ids]
    borders = []
    for tokens in range(len(ids) + 1):
        try:
            borders.append((tokens, len(b"".join(pieces[:tokens]).decode())))
        except UnicodeDecodeError:
            continue  # within a character
    return borders


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte that each character of a byte-level token stands for (GPT-2's bytes_to_unicode, inverted)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


BYTE_OF = _bytes_of_characters()


def by_definition(
    text: str, number: int, tokenizer: PreTrainedTokenizerBase, rows: list[int], training: list[str], rule: Rule
) -> Copy:
    """Return the run with the most tokens besides boilerplate by trying all runs in all rows."""
    text, training = fold(text), [fold(row) for row in training]
    borders = borders_of(text, tokenizer)
    common: set[int] = set()
    for before, start in borders:
        after, end = next(((after, end) for after, end in borders if after >= before + rule.stretch), (0, 0))
        if after and sum(text[start:end] in row for row in training) > rule.common_rows:
            common |= set(range(before, after))
    best, best_key = Copy(0, "", 0, "", number), (0, 0, 0)
    for (before, start), (after, end) in combinations(borders, 2):
        holding = [at for at, row in enumerate(training) if text[start:end] in row]
        tokens = len(set(range(before, after)) - common)
        if holding and tokens and (tokens, -before, after) > best_key:
            best_key = (tokens, -before, after)
            best = Copy(tokens, text[start:end], rows[holding[0]], training[holding[0]], number)
    return best


@settings(deadline=None, max_examples=200)
@given(
    training=SMALL_TEXTS,
    texts=SMALL_TEXTS,
    part_bytes=st.sampled_from([1, 10, 30, 10**6]),
    rule=st.sampled_from([Rule(40, 5), Rule(3, 1), Rule(6, 1), Rule(9, 2)]),
)
def test_the_longest_run_is_that_of_a_slow_search_whatever_the_parts(
    training: list[str], texts: list[str], part_bytes: int, rule: Rule, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [2 * at + 5 for at in range(len(training))]
    result = CorpusIndex(rows, training, part_bytes).longest(texts, tokenizer, rule)
    assert result == [by_definition(text, at, tokenizer, rows, training, rule) for at, text in enumerate(texts)]


FOOTER = " Thank you for your order. You may return any article within thirty days. Our terms hold."


def test_boilerplate_of_many_rows_is_no_copy_and_a_row_of_its_own_is(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [f"{line} {number}.{FOOTER}" for number in range(9) for line in LINES]
    own = " The king bought a golden crown from an old fox near the river for twelve apples."
    rows.append(f"{own}{FOOTER}")
    index = CorpusIndex(range(2, 2 + len(rows)), rows)
    rule = Rule(tokens=24, common_rows=5)
    texts = [f"Zebras!{FOOTER} Zebras", f"Zebras!{own}{FOOTER}", rows[0]]
    footer, both, first_row = index.longest(texts, tokenizer, rule)
    assert len(tokenizer(FOOTER)["input_ids"]) > rule.tokens
    assert footer.tokens <= 2  # chance
    assert both.tokens == len(tokenizer(own)["input_ids"]) - 1 >= rule.tokens  # its full stop stands before all footers
    assert both.row == 1 + len(rows)
    assert first_row.tokens < rule.tokens  # a row that differs from others by its number alone
    everywhere = index.longest([f"Zebras!{FOOTER}"], tokenizer, Rule(24, common_rows=100))
    assert everywhere[0].tokens >= rule.tokens


def test_layout_makes_no_copy_and_hides_none(tokenizer: PreTrainedTokenizerBase) -> None:
    run = " sat on the warm mat and looked at the rain"
    index = CorpusIndex([2, 3], [" " * 58 + "-" * 40 + "<br/>" * 20 + "x", f"The <b>old</b> cat\n {run}"])
    spaces, words = index.longest(["y" + " " * 58 + "-" * 40 + "<br/>" * 20, run.replace(" ", "  \n")], tokenizer)
    assert spaces.tokens <= 4
    assert words.tokens >= len(tokenizer(run)["input_ids"]) - 1
    assert words.row == 3
    assert fold("<p class='a'>One\n\n two</p>...!") == " One two ."


def test_a_copied_run_is_found_in_the_midst_of_other_words(tokenizer: PreTrainedTokenizerBase) -> None:
    run = " sat on the warm mat and looked at the rain"
    [copy] = CorpusIndex([2, 3, 4, 5], LINES).longest([f"Zebras!{run}? Zebras!"], tokenizer)
    assert copy == Copy(len(tokenizer(run)["input_ids"]), run, 3, LINES[1], 0)


def test_no_run_goes_on_into_the_next_row(tokenizer: PreTrainedTokenizerBase) -> None:
    index = CorpusIndex([2, 3], ["The quick", " brown fox jumps"])
    [copy] = index.longest(["The quick brown fox jumps"], tokenizer)
    assert (copy.text, copy.row) == (" brown fox jumps", 3)


def test_runs_are_of_whole_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize(" the the") == ["Ġthe", "Ġthe"]
    assert CorpusIndex([2], ["bathe th"]).longest([" the the"], tokenizer) == [
        Copy(0, "", 0, "", 0)
    ]  # only parts of them


def test_letters_count_as_they_are_written(tokenizer: PreTrainedTokenizerBase) -> None:
    index = CorpusIndex([2], ["Caf\u00e9 KING"])
    assert index.longest(["Cafe\u0301"], tokenizer)[0].text == "Caf"  # the same to the eye
    assert index.longest([" king"], tokenizer)[0].tokens <= 1


def test_boundaries_are_found_where_a_tokenizer_leaves_white_space_out_of_its_offsets() -> None:
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["Ġone", "Ġtwo", "Ġsix", "?"])}, "?"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)  # the library's default
    trimming = GPT2TokenizerFast(tokenizer_object=backend)
    assert trimming("one two", return_offsets_mapping=True)["offset_mapping"] == [(0, 3), (4, 7)]
    [copy] = CorpusIndex([2], ["one six one two"]).longest(["six two one two six"], trimming)
    assert (copy.tokens, copy.text) == (2, " one two")


def test_without_texts_or_rows_nothing_is_copied(tokenizer: PreTrainedTokenizerBase) -> None:
    assert CorpusIndex([], []).longest(["The cat"], tokenizer) == [Copy(0, "", 0, "", 0)]
    assert CorpusIndex([2], LINES[:1]).longest([], tokenizer) == []
    assert metrics([], 40) == {"longest": 0, "mean_longest": 0.0, "copied": 0.0}


def test_a_model_that_copies_half_of_its_texts_is_seen_to(tokenizer: PreTrainedTokenizerBase) -> None:
    index = CorpusIndex(range(2, 6), LINES)
    result = measure(Memorisation, data=[LINES[0], "Zebras!"], tokenizer=tokenizer, corpus=index, rule=Rule(tokens=10))
    whole = len(tokenizer(LINES[0])["input_ids"])
    assert result["longest"] == whole
    assert result["copied"] == 0.5
    assert whole / 2 <= result["mean_longest"] <= whole / 2 + 1


def test_a_run_of_just_the_bound_counts_as_copied() -> None:
    copies = [Copy(tokens, "x", 2, "x", at) for at, tokens in enumerate([39, 40, 41])]
    assert metrics(copies, 40)["copied"] == pytest.approx(2 / 3)


def test_the_worst_copies_come_first_and_none_without_a_run() -> None:
    copies = [Copy(tokens, "x", 2, "x", at) for at, tokens in enumerate([3, 0, 9, 9])]
    assert [(copy.tokens, copy.generation) for copy in longest_copies(copies, 10)] == [(9, 2), (9, 3), (3, 0)]
    assert len(longest_copies(copies, 2)) == 2


def test_membership_is_the_difference_of_the_losses_a_token() -> None:
    train = Scores(np.array([10.0, 20.0]), np.array([10, 20]), np.array([1, 1]))
    test = Scores(np.array([30.0, 60.0]), np.array([15, 20]), np.array([1, 1]))
    assert membership_gap(train, test) == pytest.approx(90 / 35 - 1)
    assert membership_gap(test, train) == pytest.approx(1 - 90 / 35)


def clean_of(numbers: range) -> pd.DataFrame:
    splits = [["train", "train", "test", "validation"][number % 4] for number in numbers]
    return pd.DataFrame({"row": numbers, "text": [f"text {number}" for number in numbers], "split": splits})


def test_the_training_sample_is_of_different_training_rows_and_the_same_in_any_order() -> None:
    clean = clean_of(range(400))
    sample = sample_texts(clean, "train", 50)
    assert len(set(sample)) == 50
    assert set(sample) <= set(clean.loc[clean["split"] == "train", "text"])
    assert sample_texts(clean[::-1], "train", 50) == sample
    assert sample_texts(pd.concat([clean, clean]), "train", 50) == sample
    assert len(sample_texts(clean, "train", 1000)) == 200


def test_the_training_sample_hardly_changes_when_the_corpus_grows() -> None:
    before, after = (sample_texts(clean_of(range(rows)), "train", 100) for rows in (1000, 1100))
    assert 80 <= len(set(before) & set(after)) < 100  # a tenth more rows: a tenth of them are other ones


@pytest.mark.integration
def test_among_ten_megabytes_three_look_ups_a_token_find_each_copied_row(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_ups = 0

    def counting(*arguments: Any) -> Any:
        nonlocal look_ups
        look_ups += 1
        return sa_search(*arguments)

    monkeypatch.setattr("pipeline.evaluation.memorisation.sa_search", counting)
    generator = np.random.default_rng(0)
    words = [*" ".join(LINES).split(), *(f"w{number}" for number in range(5000))]
    rows = [" ".join(words[at] for at in generator.integers(0, len(words), 90)) for _ in range(19_000)]
    assert sum(map(len, rows)) > 9e6
    index = CorpusIndex(range(2, len(rows) + 2), rows)
    texts = [f"Zebras! {rows[at][40:240]}!" for at in range(0, len(rows), 190)]
    copies = index.longest(texts, tokenizer)
    assert [copy.row for copy in copies] == list(range(2, len(rows) + 2, 190))
    assert all(len(copy.text) >= 180 for copy in copies)
    assert look_ups <= 3 * sum(map(len, tokenizer(texts)["input_ids"])) + 2 * len(texts)
