"""How figures, sizes and texts read on pages: rounded, with units, redacted and cut."""

import re
from collections.abc import Callable
from typing import Any

from pipeline.intake import identifiers
from pipeline.intake.personal_data import PERSONAL_RULES
from pipeline.redaction import redact

Mask = Callable[[str], str]

EXCERPT = 200  # characters
# What is redacted is more than what is shown, so that no half of a number stays because the other half was cut off.
_REDACTED = 20_000
_LONGEST_DATUM = 5_000  # a private key of 4096 bits has 3,300 characters

_FOUND = {
    "encoding_damage": re.compile("[\ufffd\x80-\x9f\ud800-\udfff]"),
    "control_characters": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]"),
    **{reason: re.compile(rf"\[{reason}\]") for reason in (*PERSONAL_RULES, *identifiers.RULES)},
}


def excerpt(text: str, reason: str = "", mask: Mask = redact) -> str:
    """Return `text` redacted by `mask` and cut to 200 characters around what `reason` is about.

    An ellipsis stands where it goes on.
    """
    redacted = mask(text[:_REDACTED])
    if len(text) > _REDACTED:
        redacted = redacted[:-_LONGEST_DATUM]
    found = _FOUND[reason].search(redacted) if reason in _FOUND else None
    start = 0 if found is None or found.end() <= EXCERPT else found.start() - EXCERPT // 2
    end = start + EXCERPT
    goes_on = end < len(redacted) or len(text) > _REDACTED
    return ("…" if start else "") + redacted[start:end] + ("…" if goes_on else "")


def percent(share: float) -> str:
    """Return a share from 0 to 1 as a percentage; what is little but not nothing never reads as nothing."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    return f"{100 * share:.1f} %".replace(".0 %", " %")


def byte_size(size: float) -> str:
    """Return a number of bytes with a decimal unit."""
    if size < 1000:
        return f"{size} bytes"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:,.1f} GB"


def number(value: Any) -> str:
    """Return a number with its thousands apart: whole from 10 up, else with one digit behind the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
