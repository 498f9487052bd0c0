"""Read and expand context-free grammars: the tool with which this project's own texts are written.

A grammar is a YAML file whose texts list alternatives, one a line or separated by " | "; `""` is an empty one, and a
blank line begins the next step of a sequence. `{symbol}` stands for an alternative of that rule, as in Tracery;
`{symbol.a}` puts "a" or "an" in front, `{symbol.cap}` capitalizes, and `[a|b]` is a choice on the spot.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from starter.english import capitalize, with_article

Rules = Mapping[str, Sequence[str]]
Grammar = Mapping[str, Any]  # a tree; its texts are tuples of alternatives, or lists of such tuples: one a step

SENTENCE_START = re.compile(r"((?:^|[.!?] |\.\" |\n(?:\d+\. )?)\"?)([a-z])")

_SLOT = re.compile(r"\{(\w+)((?:\.\w+)*)\}")
_OPTION = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\w+))")
_MODIFIERS = {"a": with_article, "cap": capitalize}


@cache
def read_grammar(path: Path) -> Grammar:
    """Return the grammar in a YAML file, with each text split into alternatives."""
    grammar: Grammar = _split_texts(YAML(typ="safe").load(path))
    return grammar


def _split_texts(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _split_texts(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_split_texts(child) for child in node]
    if not isinstance(node, str):
        return node
    steps = [_alternatives(step) for step in node.rstrip("\n").split("\n\n")]
    return steps if len(steps) > 1 else steps[0]


def _alternatives(text: str) -> tuple[str, ...]:
    choices = (choice for line in text.splitlines() for choice in line.split(" | "))
    return tuple("" if choice == '""' else choice for choice in choices)


def expand(rng: random.Random, rules: Rules, text: str, **bound: str) -> str:
    """Return `text` with every `{symbol}` replaced, at random, until none is left.

    A symbol in `bound` always stands for that text, so that a name or a place stays the same; any other is looked up
    in `rules`. Modifiers can be chained: `{symbol.a.cap}`.

    Raises:
        KeyError: For a symbol that is in neither, and for an unknown modifier.
    """

    def fill(match: re.Match[str]) -> str:
        symbol, modifiers = match.group(1), match.group(2)
        chosen = bound[symbol] if symbol in bound else rng.choice(rules[symbol])
        words = expand(rng, rules, chosen, **bound)
        for modifier in modifiers.split(".")[1:]:
            words = _MODIFIERS[modifier](words)
        return words

    return _SLOT.sub(fill, text)


def compose(
    rng: random.Random, rules: Rules, text: str, bound: Mapping[str, str], start: re.Pattern[str] = SENTENCE_START
) -> str:
    """Return `text` expanded, with one choice of each `[a|b]` and with spaces, articles and capitals put right.

    `start` matches the first letter of a sentence as its second group.
    """
    text = expand(rng, rules, text, **bound)
    while "[" in text:
        text = _OPTION.sub(lambda match: rng.choice(match.group(1).split("|")), text)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" +", " ", re.sub(r" *\n *", "\n", text))).strip()
    text = _ARTICLE.sub(lambda match: match.group(1) + with_article(match.group(2))[1:].split(" ")[0] + " ", text)
    return start.sub(lambda match: match.group(1) + match.group(2).upper(), text)


def deal(rng: random.Random, shape: str, lines: Rules) -> str:
    """Return a line of `lines` for each letter of `shape`, none of them twice; "/" begins a paragraph."""
    decks = {letter: rng.sample(choices, len(choices)) for letter, choices in lines.items()}
    return "".join("\n\n" if c == "/" else decks[c].pop() + " " for c in shape if c == "/" or decks.get(c))


def join(sentences: Iterable[str]) -> str:
    """Return `sentences` with one space between them, without the empty ones."""
    return " ".join(filter(None, sentences))


def join_paragraphs(paragraphs: Iterable[str]) -> str:
    """Return `paragraphs` with a blank line between them, without the empty ones."""
    return "\n\n".join(filter(None, paragraphs))
