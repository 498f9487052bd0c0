"""Texts of others, made harmless where they are shown: `terminal`, `markdown` and `html`, and `as_json`.

File names, column names, cells, reasons, user names and commit messages may hold anything: control characters that
drive a terminal, bidirectional characters that reorder what is read, Markdown that loads a picture, HTML.
"""

import json
import re
from typing import Any

from markupsafe import Markup, escape

# Controls other than tab and line feed; line and paragraph separators; characters that set or turn the reading
# direction; characters without any width, but not the two joiners that emoji and scripts need; tag characters; and
# halves of surrogate pairs, which no file can hold.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>()#+!|~&$:@]")  # has a meaning in Markdown or HTML, or makes a link


def visible(text: str) -> str:
    """Return `text` with each invisible or misleading character as its code point; tabs and line ends stay."""
    return _INVISIBLE.sub(_code, text)


def terminal(text: str) -> str:
    """Return `text` as one line for a terminal or a log: line ends and tabs are written as escapes too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: str) -> str:
    """Return `text` as one line of Markdown, or a cell of its tables, that shows it literally.

    Escaped by backslashes: Prefect's UI shows numeric entities as they are written.
    """
    return _MARKDOWN.sub(r"\\\g<0>", visible(" ".join(text.split())))


def html(text: str) -> Markup:
    """Return `text` for an element or a quoted attribute of an HTML page."""
    return escape(visible(text))


def finalize(value: object) -> Markup:
    """Return what a Jinja environment is to show of a value: all that pages show, paths too, comes through here."""
    return value if isinstance(value, Markup) else html(str(value))


def as_json(content: Any, *, ascii_only: bool = False, indent: int | None = 2) -> str:
    """Return `content` as JSON that holds no invisible or misleading character as such; it reads back the same."""
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only, default=str)
    return _INVISIBLE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
