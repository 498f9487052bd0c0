"""Grammars are read from YAML and expanded as their rules say; articles and verbs are spelled as in English."""

import random
from pathlib import Path

import pytest

from starter.english import Verbs, with_article
from starter.grammar import compose, expand, read_grammar

RULES = {"animal": ("owl", "cat"), "sees": ("{animal.a.cap} sees {name}.",)}


def test_texts_are_split_into_alternatives_and_steps(tmp_path: Path) -> None:
    (tmp_path / "grammar.yaml").write_text(
        'words: [1, 2]\nrules:\n  animal: owl | cat\n  plot: |\n    a | ""\n    [b|c]\n\n    {d}\nplots:\n- e\n'
    )
    assert read_grammar(tmp_path / "grammar.yaml") == {
        "words": [1, 2],
        "rules": {"animal": ("owl", "cat"), "plot": [("a", "", "[b|c]"), ("{d}",)]},
        "plots": [("e",)],
    }


def test_symbols_are_expanded_until_none_is_left() -> None:
    texts = {expand(random.Random(seed), RULES, "{sees}", name="Ada") for seed in range(20)}
    assert texts == {"An owl sees Ada.", "A cat sees Ada."}


def test_an_unknown_symbol_raises_an_error() -> None:
    with pytest.raises(KeyError):
        expand(random.Random(0), RULES, "{nothing}")


def test_the_article_follows_the_sound() -> None:
    words = ("apple", "pear", "hour", "house", "unit", "uncle", "unusual day", "one", "European")
    assert [with_article(word)[:2].strip() for word in words] == ["an", "a", "an", "a", "a", "an", "an", "a", "a"]


def test_options_are_chosen_and_spaces_articles_and_capitals_corrected() -> None:
    assert (
        compose(random.Random(0), {}, "[ this | this ]  is a [apple|apple]. it is.", {}) == "This is an apple. It is."
    )


def test_verbs_are_inflected() -> None:
    verbs = Verbs(irregular=("go went gone",), doubled=("stop",), doubled_gerund=("run",))
    assert [verbs.past(verb) for verb in ("go", "carry", "look-at")] == ["went", "carried", "looked at"]
    assert [verbs.participle(verb) for verb in ("go", "bake")] == ["gone", "baked"]
    assert [verbs.gerund(verb) for verb in ("run", "stop", "tie", "bake")] == ["running", "stopping", "tying", "baking"]
    assert [verbs.third_person(verb) for verb in ("go", "carry", "play")] == ["goes", "carries", "plays"]
