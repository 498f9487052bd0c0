"""Whether texts end in one of few words, as rows do whose last word is a label or a short answer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_MIN_TEXTS = 20  # fewer may end alike by chance
_MIN_SHARE = 0.99  # of the texts, so that a label that was left out now and then does not hide the rest
_FEW_WORDS = 20
_TEXTS_PER_LABEL = 5  # where a word such as "Intent:" stands before the last one in nearly every text


@dataclass(frozen=True)
class LabelEndings:
    """The last words of texts that look like labels."""

    words: int  # different ones
    share: float  # of the texts end in one of them


def label_endings(texts: Sequence[str]) -> LabelEndings | None:
    """Return how many words nearly all texts end in; None where these do not look like labels.

    They do where two or more words end more than one text each and 99 % of the texts together, and either are at most
    20, or follow the same word and end five texts each on average. This is a heuristic for a warning, not a test.
    """
    split = [text.casefold().split() for text in texts]
    long_enough = [words for words in split if len(words) > 1]
    if len(texts) < _MIN_TEXTS or not long_enough:
        return None
    endings = Counter(words[-1].strip(".,;:!?\"'()[]{}<>") for words in long_enough)
    repeated = [count for count in endings.values() if count > 1]
    share = sum(repeated) / len(texts)
    [(_, most_common)] = Counter(words[-2] for words in long_enough).most_common(1)
    follows_one_word = most_common / len(texts) >= _MIN_SHARE and len(repeated) * _TEXTS_PER_LABEL <= len(texts)
    if len(repeated) < 2 or share < _MIN_SHARE or not (len(repeated) <= _FEW_WORDS or follows_one_word):
        return None
    return LabelEndings(len(repeated), share)
