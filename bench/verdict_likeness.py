"""Does the gate `likeness` tell real texts from nonsense? A table over the kinds of text that this machine has.

Good texts are real ones with words left out or wrong letters, and a chain of words; bad ones are chains of letters,
shuffled letters, texts of another corpus and bytes. How often chance alone would stop real texts is counted over
splits of real texts into two halves.
"""

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.verdict_corpora import corpora
from pipeline.command import warn
from pipeline.evaluation.likeness import Figure, Likeness, Texts, distance_of

_BOUND = 0.5  # of params.yaml
_CONFIDENCE = 0.95
_PROMPT = 30  # characters
_LONGEST = 300  # characters of a continuation
_TEXTS = 100
_HALVES = 300

Written = Sequence[tuple[bytes, bool]]  # texts, and whether each ends as a row does
Places = npt.NDArray[np.int64]
Part = tuple[str, list[harness.Row]]


def likeness_table(*, quick: bool) -> Part:
    """Return a table with a line for each corpus, and its rows."""
    training, halves = (300, 20) if quick else (1600, _HALVES)
    all_texts = corpora(fewest=4 * _TEXTS, most=2 if quick else None, first=600 if quick else None)
    lines, rows = [], []
    for name, texts in all_texts.items():
        warn(f"likeness: {name}")
        other = next(others for another, others in all_texts.items() if another != name)
        distances, stopped, count = _measured(texts, other, training, halves)
        lines.append(
            [name, f"{count:,}", *(f"{100 * share:.1f}" for share in stopped), *map(_interval, distances.values())]
        )
        rows += [
            harness.Row(f"{name}: {kind}", "distance", value, "of 1", low, value, "the bound", value / _BOUND)
            for kind, (value, low) in distances.items()
        ]
    heads = ["distance (lower end)", "training rows", "real, beyond 0, %", "beyond 0.5, %", *distances]
    return harness.table(heads, lines), rows


def _interval(distance: tuple[float, float]) -> str:
    return f"{distance[0]:.2f} ({distance[1]:.2f})"


def _measured(
    texts: Sequence[str], other: Sequence[str], training: int, halves: int
) -> tuple[dict[str, tuple[float, float]], tuple[float, float], int]:
    """Return each kind's distance, how often halves of real texts lie beyond 0 and the bound, and the training rows."""
    held_out = 2 * _TEXTS
    rows = list(texts[: min(training, len(texts) - held_out)])
    unseen = [_cut(text) for text in texts[-held_out:]]
    first = _likeness(rows, unseen[:_TEXTS])
    written = _written(first, rows, unseen[:_TEXTS], other)
    distances = {name: _distance(first, Texts(*zip(*one, strict=True))) for name, one in written.items()}
    return distances, _by_chance(_likeness(rows, unseen), halves), len(rows)


def _cut(text: str) -> tuple[str, bytes, bool]:
    """Return a prompt, how it goes on, and whether that is the end."""
    start = min(_PROMPT, len(text) // 4)
    return text[:start], text[start : start + _LONGEST].encode(), len(text) <= start + _LONGEST


def _likeness(rows: Sequence[str], unseen: Sequence[tuple[str, bytes, bool]]) -> Likeness:
    prompts, real, ends = zip(*unseen, strict=True)
    return Likeness(rows, prompts, Texts(real, ends), seed=42)


def _distance(likeness: Likeness, texts: Texts) -> tuple[float, float]:
    """Return the distance that speaks most against the texts, and its lower end."""
    result = likeness.metrics([text.decode(errors="replace") for text in texts.texts], texts.ended, _CONFIDENCE)
    found = [(entry["distance"], entry["low"]) for entry in result.values() if entry["low"] is not None]
    return max(found, key=lambda entry: entry[1])


def _by_chance(likeness: Likeness, halves: int) -> tuple[float, float]:
    """Return how often one half of real texts lies beyond 0, and beyond the bound, when the other half is the scale."""
    random_ = np.random.default_rng(1)
    lows = [max(_lows(likeness, *np.split(random_.permutation(2 * _TEXTS), 2))) for _ in range(halves)]
    return float(np.mean(np.array(lows) > 0)), float(np.mean(np.array(lows) > _BOUND))


def _lows(likeness: Likeness, one: Places, other: Places) -> list[float]:
    lows = []
    for name, real in likeness.real.items():
        nonsense = likeness.nonsense[name][1]
        halves = (real, one), (real, other), (nonsense, other)
        texts, rest, drawn = (Figure(figure.total[half], figure.units[half]) for figure, half in halves)
        lows.append(distance_of(texts, rest, drawn, (1 + _CONFIDENCE) / 2).low)
    return lows


def _written(
    likeness: Likeness, rows: Sequence[str], unseen: Sequence[tuple[str, bytes, bool]], other: Sequence[str]
) -> dict[str, Written]:
    """Return what is judged, the good ones first."""
    draw, random_ = random.Random(1), np.random.default_rng(2)

    def changed(change: Callable[[str], str]) -> Written:
        return [(change(text.decode()).encode(), ends) for _, text, ends in unseen]

    def chain(context: int) -> Written:
        return [likeness.model.draw(prompt.encode(), context, len(text), random_) for prompt, text, _ in unseen]

    return {
        "1 word in 20 missing": changed(lambda text: _thinned(text, draw)),
        "1 letter in 100 wrong": changed(
            lambda text: "".join(draw.choice(text) if draw.random() < 0.01 else letter for letter in text)
        ),
        "new texts of a chain of words": _word_chain(rows, unseen, draw),
        "chain of bytes by 3": chain(3),
        "by 2": chain(2),
        "by 1": chain(1),
        "shuffled letters": changed(lambda text: "".join(draw.sample(text, len(text)))),
        "another corpus": [(_cut(text)[1], _cut(text)[2]) for text in other[: len(unseen)]],
        "random bytes": [(draw.randbytes(len(text)), False) for _, text, _ in unseen],
    }


def _thinned(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    kept = words if len(words) > 5 else list(text)
    return (" " if len(words) > 5 else "").join(word for word in kept if draw.random() > 0.05)


def _word_chain(rows: Sequence[str], unseen: Sequence[tuple[str, bytes, bool]], draw: random.Random) -> Written:
    """Return texts whose words (characters, in scripts without spaces) are drawn by the two before them."""
    followers: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        words = ["", "", *_words(row), "\0"]
        for place in range(2, len(words)):
            followers.setdefault(tuple(words[place - 2 : place]), []).append(words[place])
    starts: Mapping[str, list[str]] = {"": followers["", ""]}
    written = []
    for _, text, _ in unseen:
        words = ["", ""]
        while sum(map(len, words)) < len(text.decode()) and words[-1] != "\0":
            words.append(draw.choice(followers.get(tuple(words[-2:]), starts[""])))
        written.append(("".join(words).rstrip("\0").encode(), words[-1] == "\0"))
    return written


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return [f"{word} " for word in words[:-1]] + words[-1:] if len(words) > 5 else list(text)
