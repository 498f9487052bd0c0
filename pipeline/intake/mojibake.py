"""Detects characters that arise when bytes are decoded with the wrong encoding, such as `Ã©` for `é` (by ftfy)."""

from collections.abc import Iterator
from functools import cache

from pipeline.intake.detector import Detector, Span


@cache
def mojibake_detector() -> Detector:
    """Return the detector; what it finds does not include U+FFFD, which is counted on its own."""
    return Detector(_prefilter(), _find)


def _find(text: str) -> Iterator[Span]:
    from ftfy.badness import BADNESS_RE

    return (match.span() for match in BADNESS_RE.finditer(text) if "\ufffd" not in match[0])


def _prefilter() -> str:
    """Return a pattern for RE2 that matches wherever ftfy's pattern does: pairs of its kinds of characters."""
    from ftfy.badness import MOJIBAKE_CATEGORIES as KINDS

    signs = "".join(
        KINDS[kind] for kind in ("bad", "law", "currency", "start_punctuation", "end_punctuation", "numeric", "box")
    )
    lower, upper = KINDS["lower_accented"], KINDS["upper_accented"]
    letters = lower + upper + KINDS["kaomoji"] + KINDS["lower_common"] + KINDS["upper_common"]
    return "|".join(
        (
            rf"[{KINDS['c1']}]",
            rf"[{signs}{letters}][{signs}]",
            rf"[{signs}][{letters}]",
            rf"[{lower}{KINDS['lower_common']}][{upper}]",
            rf"[{upper}{KINDS['upper_common']}]\x{{B0}}",
            r"[Œœ][^A-Za-z]",
            r"[ÂÃ] ",
            r"[ÂÃÎÐØÙ√≈\x{201A}][^\x00-\x7F]",
            r"[вВ]Ђ",
        )
    )
