"""How figures, sizes and texts read on pages: rounded, with units, redacted and cut."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from pipeline import escape
from pipeline.intake import identifiers
from pipeline.intake.personal_data import PERSONAL_RULES
from pipeline.redaction import redact

Mask = Callable[[str], str]

EXCERPT = 200  # characters
LONGEST_IDENTIFIER = 5_000  # characters; a private key of 4096 bits has 3,300
# Redact more than is shown, so that cutting a text leaves no half of a number.
_REDACTED = 20_000

_HIGHLIGHTS = {  # reason -> what to center an excerpt on
    "encoding_damage": re.compile("[\ufffd\x80-\x9f\ud800-\udfff]"),
    "control_characters": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]"),
    **{reason: re.compile(rf"\[{reason}\]") for reason in (*PERSONAL_RULES, *identifiers.RULES)},
}


def percent(share: float) -> str:
    """Return a share from 0 to 1 as a percentage; a small share never reads as 0 %, nor a large one as 100 %."""
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


def number(value: float) -> str:
    """Return a number with thousands separators: whole from 10 up, else with one decimal."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def rounded(value: Any, kind: str = "") -> str:
    """Return a figure from JSON, rounded to about three digits.

    Args:
        value: A number, a text (returned as it is), a bool, or None, which reads as a dash.
        kind: "share" for a share of 1, "change" for a share with its sign, "" for any other number.
    """
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if kind == "change":
        # A fall near 100 % keeps a digit that tells it from 100 %.
        decimals = max(2, math.ceil(-math.log10(100 * (1 - value))) + 1) if 0.99 < value < 1 else 2
        return f"{100 * value:+.{decimals}f} %"
    if kind == "share" and 0 <= value <= 1:
        return percent(value)
    if abs(value) >= 1e9 or 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    if isinstance(value, int) or value == 0 or abs(value) >= 1000:
        return 0
    return next(decimals for limit, decimals in ((1, 3), (100, 2), (1000, 1)) if abs(value) < limit)


def figure(value: Any, kind: str = "") -> Markup:
    """Return a `rounded` figure as HTML that also holds the exact value, as in the JSON, for programs."""
    if value is None:
        return escape.html(rounded(value))
    exact = value if isinstance(value, str) else json.dumps(value)
    return Markup('<data value="{}">{}</data>').format(escape.html(exact), escape.html(rounded(value, kind)))


def excerpt(text: str, reason: str = "", mask: Mask = redact) -> str:
    """Return `text` redacted by `mask` and cut to 200 characters around what `reason` is about.

    An ellipsis marks each end that was cut off.
    """
    redacted = mask(text[:_REDACTED])
    if len(text) > _REDACTED:
        redacted = redacted[:-LONGEST_IDENTIFIER]
    match = _HIGHLIGHTS[reason].search(redacted) if reason in _HIGHLIGHTS else None
    start = 0 if match is None or match.end() <= EXCERPT else match.start() - EXCERPT // 2
    end = start + EXCERPT
    is_cut = end < len(redacted) or len(text) > _REDACTED
    return ("…" if start else "") + redacted[start:end] + ("…" if is_cut else "")


def cut_middle(text: str, length: int) -> str:
    """Return `text` with its middle left out where it is longer than `length` characters."""
    return text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}"
