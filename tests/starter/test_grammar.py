"""The expander writes what its rules say, the same for the same seed."""

import random

import pytest

from starter.grammar import compose, expand, with_article

RULES = {"animal": ("owl", "cat"), "sees": ("{animal.a.cap} sees {name}.",)}


def test_symbols_are_expanded_until_none_is_left() -> None:
    texts = {expand(random.Random(seed), RULES, "{sees}", name="Ada") for seed in range(20)}
    assert texts == {"An owl sees Ada.", "A cat sees Ada."}


def test_an_unknown_symbol_is_an_error() -> None:
    with pytest.raises(KeyError):
        expand(random.Random(0), RULES, "{nothing}")


def test_the_article_follows_the_sound() -> None:
    words = ("apple", "pear", "hour", "house", "unit", "uncle", "unusual day", "one", "European")
    assert [with_article(word)[:2].strip() for word in words] == ["an", "a", "an", "a", "a", "an", "an", "a", "a"]


def test_options_are_chosen_and_the_sentence_put_right() -> None:
    assert (
        compose(random.Random(0), {}, "[ this | this ]  is a [apple|apple]. it is.", {}) == "This is an apple. It is."
    )
