"""Text made of tokens as they come, against what the tokenizer makes of all of them at once."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from serving.detokenizer import IncrementalDetokenizer

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
CHARACTERS = "aZ é\N{EURO SIGN}\N{GRINNING FACE}\N{COMBINING ACUTE ACCENT}\n"


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path) -> Tokenizer:
    """GPT-2's kind: any byte is a token, so any tokens are bytes and seldom characters."""
    return Tokenizer.from_file(str(tiny_gpt2 / "tokenizer.json"))


@pytest.fixture(scope="module")
def llamas() -> Tokenizer:
    """Llama 2's kind: a space begins a word and is dropped where a text begins; unknown characters are byte tokens."""
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁Hello", "▁world", "s"]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=words[0], byte_fallback=True))
    made.add_special_tokens(["<unk>", "<s>"])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def deltas(detokenizer: IncrementalDetokenizer, ids: Sequence[int], sizes: random.Random) -> list[str]:
    """Return what `detokenizer` makes of `ids` that come a few at a time."""
    given, at = [], 0
    while at < len(ids) and not detokenizer.stopped:
        size = sizes.randint(1, 4)
        given.append(detokenizer.add(ids[at : at + size]))
        at += size
    return [*given, detokenizer.flush()]


@given(data=st.data(), sizes=st.randoms())
def test_any_tokens_in_any_portions_give_the_text_of_all_tokens(
    tokenizer: Tokenizer, data: st.DataObject, sizes: random.Random
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=40))
    prompt = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=6))
    detokenizer = IncrementalDetokenizer(tokenizer, prompt)
    assert "".join(deltas(detokenizer, ids, sizes)) == tokenizer.decode(ids, skip_special_tokens=True)
    assert detokenizer.tokens == len(ids)


@given(text=st.text(CHARACTERS), sizes=st.randoms())
def test_a_character_of_several_tokens_comes_whole_and_as_soon_as_it_is(
    tokenizer: Tokenizer, text: str, sizes: random.Random
) -> None:
    given = deltas(IncrementalDetokenizer(tokenizer, [0]), encode(tokenizer, text), sizes)
    assert not any(INCOMPLETE in delta for delta in given)
    assert "".join(given) == text
    assert given[-1] == ""


def test_a_text_that_ends_inside_a_character_ends_as_the_tokenizer_decodes_it(tokenizer: Tokenizer) -> None:
    ids = encode(tokenizer, "a\N{GRINNING FACE}")[:-1]
    detokenizer = IncrementalDetokenizer(tokenizer, [0])
    assert [detokenizer.add([token]) for token in ids] == ["a", *[""] * (len(ids) - 1)]
    assert "a" + detokenizer.flush() == tokenizer.decode(ids) == "a" + INCOMPLETE


def test_a_prompt_that_ends_inside_a_character_does_not_change_the_text(tokenizer: Tokenizer) -> None:
    half, rest = encode(tokenizer, "\N{EURO SIGN}")[:1], encode(tokenizer, "\N{EURO SIGN}")[1:]
    detokenizer = IncrementalDetokenizer(tokenizer, half)
    assert detokenizer.add(rest) + detokenizer.flush() == tokenizer.decode(rest)


@settings(max_examples=300)
@given(data=st.data(), sizes=st.randoms())
def test_a_text_ends_before_the_first_stop_string_that_is_complete(
    tokenizer: Tokenizer, data: st.DataObject, sizes: random.Random
) -> None:
    text = data.draw(st.text("ab \N{EURO SIGN}", max_size=30))
    stops = data.draw(st.lists(st.text("ab \N{EURO SIGN}", min_size=1, max_size=4), min_size=1, max_size=4))
    ids = encode(tokenizer, text)
    detokenizer = IncrementalDetokenizer(tokenizer, [0], stops)
    given = deltas(detokenizer, ids, sizes)

    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))]
    if not ends:
        assert not detokenizer.stopped
        assert "".join(given) == text
        return
    before = text[: ends[0]]
    expected = before[: -max(len(stop) for stop in stops if before.endswith(stop))]
    assert detokenizer.stopped
    assert "".join(given) == expected
    # Tokens are taken up to the one with which the stop string is complete.
    complete = [count for count in range(len(ids) + 1) if any(stop in tokenizer.decode(ids[:count]) for stop in stops)]
    assert detokenizer.tokens == complete[0]


def test_a_possible_stop_string_is_held_back_until_it_is_decided(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, [0], ["<end>"])
    given = [detokenizer.add([token]) for token in encode(tokenizer, "a<en<endx<end>")]
    assert "".join(given) == "a<en<endx"
    assert all("".join(given[:count]) in ("", "a", "a<en", "a<en<endx") for count in range(len(given)))


def test_of_two_stop_strings_in_one_token_the_one_that_is_complete_first_ends_the_text(tokenizer: Tokenizer) -> None:
    token = tokenizer.token_to_id("Ġthe")
    assert token is not None
    for stops, text in ((["the", "h"], " t"), (["e", "he"], " t"), (["x", " the"], "")):
        detokenizer = IncrementalDetokenizer(tokenizer, [0], stops)
        assert (detokenizer.add([token]), detokenizer.stopped, detokenizer.flush()) == (text, True, "")


def test_a_partial_stop_string_is_returned_at_the_end(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, [0], ["<end>", "é"])
    half = encode(tokenizer, "é")[:1]
    assert detokenizer.add([*encode(tokenizer, "a<en"), *half]) == "a"
    assert detokenizer.flush() == "<en" + INCOMPLETE


def test_a_space_at_the_beginning_is_kept_where_a_word_follows_the_prompt(llamas: Tokenizer) -> None:
    prompt, ids = [1, *encode_words(llamas, "▁Hello")], encode_words(llamas, "▁world", "s", "▁", "▁Hello")
    detokenizer = IncrementalDetokenizer(llamas, prompt)
    assert [detokenizer.add([token]) for token in ids] == [" world", "s", " ", " Hello"]
    assert IncrementalDetokenizer(llamas, [1]).add(ids) == llamas.decode(ids) == "worlds  Hello"


def test_a_special_token_inside_a_text_leaves_nothing_and_takes_nothing(llamas: Tokenizer) -> None:
    ids = encode_words(llamas, "▁Hello", "<s>", "▁world", "s")
    detokenizer = IncrementalDetokenizer(llamas, [1])
    assert [detokenizer.add([token]) for token in ids] == ["Hello", "", " world", "s"]


@given(data=st.data())
def test_bytes_that_are_no_character_after_all_raise_nothing(llamas: Tokenizer, data: st.DataObject) -> None:
    # tokenizers' own DecodeStream raises "Invalid prefix encountered" for these.
    parts = data.draw(
        st.lists(st.sampled_from(["\N{GRINNING FACE}".encode(), b"\xe2\x82", b"\xff", b"s"]), max_size=12)
    )
    ids = [2 + byte for part in parts for byte in part]
    detokenizer = IncrementalDetokenizer(llamas, [1], ["never"])
    text = "".join(detokenizer.add([token]) for token in ids) + detokenizer.flush()
    assert len(text) >= len(parts)
    valid = b"".join(parts).decode(errors="replace")
    if INCOMPLETE not in valid:
        assert text == valid


def encode_words(tokenizer: Tokenizer, *words: str) -> list[int]:
    return [tokenizer.token_to_id(word) for word in words]
