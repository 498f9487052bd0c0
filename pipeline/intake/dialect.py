"""How a CSV writes its fields, as the arguments of csv.reader."""

import csv
import re
from collections.abc import Iterator
from typing import Literal, TypedDict

from pipeline.intake.file_format import LONGEST_RECORD, FileFormat

csv.field_size_limit(2 * LONGEST_RECORD)  # `unescaped_lines` may double a record

DELIMITERS = (",", ";", "\t", "|")
NO_DELIMITER = "\x1f"  # ASCII's own separator of fields, for a file of one column; no text holds it


class Dialect(TypedDict):
    """The arguments of csv.reader."""

    delimiter: str
    quotechar: str | None
    quoting: Literal[0, 3]  # csv.QUOTE_MINIMAL or csv.QUOTE_NONE
    escapechar: str | None
    strict: bool


def dialect(found: FileFormat, *, strict: bool = True) -> Dialect:
    """Return the arguments that make csv.reader read as `found` says."""
    return Dialect(
        delimiter=found.delimiter,
        quotechar=found.quote or None,
        quoting=csv.QUOTE_MINIMAL if found.quote else csv.QUOTE_NONE,
        escapechar=found.escape or None,
        strict=strict,
    )


def unescaped_lines(found: FileFormat, text: Iterator[str]) -> Iterator[str]:
    """Return `text` with each escape character that escapes nothing doubled, so that csv.reader keeps it.

    csv.reader would drop the backslash of `C:\\new`. An escape counts before a quote, a delimiter, a line break and
    itself.
    """
    if not found.escape:
        return text
    escape, special = found.escape, {found.escape, found.delimiter, found.quote, "\r", "\n"} - {""}
    pairs = re.compile(re.escape(escape) + "(.?)", re.DOTALL)

    def kept(pair: re.Match[str]) -> str:
        return pair[0] if pair[1] in special else escape + escape + pair[1]

    return (pairs.sub(kept, line) if escape in line else line for line in text)
