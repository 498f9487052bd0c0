"""Escapes untrusted text for a terminal, Markdown, HTML and JSON.

File names, column names, cells, reasons, user names and commit messages may contain anything: terminal control
sequences, bidirectional characters that reorder the display, Markdown that loads an image, HTML.
"""

import json
import re
from typing import Any

from markupsafe import Markup, escape

# Control characters other than tab and line feed; line and paragraph separators; bidirectional controls; zero-width
# characters except the two joiners that emoji and scripts need; tag characters; lone surrogates.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>()#+!|~&$:@]")  # has a meaning in Markdown or HTML, or creates a link


def visible(text: str) -> str:
    """Return `text` with each invisible or misleading character as an escape; tabs and line feeds stay."""
    return _INVISIBLE.sub(_code, text)


def terminal(text: str) -> str:
    """Return `text` as one line for a terminal or a log, with line feeds and tabs escaped too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: str) -> str:
    """Return `text` as one line of Markdown, or a table cell, that renders literally.

    Uses backslashes, because Prefect's UI does not decode numeric entities.
    """
    return _MARKDOWN.sub(r"\\\g<0>", visible(" ".join(text.split())))


def html(text: str) -> Markup:
    """Return `text` for an element or a quoted attribute of an HTML page."""
    return escape(visible(text))


def finalize(value: object) -> Markup:
    """Return the escaped text of a value; the `finalize` function of every Jinja environment."""
    return value if isinstance(value, Markup) else html(str(value))


def as_json(content: Any, *, ascii_only: bool = False, indent: int | None = 2) -> str:
    """Return `content` as JSON in which every invisible or misleading character is escaped."""
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only, default=str)
    return _INVISIBLE.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
