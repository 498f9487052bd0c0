"""Where texts lie between real ones and nonsense, for made-up corpora of several scripts and kinds."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pipeline.evaluation.likeness import Distance, Figure, Likeness, Texts, distance_of

TEXTS, ROWS = 40, 300
Written = tuple[list[str], list[bool]]  # texts, and whether each has ended


def vocabulary(consonants: str, vowels: str, syllables: tuple[int, int], seed: int) -> list[str]:
    """Return 400 words of syllables, the first the most frequent."""
    draw = random.Random(seed)
    return [
        "".join(draw.choice(consonants) + draw.choice(vowels) for _ in range(draw.randint(*syllables)))
        for _ in range(400)
    ]


def prose(words: Sequence[str], seed: int, space: str = " ", stop: str = ".") -> str:
    """Return a text of 12 to 25 words, drawn by Zipf's law, that come in threes of fixed order."""
    draw = random.Random(seed)
    text = []
    for _ in range(draw.randint(4, 8)):
        first = min(int(draw.paretovariate(0.5)), 390)
        text += words[first : first + 3]
    return space.join(text) + stop


def code(words: Sequence[str], seed: int) -> str:
    draw = random.Random(seed)
    names = [words[min(int(draw.paretovariate(0.5)), 399)] for _ in range(4)]
    lines = (f"    {name}[{number}] = self.{name}({names[0]})\n" for number, name in enumerate(names[1:]))
    return f"def {names[0]}({', '.join(names[1:])}):\n{''.join(lines)}    return {names[1]}\n"


LATIN = vocabulary("mnrstlkpdbgv", "aeiou", (1, 4), 1)
GERMAN = vocabulary("nrstlkchgßwz", "aeiouäöü", (2, 6), 2)
CYRILLIC = vocabulary("нрстлкпджмвг", "аеиоуы", (1, 4), 4)
HAN = vocabulary("".join(chr(0x4E00 + 7 * number) for number in range(90)), "的了是在有人我他", (1, 1), 3)
KINDS: dict[str, Callable[[int], str]] = {
    "prose": lambda seed: prose(LATIN, seed),
    "german": lambda seed: prose(GERMAN, seed),
    "chinese": lambda seed: prose(HAN, seed, "", "。"),
    "russian": lambda seed: prose(CYRILLIC, seed),
    "verse": lambda seed: "\n".join(prose(LATIN, 9 * seed + line, stop=",") for line in range(3)),
    "code": lambda seed: code(LATIN, seed),
    "products": lambda seed: f"{LATIN[seed % 97]}-{seed % 71} | {seed % 13} kg | {prose(LATIN, seed)}",
}


def cut(text: str) -> tuple[str, str]:
    return text[:6], text[6:]


def scale(kind: str, first: int = ROWS, texts: int = TEXTS) -> Likeness:
    """Return the scale of a corpus, with as many real texts from number `first` on."""
    make = KINDS[kind]
    prompts, real = zip(*(cut(make(number)) for number in range(first, first + texts)), strict=True)
    training_texts = [make(number) for number in range(ROWS)]
    return Likeness(training_texts, prompts, Texts([text.encode() for text in real], [True] * texts), seed=1)


@pytest.fixture(scope="module")
def scales() -> dict[str, Likeness]:
    return {kind: scale(kind) for kind in KINDS}


def distance(likeness: Likeness, written: Written) -> float:
    """Return the lower end of what speaks most against the texts."""
    result = likeness.metrics(*written, confidence=0.95)
    return max(result[name]["low"] for name in ("bits", "words") if result[name]["low"] is not None)


def real(kind: str) -> list[str]:
    return [cut(KINDS[kind](number))[1] for number in range(ROWS, ROWS + TEXTS)]


def nearly(kind: str) -> Written:
    """Return real texts, each with a word left out and one in ten with a wrong letter."""
    draw = random.Random(5)
    texts = []
    for number, text in enumerate(real(kind)):
        words = text.split(" ")
        gap = draw.randrange(1, len(words)) if len(words) > 2 else len(words)
        text = " ".join(words[:gap] + words[gap + 1 :])
        place = draw.randrange(len(text))
        texts.append(text if number % 10 else text[:place] + draw.choice(text) + text[place + 1 :])
    return texts, [True] * TEXTS


def chain(kind: str, order: int) -> Written:
    """Return texts whose characters are each drawn by the `order` before it, from the training rows."""
    draw, followers = random.Random(6), dict[str, list[str]]()
    for number in range(ROWS):
        text = "\0" * order + KINDS[kind](number) + "\1"
        for place in range(order, len(text)):
            followers.setdefault(text[place - order : place], []).append(text[place])
    texts, ended = [], []
    for continuation, number in zip(real(kind), range(ROWS, ROWS + TEXTS), strict=True):
        text = "\0" * order + KINDS[kind](number)[:6]
        first = len(text)
        while len(text) - first < len(continuation) and text[-1] != "\1":
            text += draw.choice(followers.get(text[len(text) - order :]) or [draw.choice(continuation)])
        texts.append(text[first:].rstrip("\1"))
        ended.append(text[-1] == "\1")
    return texts, ended


def shuffled(kind: str) -> Written:
    draw = random.Random(7)
    return ["".join(draw.sample(text, len(text))) for text in real(kind)], [True] * TEXTS


def broken(kind: str) -> Written:
    """Return real texts with bytes that are no UTF-8 in place of a third of theirs."""
    draw = random.Random(8)
    texts = [bytes(byte if draw.random() > 1 / 3 else 0xC0 for byte in text.encode()) for text in real(kind)]
    return [text.decode(errors="replace") for text in texts], [True] * TEXTS


def other(kind: str) -> Written:
    """Return real texts of another corpus."""
    return real("german" if kind != "german" else "chinese"), [True] * TEXTS


@pytest.mark.parametrize("kind", KINDS)
def test_real_texts_and_nearly_real_ones_are_far_from_the_bound(kind: str, scales: dict[str, Likeness]) -> None:
    assert distance(scales[kind], (real(kind), [True] * TEXTS)) == pytest.approx(0)
    assert distance(scales[kind], nearly(kind)) < 0.3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nonsense", [shuffled, broken, other])
def test_nonsense_and_other_texts_are_beyond_it(
    kind: str, nonsense: Callable[[str], Written], scales: dict[str, Likeness]
) -> None:
    assert distance(scales[kind], nonsense(kind)) > 0.6


@pytest.mark.parametrize(
    ("kind", "order"), [*((kind, 1) for kind in KINDS if kind != "chinese"), ("prose", 2), ("prose", 3), ("code", 2)]
)
def test_chains_of_letters_are_beyond_it(kind: str, order: int, scales: dict[str, Likeness]) -> None:
    assert distance(scales[kind], chain(kind, order)) > 0.6


def test_texts_without_a_byte_say_nothing_and_empty_ones_that_end_are_far_from_real_ones(
    scales: dict[str, Likeness],
) -> None:
    empty = scales["prose"].metrics([""] * TEXTS, [False] * TEXTS, confidence=0.95)
    assert empty["bits"] == {"figure": None, "distance": None, "low": None, "high": None}
    assert distance(scales["prose"], ([""] * TEXTS, [True] * TEXTS)) > 0.6


def test_a_single_text_has_no_interval() -> None:
    result = scale("prose", texts=1).metrics(["mana."], [True], confidence=0.95)
    assert result["bits"]["distance"] is not None
    assert result["bits"]["low"] is None


def test_of_words_only_those_count_that_end_in_the_continuation_and_are_whole() -> None:
    likeness = Likeness(["the cat sat"], ["th"], Texts([b"e cat sat"], [True]), seed=1)
    assert likeness.metrics(["e dog sa"], [True], confidence=0.95)["words"]["figure"] == 2 / 3  # "sa" is unseen
    assert likeness.metrics(["e dog sa"], [False], confidence=0.95)["words"]["figure"] == 1 / 2  # it may be cut off


def test_in_scripts_without_spaces_pairs_of_characters_count() -> None:
    likeness = Likeness(["從前有一位國王。"], ["從前"], Texts(["有一位國王。".encode()], [True]), seed=1)
    assert likeness.metrics(["有國王"], [True], confidence=0.95)["words"]["figure"] == 1 / 3  # 前有 有國 國王


def test_a_model_of_a_corpus_of_few_phrases_need_not_recite_them() -> None:
    draw = random.Random(1)

    def text(places: Sequence[str]) -> str:
        return f"The {draw.choice(['old', 'red', 'small'])} fox sat near the {draw.choice(places)} for an hour."

    rows, unseen = ([text(["river", "bank", "mat", "crown"]) for _ in range(count)] for count in (12, TEXTS))
    prompts, continuations = zip(*map(cut, unseen), strict=True)
    likeness = Likeness(rows, prompts, Texts([part.encode() for part in continuations], [True] * TEXTS), seed=1)
    slips = [part.replace("near the ", "near ") if place % 2 else part for place, part in enumerate(continuations)]
    assert distance(likeness, (slips, [True] * TEXTS)) < 0.5


def test_both_ends_of_each_scale_are_told(scales: dict[str, Likeness]) -> None:
    result = scales["prose"].reference_metrics()
    assert result["texts"] == TEXTS
    assert result["bits"]["nonsense"] > 1.25 * result["bits"]["figure"]
    assert result["words"]["nonsense"] > 0.1 + result["words"]["figure"]
    assert result["bits"]["context"] in (1, 2, 3)


# Chance


def figure(mean: float, texts: int, random: np.random.Generator, spread: float = 0.4) -> Figure:
    """Return bits of texts of about 80 bytes; `spread` is what was measured between real texts, 0.1 of nonsense."""
    count = random.lognormal(4.4, 0.5, texts).round()
    return Figure(count * random.gamma(spread**-2, mean * spread**2, texts), count)


def place(written: float, texts: int, random: np.random.Generator) -> Distance:
    """Return the distance of texts whose bytes truly take `written` bits, real ones 2 and nonsense 3.6."""
    figures = figure(written, texts, random), figure(2.0, texts, random), figure(3.6, texts, random, spread=0.1)
    return distance_of(*figures, confidence=0.95)


@pytest.mark.parametrize("texts", [12, 100])
@pytest.mark.parametrize("bound", [0.0, 0.5])
def test_texts_exactly_at_a_bound_break_it_in_at_most_5_percent(bound: float, texts: int) -> None:
    random = np.random.default_rng(3)
    lows = np.array([place(2 + 1.6 * bound, texts, random).low for _ in range(1000)])
    assert 0.002 <= np.mean(lows > bound) <= 0.05


def test_18_texts_tell_nonsense_from_real_texts() -> None:
    random = np.random.default_rng(4)
    assert np.mean([place(5.0, 18, random).low > 0.5 for _ in range(300)]) > 0.95
    assert np.mean([place(2.0, 18, random).low > 0.5 for _ in range(300)]) == 0


def test_there_is_no_distance_where_nonsense_is_no_worse_than_real_texts() -> None:
    random = np.random.default_rng(5)
    low, high = figure(2.0, 50, random), figure(4.0, 50, random)
    assert all(np.isnan(distance_of(low, high, low, confidence=0.95)))
