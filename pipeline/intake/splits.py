"""Assigns texts to splits by a hash of the text alone, so that no text ever moves."""

import hashlib
import math
import re
import unicodedata

import numpy as np
import regex
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
LONG = 1_000_000  # characters, above which a text is normalised by parts
# Python sorts a run of combining marks in quadratic time. UAX 15's stream-safe form breaks a run after 30 marks by a
# combining grapheme joiner; texts too short for the time to matter stay as they are.
_UNBROKEN_RUNS = 2_000  # characters
_LONG_RUN = regex.compile(r"\p{M}{30}(?=\p{M})")


def normalize_text(text: str) -> str:
    """Return the form in which texts are compared: NFKC, case-folded, each run of white space as one space.

    A text above LONG characters keeps its Unicode form, since NFKC can turn one character into 18.
    """
    # NFKC does not change ASCII, and folding ASCII is lower-casing it.
    folded = text.lower() if text.isascii() else _nfkc(text).casefold()
    if len(folded) <= LONG:
        return " ".join(folded.split())
    # By parts, since the words of a text of 100 MB take more than 1 GB as a list.
    parts = (folded[start : start + LONG] for start in range(0, len(folded), LONG))
    spaced = (" " * part[0].isspace() + " ".join(part.split()) + " " * part[-1].isspace() for part in parts)
    return re.sub("  +", " ", "".join(spaced)).strip(" ")


def _nfkc(text: str) -> str:
    """Return the NFKC form of `text`; above LONG characters, `text` itself."""
    if len(text) > LONG:
        return text
    if len(text) > _UNBROKEN_RUNS:
        text = _LONG_RUN.sub("\\g<0>\u034f", text)
    return unicodedata.normalize("NFKC", text)


def text_digest(normalized: str) -> bytes:
    """Return the SHA-256 (32 bytes) of a normalised text, which may hold lone surrogates, as JSON does."""
    return hashlib.sha256(normalized.encode(errors="surrogatepass")).digest()


def split_of(text: str, validation_share: float, test_share: float) -> str:
    """Return the split of `text`: "train", "validation" or "test".

    It depends on a hash of the normalised text alone, so a text stays in its split when the CSV grows, and all copies
    of a text are in one split.
    """
    position = int.from_bytes(text_digest(normalize_text(text))[:8], "big")
    return str(assign_splits(np.array([position], dtype=np.uint64), validation_share, test_share)[0])


def assign_splits(positions: NDArray[np.uint64], validation_share: float, test_share: float) -> NDArray[np.object_]:
    """Return the split of each text; `positions` are the first 8 bytes of their digests as big-endian numbers."""
    shares = positions / 2**64
    names = np.full(len(positions), "train", dtype=object)
    names[shares < test_share + validation_share] = "validation"
    names[shares < test_share] = "test"
    return names


def rows_for_each_split(validation_share: float, test_share: float) -> int:
    """Return how many rows leave the smallest split empty with a probability of 5 %: (1 - share)^rows = 0.05."""
    smallest = min(validation_share, test_share, 1 - validation_share - test_share)
    return math.ceil(math.log(0.05) / math.log(1 - smallest))
