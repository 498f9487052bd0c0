"""What a column holds, judged by its first rows, and whether a record is the header."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from pipeline.intake.file_format import FileFormat

_JSON_OPENING = "{["
_NUMBER = re.compile(r"[-+]?[\d.,\s]*\d(e[-+]?\d+)?%?", re.IGNORECASE)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?")


def column_kinds(file_format: FileFormat) -> dict[str, str]:
    """Return the kind of each column, by its first rows."""
    return {name: kind_of(values) for name, values in sampled_columns(file_format)}


def sampled_columns(file_format: FileFormat) -> Iterator[tuple[str, list[str]]]:
    """Yield each column's name and its values in the first rows."""
    for position, name in enumerate(file_format.columns):
        yield name, [row[position] for row in file_format.sample if position < len(row)]


def kind_of(values: Sequence[str]) -> str:
    """Return what `values` are, for a sentence: dates, numbers, text, JSON objects, ..."""
    filled = [value.strip() for value in values if value.strip()]
    if not filled:
        return "blank"
    if all(value[0] in _JSON_OPENING and _is_json(value) for value in filled):
        return "JSON objects" if filled[0][0] == _JSON_OPENING[0] else "JSON lists"
    if all(_DATE.fullmatch(value) for value in filled):
        return "dates"
    if all(_NUMBER.fullmatch(value) for value in filled):
        return "numbers"
    length = sum(map(len, filled)) / len(filled)
    if length >= 15 and sum(" " in value or not value.isascii() for value in filled) > len(filled) / 2:
        return f"text, {length:.0f} characters on average"
    return "short codes or words"


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def longest_texts(kinds: Mapping[str, str]) -> list[str]:
    """Return the columns of texts, the longest texts first; `kinds` is what `column_kinds` returns."""
    texts = [name for name, kind in kinds.items() if kind.startswith("text")]
    return sorted(texts, key=lambda name: -int(kinds[name].split()[1]))


def is_header(first: Sequence[str], rows: Sequence[Sequence[str]], names: Collection[str] = ()) -> bool:
    """Return whether `first`, the record above `rows`, names the columns, as it does if it holds all of `names`.

    It is a row if it holds prose, a number as a name, or a value that occurs again below it.
    """
    if names and set(names) <= set(first):
        return True
    filled = [name for name in first if name.strip()]
    if not filled or len(set(first)) < len(first):
        return False
    if filled == [str(number) for number in range(len(filled))]:  # pandas' names for unnamed columns
        return True
    if any(map(_is_no_name, filled)):
        return False
    rows = [row for row in rows if tuple(row) != tuple(first)]  # joined files repeat the header
    return not any(_is_a_value(name, [row[at] for row in rows if at < len(row)]) for at, name in enumerate(first))


def _is_a_value(name: str, values: Sequence[str]) -> bool:
    """Return whether `name` looks like one of the `values` below it: it occurs among them, or is prose as they are."""
    if name.strip() and name in values:
        return True
    words = len(name.split())
    return words > 3 and kind_of(values).startswith("text") and 2 * words >= min(len(value.split()) for value in values)


def _is_no_name(name: str) -> bool:
    """Return whether `name` looks like a field of a row rather than a column's name, which can be a question."""
    words, end = len(name.split()), name.strip().rstrip("\"'”»")[-1:]
    prose = (words > 8 and end not in ("?", ":")) or (words > 3 and end in (".", "!", "…"))
    return prose or bool(name.strip() and not re.search(r"[^\W\d]", name))
