"""Are generated texts like real ones? Where they lie between real unseen texts and nonsense.

No large model is needed. Two figures say how unlike the training rows a text is: the bits that a byte of it takes under
an n-gram model of them, and the share of its words that occur in none. Real unseen texts are one end of a figure's
scale; the other is nonsense from the corpus's own letters, each drawn by the few before it. So the scale means the same
in any script and for any kind of text.

It asks for precision, not for coverage (Sajjadi et al. 2018, Assessing generative models via precision and recall): a
model may write only what is typical, as one does at a low temperature. Repetition and copies are measured elsewhere.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from pipeline.evaluation.ngrams import NGramModel

_MAX_BYTES = 1_000_000  # of training rows that are counted; more changes both ends of the scale alike
_CONTEXTS = (3, 2, 1, 0)  # bytes that nonsense is drawn by
# Nonsense nearer to real texts than this is mostly copies of training rows.
_LEAST_RATIO = 1.25  # of their bits per byte
_LEAST_BITS = 0.75  # likewise, more per byte; of a corpus of few phrases a quarter more is next to nothing
_LEAST_POINTS = 0.1  # likewise, more unseen words
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(rf"(?=([{_NO_SPACES}]{{2}}))|([^\W{_NO_SPACES}]+)")  # pairs of characters in scripts without spaces


class Figure(NamedTuple):
    """A ratio of sums over texts, such as bits per byte; one entry a text."""

    total: npt.NDArray[np.float64]
    units: npt.NDArray[np.float64]  # bytes, or words

    @property
    def mean(self) -> float:
        """Return the ratio; NaN where there is nothing to count."""
        return float(self.total.sum() / self.units.sum()) if self.units.sum() else float("nan")


class Distance(NamedTuple):
    """How far texts are from real ones, with its interval: 0 is real unseen texts, 1 is nonsense."""

    value: float
    low: float
    high: float


class Texts(NamedTuple):
    """Continuations of the prompts."""

    texts: Sequence[bytes]
    ended: Sequence[bool]


class Likeness:
    """The scales of one corpus, and where texts lie on them. Computed when they are first used."""

    def __init__(self, training_texts: Sequence[str], prompts: Sequence[str], real: Texts, seed: int) -> None:
        """Take the training rows and real unseen texts.

        Args:
            training_texts: In random order; the first MB is used.
            prompts: How the unseen texts begin; every model continues these.
            real: How they go on.
            seed: Of the nonsense.
        """
        self._training_texts = _first(training_texts, _MAX_BYTES)
        self._prompts = [prompt.encode() for prompt in prompts]
        self._seed = seed
        self._real_texts = real

    def metrics(self, texts: Sequence[str], ended: Sequence[bool], confidence: float) -> dict[str, Any]:
        """Return where a model's continuations of the prompts lie.

        For "bits" (per byte) and "words" (the share that occurs in no training row; of pairs of characters in scripts
        without spaces) the `figure`, the `distance` and its interval, `low` to `high`; None for what cannot be told.
        """
        written = self.figures(Texts([text.encode() for text in texts], ended))
        result = {}
        for name, figure in written.items():
            # Half the risk for each of two figures, as either may stop a model (Bonferroni).
            distance = distance_of(figure, self.real[name], self.nonsense[name][1], (1 + confidence) / 2)
            result[name] = {"figure": figure.mean, **dict(zip(("distance", "low", "high"), distance, strict=True))}
        return {name: {key: _finite(value) for key, value in entries.items()} for name, entries in result.items()}

    def reference_metrics(self) -> dict[str, Any]:
        """Return both ends of each scale, and how many bytes the letters of its nonsense are drawn by."""
        return {
            "texts": len(self._prompts),
            **{
                name: {
                    "figure": _finite(real.mean),
                    "nonsense": _finite(self.nonsense[name][1].mean),
                    "context": self.nonsense[name][0],
                }
                for name, real in self.real.items()
            },
        }

    @cached_property
    def model(self) -> NGramModel:
        """The n-gram model of the training rows."""
        return NGramModel(self._training_texts)

    @cached_property
    def _words(self) -> set[str]:
        return {word for text in self._training_texts for word, _ in _words_of(text)}

    @cached_property
    def real(self) -> dict[str, Figure]:
        """The figures of real unseen texts."""
        return self.figures(self._real_texts)

    @cached_property
    def nonsense(self) -> dict[str, tuple[int, Figure]]:
        """For each figure, the nonsense nearest to real texts that still differs, and what it is drawn by.

        A chain of few rows has so little choice that it copies them; letters are then drawn by fewer before them.
        """
        nearest: dict[str, tuple[int, Figure]] = {}
        for context in _CONTEXTS:
            drawn = self.figures(self._drawn(context))
            real = self.real["bits"].mean
            least = {
                "bits": max(_LEAST_RATIO * real, _LEAST_BITS + real),
                "words": _LEAST_POINTS + self.real["words"].mean,
            }
            nearest |= {
                name: (context, figure)
                for name, figure in drawn.items()
                if name not in nearest and (figure.mean >= least[name] or context == _CONTEXTS[-1])
            }
            if len(nearest) == len(drawn):
                break
        return nearest

    def _drawn(self, context: int) -> Texts:
        random = np.random.default_rng(self._seed)
        drawn = [
            self.model.draw(prompt, context, max(1, len(text)), random)
            for prompt, text in zip(self._prompts, self._real_texts.texts, strict=True)
        ]
        return Texts([text for text, _ in drawn], [ends for _, ends in drawn])

    def figures(self, texts: Texts) -> dict[str, Figure]:
        """Return the figures of continuations of the prompts; what the prompts take is not counted."""
        bits, words = [], []
        for prompt, text, ends in zip(self._prompts, texts.texts, texts.ended, strict=True):
            bits.append(self.model.bits(prompt, text, ends=ends))
            words.append(self._unseen(prompt, text, ends=ends))
        return {
            "bits": Figure(np.array([one.sum() for one in bits]), np.array([len(one) for one in bits], float)),
            "words": Figure(*np.array(words, float).T),
        }

    def _unseen(self, prompt: bytes, text: bytes, *, ends: bool) -> tuple[int, int]:
        """Return how many of a continuation's words are unseen, and how many it has."""
        start, whole = len(prompt.decode()), (prompt + text).decode(errors="replace")
        # The last word of a text that was cut off may be half of one.
        words = [word for word, end in _words_of(whole) if end > start and (ends or end < len(whole))]
        return sum(word not in self._words for word in words), len(words)


def distance_of(texts: Figure, real: Figure, nonsense: Figure, confidence: float) -> Distance:
    """Return how far `texts` are from `real`, as a share of the way to `nonsense`; entries of one prompt pair up.

    Student's interval of a ratio of sums, linearised (the delta method; Cochran 1977, Sampling Techniques, chapter 6).
    Of a single text there is no interval. NaN where nonsense is no worse than real texts.
    """
    scale = nonsense.mean - real.mean
    value = (texts.mean - real.mean) / scale if scale > 0 else float("nan")
    count = len(texts.total)
    if not np.isfinite(value) or count < 2:
        return Distance(value, float("nan"), float("nan"))
    change = (_influence(texts) - (1 - value) * _influence(real) - value * _influence(nonsense)) / scale
    reach = float(stdtrit(count - 1, (1 + confidence) / 2) * np.sqrt((change**2).sum() / (count * (count - 1))))
    return Distance(value, value - reach, value + reach)


def _influence(figure: Figure) -> npt.NDArray[np.float64]:
    """Return by how much each text moves the figure, times the number of texts: (texts,), of mean 0."""
    influence: npt.NDArray[np.float64] = (figure.total - figure.mean * figure.units) / figure.units.mean()
    return influence


def _words_of(text: str) -> list[tuple[str, int]]:
    """Return the words of `text` in small letters, and where each ends."""
    found = ((match, 1 if match.group(1) else 2) for match in _WORDS.finditer(text))
    return [(match.group(group).lower(), match.end(group)) for match, group in found]


def _first(texts: Sequence[str], max_bytes: int) -> list[str]:
    """Return the first of `texts`, up to `max_bytes` bytes and at least one."""
    sizes = np.cumsum([len(text.encode()) for text in texts])
    return list(texts[: max(1, int(np.searchsorted(sizes, max_bytes, side="right")))])


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
