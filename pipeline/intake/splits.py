"""Which split a text is in: by a hash of the text alone, so that no text ever moves."""

import hashlib
import re
import unicodedata

import numpy as np
import regex
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
LONG = 1_000_000  # characters
# Sorting a run of combining marks takes Python time quadratic in the run. UAX 15's stream-safe form breaks a run by a
# combining grapheme joiner after 30; texts too short for the time to matter are left as they are.
_MARKS_FREE = 2_000  # characters
_MARKS = regex.compile(r"\p{M}{30}(?=\p{M})")


def normalize_text(text: str) -> str:
    """Return what of `text` counts when texts are compared: NFKC, case folded, runs of white space as one space.

    A text above LONG characters keeps its Unicode form, since NFKC can make 18 characters of one.
    """
    # For ASCII, NFKC changes nothing and folding is lowering.
    folded = text.lower() if text.isascii() else _compatible(text).casefold()
    if len(folded) <= LONG:
        return " ".join(folded.split())
    # By parts: the words of a text of 100 MB, as a list, take more than 1 GB.
    parts = (folded[start : start + LONG] for start in range(0, len(folded), LONG))
    spaced = (" " * part[0].isspace() + " ".join(part.split()) + " " * part[-1].isspace() for part in parts)
    return re.sub("  +", " ", "".join(spaced)).strip(" ")


def _compatible(text: str) -> str:
    """Return the NFKC form of `text`, if it is not above LONG characters."""
    if len(text) > LONG:
        return text
    if len(text) > _MARKS_FREE:
        text = _MARKS.sub("\\g<0>\u034f", text)
    return unicodedata.normalize("NFKC", text)


def text_digest(normalized: str) -> bytes:
    """Return the SHA-256 (32 bytes) of a normalised text; also of one with lone surrogates, as JSON may hold."""
    return hashlib.sha256(normalized.encode(errors="surrogatepass")).digest()


def split_of(text: str, validation_share: float, test_share: float) -> str:
    """Return the split of `text`: "train", "validation" or "test".

    It hangs on a hash of the normalised text alone, so a text stays where it is when the CSV grows, and all copies
    of a text are on one side.
    """
    position = int.from_bytes(text_digest(normalize_text(text))[:8], "big")
    return str(assign_splits(np.array([position], dtype=np.uint64), validation_share, test_share)[0])


def assign_splits(positions: NDArray[np.uint64], validation_share: float, test_share: float) -> NDArray[np.object_]:
    """Return the split of each text, given the first 8 bytes of its digest as a big-endian number."""
    shares = positions / 2**64
    names = np.full(len(positions), "train", dtype=object)
    names[shares < test_share + validation_share] = "validation"
    names[shares < test_share] = "test"
    return names
