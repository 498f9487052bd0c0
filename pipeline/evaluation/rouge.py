"""Words of any script, and ROUGE on them (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004).

`rouge_score` has an ASCII tokenizer, pulls nltk and absl in, and finds a common subsequence in pure Python row by row;
the figures here are equal to its on ASCII text, which a test shows.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex

# Scripts that put no space between words are taken by the character, with its marks, as sacrebleu's zh and char do.
_UNSPACED = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}"
    r"\p{Script=Myanmar}\u30fc"  # the Japanese long vowel is of no script
)
_WORD = regex.compile(rf"(?V1)[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}\u200c\u200d]--[{_UNSPACED}]]+")
_WORD_OR_MARK = regex.compile(rf"{_WORD.pattern}|[^\s\p{{C}}]")


def words(text: str) -> list[str]:
    """Return the words of `text` in lower case: letters, their marks, and digits; in NFKC."""
    return list(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def words_and_marks(text: str) -> list[str]:
    """Return words as they are written, and every other character that is seen as one of its own; in NFKC."""
    return list(_WORD_OR_MARK.findall(unicodedata.normalize("NFKC", text)))


def rouge_n(output: Sequence[str], reference: Sequence[str], n: int) -> float:
    """Return the F1 of shared n-grams, each counted as often as both have it; 0 where one has none."""
    first, second = (Counter(zip(*(words[at:] for at in range(n)), strict=False)) for words in (output, reference))
    return _f1((first & second).total(), first.total(), second.total())


def rouge_l(output: Sequence[str], reference: Sequence[str]) -> float:
    """Return the F1 of the longest common subsequence of all words, across sentences."""
    return _f1(common_length(output, reference), len(output), len(reference))


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, in bits of one integer (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited").
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    everything = (1 << len(first)) - 1
    state = everything
    for word in second:
        matches = state & places.get(word, 0)
        state = (state + matches | state - matches) & everything
    return len(first) - state.bit_count()


def _f1(shared: int, first: int, second: int) -> float:
    """Return 2 P R / (P + R) of `shared` among `first` and among `second`."""
    return 2 * shared / (first + second) if first + second else 0.0
