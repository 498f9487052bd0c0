"""What the first rows of a CSV say: delimiter, quote, header and columns; and plain text, a text on each line."""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NoReturn

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.dialect import DELIMITERS, NO_DELIMITER
from pipeline.intake.file_format import FileFormat, Sample, SettingsError, check_reserved, check_width, preview, shown
from pipeline.intake.json_lines import is_json
from pipeline.intake.trial_parse import Reading, read_sample

QUOTES = ('"', "'", "")
TEXT_COLUMN = "text"  # of plain text


def sniff_table(found: FileFormat, wanted: params.Data, sample: Sample, names: Collection[str] = ()) -> FileFormat:
    """Return `found` with delimiter, header and first rows.

    `names` are columns that the settings name, which tell a header. Raises UserError for what the first rows show.
    """
    path = found.path
    found = replace(found, quote=_mark(wanted.quote), escape=_mark(wanted.escape), header=wanted.header == "first")
    _check_dialect(found, wanted)
    if sample.whole and not any(line.strip() for line in sample.lines):
        what = "holds blank lines only" if sample.lines else "the file is empty"
        raise UserError(f"{path}: {what}; expected a header line and a row for each text")
    if found.format == "text":
        return _sniff_text(found, sample)
    _refuse_first_line(found, next((line for line in sample.lines if line.strip()), ""))
    found = _with_dialect(found, sample, wanted, names)
    reading = read_sample(found, sample, strict=False)
    found = _with_line_ends(found, reading, sample)
    if not found.header:
        width = len(reading.records[0]) if reading.records else 1
        check_width(f"{path}, line 1: ", width)
        columns = tuple(f"column_{number}" for number in range(1, max(1, width) + 1))
        mend = f"data.header: none: the columns are called {columns[0]} to {columns[-1]}"
        return replace(found, columns=columns, sample=_rows(reading.records), fixes=(*found.fixes, mend))
    return _with_header(found, reading, sample)


def _mark(setting: str) -> str:
    return "" if setting in ("none", "auto") else setting


def _sniff_text(found: FileFormat, sample: Sample) -> FileFormat:
    """Return `found` as plain text: each line that is not blank is a text."""
    found = replace(found, delimiter="", quote="", escape="", header=False, columns=(TEXT_COLUMN,))
    texts = [(line.rstrip("\r\n"),) for line in sample.lines if line.strip()]
    ends = read_sample(replace(found, delimiter=NO_DELIMITER), sample)
    return _with_line_ends(replace(found, sample=tuple(texts[:100])), ends, sample)


def _refuse_first_line(found: FileFormat, first: str) -> None:
    """Raise UserError where the first line tells that the file is no CSV, or Excel's own."""
    where = f"{found.path}, line 1: "
    if first.lower().startswith("sep=") and len(first.rstrip()) == 5:
        raise UserError(
            f"{where}holds Excel's own {first.strip()!r}; delete the line and set data.delimiter: "
            f"{json.dumps(first[4])} in params.yaml"
        )
    if first.lstrip().startswith('{"') and is_json(first):
        raise SettingsError(
            f"{where}holds JSON",
            "name the file .jsonl or set data.format: jsonl in params.yaml",
            {"data.format": "jsonl"},
        )
    if re.match(r"\s*(\{|\[|\[\s*\{\s*\"[^\"]*\":.*)\s*$", first):
        command = "jq -c '.[]'" if first.lstrip().startswith("[") else "jq -c ."
        raise UserError(
            f"{where}holds JSON, and not an object on each line; {command} FILE > NEW.jsonl makes such lines"
        )


def _with_line_ends(found: FileFormat, reading: Reading, sample: Sample) -> FileFormat:
    note = {
        "mixed": "line ends are mixed: each of LF, CRLF and CR ends a row",
        "CR": "lines end with CR alone, as on old Macs",
    }.get(reading.line_ends)
    if reading.line_ends == "CR" and "\r\n" in sample.lines[1:2]:
        note = "lines end with CR CR LF, which makes every other one blank"
    return replace(found, line_ends=reading.line_ends, notes=(*found.notes, note) if note else found.notes)


def _with_header(found: FileFormat, reading: Reading, sample: Sample) -> FileFormat:
    records, where = reading.records, f"{found.path}, line {reading.line}: "
    header = records[0] if records else [""]
    check_width(where, len(header))
    if sample.whole and len(records) == 1 and any("\n" in name or "\r" in name for name in header):
        raise SettingsError(
            f"{where}the header goes on to the end of the file, so a quote ({found.quote}) that opens in it is never "
            "closed",
            "close it",
        )
    found = replace(found, columns=tuple(header), header_line=reading.line, sample=_rows(records[1:]))
    _check_header(found, where)
    if sample.whole and len(records) == 1:
        raise UserError(
            f"{found.path}: there is no row below the header ({preview(header)}); expected one for each text: add them"
        )
    if reading.line > 1:
        above = "line 1 is" if reading.line == 2 else f"lines 1 to {reading.line - 1} are"
        found = replace(found, notes=(*found.notes, f"{above} blank; the header is line {reading.line}"))
    data = _like_data(header)
    if data is not None:
        note = (
            f"the header names a column {data!r}; if line {reading.line} is a row, set data.header: none in params.yaml"
        )
        found = replace(found, notes=(*found.notes, note))
    return found


def _rows(records: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(fields) for fields in records[:100])


# --- delimiter and quote


def _with_dialect(found: FileFormat, sample: Sample, wanted: params.Data, names: Collection[str]) -> FileFormat:
    """Return `found` with its delimiter and quote, found by trial where the settings leave them to it."""
    asked = "\t" if found.format == "tsv" else wanted.delimiter
    if asked != "auto" and wanted.quote != "auto":
        return replace(found, delimiter=asked)
    delimiters = DELIMITERS if asked == "auto" else (asked,)
    fitting: list[Reading] = []
    for strict in (True, False):  # a broken row among the first ones is named later, with its line
        tried = [_best_quote(replace(found, delimiter=mark), sample, wanted, strict=strict) for mark in delimiters]
        fitting = fitting or [reading for reading in tried if reading and (asked != "auto" or reading.width > 1)]
    fitting = _likeliest(fitting, names)
    if len(fitting) > 1:
        _refuse_several(found, fitting)
    if fitting:
        return _with_mends(found, fitting[0], wanted)
    if asked != "auto":
        raise SettingsError(
            f"{found.path}: data.quote: auto cannot tell the quote: with none of \", ' and none do all rows have as "
            f"many fields between {shown(asked)}",
            "set data.quote in params.yaml",
        )
    return _as_one_column(found, sample, wanted)


def _best_quote(found: FileFormat, sample: Sample, wanted: params.Data, *, strict: bool = True) -> Reading | None:
    """Return the reading with the quote that leaves the fewest fields in quotes, None where none fits."""
    quotes = QUOTES if wanted.quote == "auto" else (found.quote,)
    tried = [
        read_sample(replace(found, quote=quote), sample, strict=strict)
        for quote in quotes
        if not quote or quote not in (found.delimiter, found.escape)
    ]
    fitting = [reading for reading in tried if reading.fits and reading.look.delimiter != reading.look.escape]
    return min(fitting, key=lambda reading: (not _is_quoted(reading), round(reading.leftover, 2)), default=None)


def _likeliest(fitting: list[Reading], names: Collection[str]) -> list[Reading]:
    """Return those of several readings that quotes or the header's names speak for; all where nothing does."""
    for speaks_for in (_is_quoted, lambda reading: bool(names) and set(names) <= set(reading.records[0])):
        if len(fitting) > 1:
            fitting = [reading for reading in fitting if speaks_for(reading)] or fitting
    return fitting


def _is_quoted(reading: Reading) -> bool:
    return reading.quoted >= 0.5


def _refuse_several(found: FileFormat, fitting: list[Reading]) -> NoReturn:
    seen = " and ".join(f"{shown(reading.look.delimiter)} ({reading.width} fields)" for reading in fitting)
    raise SettingsError(
        f"{found.path}: data.delimiter: auto cannot tell, since {seen} fit every row",
        "set data.delimiter in params.yaml to one of them",
    )


def _with_mends(found: FileFormat, reading: Reading, wanted: params.Data) -> FileFormat:
    """Return `found` with the dialect of `reading`, and what was left to be found."""
    delimiter, quote = reading.look.delimiter, reading.look.quote
    fields = "one field" if reading.width == 1 else f"{reading.width} fields"
    mends = []
    if found.format != "tsv" and wanted.delimiter == "auto":
        mends.append(f"data.delimiter: auto: read as separated by {shown(delimiter)}, {fields} on each row")
    if wanted.quote == "auto":
        mends.append(_quote_mend(quote))
    return replace(found, delimiter=delimiter, quote=quote, fixes=(*found.fixes, *mends))


def _as_one_column(found: FileFormat, sample: Sample, wanted: params.Data) -> FileFormat:
    """Return `found` as one column; raises UserError where the first row holds what may separate fields."""
    found = replace(found, delimiter=NO_DELIMITER)
    reading = _best_quote(found, sample, wanted) or _best_quote(found, sample, wanted, strict=False)
    first = reading.records[0][0] if reading else sample.lines[0].strip()
    if reading is None or any(delimiter in first for delimiter in DELIMITERS):
        raise SettingsError(
            f"{found.path}: data.delimiter: auto cannot tell what separates the fields of {preview([first])}: none of "
            "comma, semicolon, tab and bar gives every row as many",
            "set data.delimiter in params.yaml",
        )
    mend = f"data.delimiter: auto: read as one column, since line {reading.line} holds no comma, semicolon, tab or bar"
    found = replace(found, fixes=(*found.fixes, mend), quote=reading.look.quote)
    return replace(found, fixes=(*found.fixes, _quote_mend(found.quote))) if wanted.quote == "auto" else found


def _quote_mend(quote: str) -> str:
    return f"data.quote: auto: read {f'with the quote {quote}' if quote else 'without quotes'}"


def _check_dialect(found: FileFormat, wanted: params.Data) -> None:
    """Raise UserError where two of the marks between and in fields are the same, or end lines."""
    delimiter = "\t" if found.format == "tsv" else wanted.delimiter
    marks = {"data.delimiter": delimiter, "data.quote": found.quote, "data.escape": found.escape}
    for key, mark in marks.items():
        if mark in ("\r", "\n"):
            raise UserError(f"params.yaml: {key}: found a line break, which ends rows; name another character")
    for key, other in (("delimiter", "quote"), ("delimiter", "escape"), ("escape", "quote")):
        if marks[f"data.{key}"] and marks[f"data.{key}"] == marks[f"data.{other}"]:
            hint = "; a quote written twice needs no escape: set data.escape: none" if key == "escape" else ""
            raise UserError(
                f"params.yaml: data.{key} and data.{other} are both {marks[f'data.{key}']!r}; name two different "
                f"characters{hint}"
            )


def _check_header(found: FileFormat, where: str) -> None:
    """Raise UserError unless each column has a name of its own."""
    names = found.columns
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        count = names.count(twice[0])
        what = f"names {twice[0]!r} more than once" if twice[0] else f"leaves {count} columns without a name"
        raise SettingsError(
            f"{where}the header {what}",
            "give each column its own name, or delete what stands before the header",
        )
    check_reserved(found, where)


def _like_data(header: Sequence[str]) -> str | None:
    """Return a name of `header` that looks like a field of a row: blank, a number, prose."""
    for name in header:
        if not name.strip() or re.fullmatch(r"[-+\d.,:/% ]+", name) or len(name.split()) > 12:
            return name if len(name) <= 60 else name[:59] + "…"
    return None
