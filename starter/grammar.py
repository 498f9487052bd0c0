"""A context-free grammar expander: the one tool with which this project's own texts are written.

The notation is the one Tracery made common: rules map a symbol to alternatives, and an alternative names other
symbols in braces. What must stay the same through a text (a name, a place) is chosen once and passed as `bound`.
"""

import random
import re
from collections.abc import Mapping, Sequence

Rules = Mapping[str, Sequence[str]]

_SLOT = re.compile(r"\{(\w+)((?:\.\w+)*)\}")
_OPTION = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\w+))")
SENTENCE_START = re.compile(r"((?:^|[.!?] |\.\" |\n(?:\d+\. )?)\"?)([a-z])")


def expand(rng: random.Random, rules: Rules, text: str, **bound: str) -> str:
    """Return `text` with every `{symbol}` replaced, at random, until none is left.

    `{symbol.a}` puts "a" or "an" in front, `{symbol.cap}` makes the first letter a capital; they can be chained.
    A symbol in `bound` always stands for that text; any other is looked up in `rules`.
    Raises KeyError for a symbol that is in neither, and for an unknown modifier.
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
    """Return `text` expanded, with one choice of each `[a|b]`, and with its spaces, articles and capitals put right.

    `start` matches the first letter of a sentence as its second group.
    """
    text = expand(rng, rules, text, **bound)
    while "[" in text:
        text = _OPTION.sub(lambda match: rng.choice(match.group(1).split("|")), text)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" +", " ", re.sub(r" *\n *", "\n", text))).strip()
    text = _ARTICLE.sub(lambda match: match.group(1) + with_article(match.group(2))[1:].split(" ")[0] + " ", text)
    return start.sub(lambda match: match.group(1) + match.group(2).upper(), text)


def deal(rng: random.Random, shape: str, parts: Mapping[str, Sequence[str]]) -> str:
    """Return a line of `parts` for each letter of `shape`, none of them twice; "/" begins a paragraph."""
    decks = {letter: rng.sample(lines, len(lines)) for letter, lines in parts.items()}
    return "".join("\n\n" if c == "/" else decks[c].pop() + " " for c in shape if c == "/" or decks.get(c))


def with_article(words: str) -> str:
    """Return `words` behind "a" or "an", by the sound they begin with."""
    silent_h = re.match(r"(hour|honest|heir|honou?r)", words, re.IGNORECASE)
    spoken_consonant = re.match(r"(uni([^nm]|$)|use|usu|eu|one\b|once\b|ewe)", words, re.IGNORECASE)
    vowel = words[:1].lower() in "aeiou" and not spoken_consonant
    return f"{'an' if vowel or silent_h else 'a'} {words}"


def capitalize(words: str) -> str:
    """Return `words` with the first letter a capital and the rest as it was."""
    return words[:1].upper() + words[1:]


_MODIFIERS = {"a": with_article, "cap": capitalize}
