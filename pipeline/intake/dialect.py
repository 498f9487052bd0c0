"""The dialect of a CSV as arguments of csv.reader."""

import csv
import re
from collections.abc import Iterator
from typing import Literal, TypedDict

from pipeline.intake.file_format import LONGEST_RECORD, FileFormat

csv.field_size_limit(2 * LONGEST_RECORD)  # `double_lone_escapes` may double a record

DELIMITERS = (",", ";", "\t", "|")
NO_DELIMITER = "\x1f"  # ASCII's unit separator, for a file of one column; no text holds it


class Dialect(TypedDict):
    """The arguments of csv.reader."""

    delimiter: str
    quotechar: str | None
    quoting: Literal[0, 3]  # csv.QUOTE_MINIMAL or csv.QUOTE_NONE
    escapechar: str | None
    strict: bool


def csv_dialect(file_format: FileFormat, *, strict: bool = True) -> Dialect:
    """Return the arguments with which csv.reader reads a file of this format."""
    return Dialect(
        delimiter=file_format.delimiter,
        quotechar=file_format.quote or None,
        quoting=csv.QUOTE_MINIMAL if file_format.quote else csv.QUOTE_NONE,
        escapechar=file_format.escape or None,
        strict=strict,
    )


def double_lone_escapes(file_format: FileFormat, lines: Iterator[str]) -> Iterator[str]:
    """Return `lines` with each escape character that escapes nothing doubled, so that csv.reader keeps it.

    csv.reader would drop the backslash of `C:\\new`. An escape character has an effect before a quote, a delimiter, a
    line break and itself.
    """
    if not file_format.escape:
        return lines
    escape = file_format.escape
    special = {escape, file_format.delimiter, file_format.quote, "\r", "\n"} - {""}
    pairs = re.compile(re.escape(escape) + "(.?)", re.DOTALL)

    def keep(pair: re.Match[str]) -> str:
        return pair[0] if pair[1] in special else escape + escape + pair[1]

    return (pairs.sub(keep, line) if escape in line else line for line in lines)
