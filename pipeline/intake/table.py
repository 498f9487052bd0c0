"""What the first rows of a CSV say: delimiter, header and columns."""

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.columns import headerless
from pipeline.intake.dialect import DELIMITERS, NO_DELIMITER, separated_by
from pipeline.intake.json_lines import is_json
from pipeline.intake.source import Look, SettingsError, check_reserved, clipped, sample_lines, shown, written
from pipeline.intake.trial import fields_a_row, line_ends_of, sample_records


def look_at_table(found: Look, wanted: params.Data) -> Look:
    """Return `found` with delimiter, header and sample; raises UserError for what the first rows show."""
    path = found.path
    quote = "" if wanted.quote == "none" else wanted.quote
    escape = "" if wanted.escape == "none" else wanted.escape
    found = replace(found, quote=quote, escape=escape)
    _check_dialect(found, wanted)
    sample, whole = sample_lines(found)
    if whole and not any(line.strip() for line in sample):
        what = "holds blank lines only" if sample else "the file is empty"
        raise UserError(f"{path}: {what}; expected a header line and a row for each text")
    if sample[0].lower().startswith("sep=") and len(sample[0].rstrip()) == 5:
        raise UserError(
            f"{path}, line 1: holds Excel's own {sample[0].strip()!r}; delete the line and set data.delimiter: "
            f"{json.dumps(sample[0][4])} in params.yaml"
        )
    if sample[0].lstrip().startswith('{"') and is_json(sample[0]):
        raise SettingsError(
            f"{path}, line 1: holds JSON; name the file .jsonl or set data.format: jsonl in params.yaml",
            {"data.format": "jsonl"},
        )
    if re.match(r"\s*(\{|\[|\[\s*\{\s*\"[^\"]*\":.*)\s*$", sample[0]):
        command = "jq -c '.[]'" if sample[0].lstrip().startswith("[") else "jq -c ."
        raise UserError(
            f"{path}, line 1: holds JSON, and not an object on each line; {command} FILE > NEW.jsonl makes such lines"
        )
    if wanted.header == "first" and not sample[0].strip():
        raise UserError(f"{path}, line 1: is blank where the header should be; delete the blank lines before it")
    found = _with_delimiter(found, sample, whole, wanted)
    records, ends = sample_records(found, sample, whole)
    found = replace(found, line_ends=line_ends_of(ends), header=wanted.header == "first")
    if found.line_ends == "mixed":
        found = replace(found, notes=(*found.notes, "line ends are mixed: each of LF, CRLF and CR ends a row"))
    elif found.line_ends == "CR" and sample[1:2] == ["\r\n"]:
        found = replace(found, notes=(*found.notes, "lines end with CR CR LF, which makes every other one blank"))
    elif found.line_ends == "CR":
        found = replace(found, notes=(*found.notes, "lines end with CR alone, as on old Macs"))
    if not found.header:
        width = len(records[0]) if records else 1
        columns = tuple(f"column_{number}" for number in range(1, max(1, width) + 1))
        mend = f"data.header: none: the columns are called {columns[0]} to {columns[-1]}"
        return replace(found, columns=columns, sample=_rows(records), mends=(*found.mends, mend))
    header = records[0] if records else [""]
    if whole and len(records) == 1 and any("\n" in name or "\r" in name for name in header):
        raise UserError(
            f"{path}, line 1: the header goes on to the end of the file, so a quote ({found.quote}) that opens in it "
            "is never closed; close it"
        )
    found = replace(found, columns=tuple(header), sample=_rows(records[1:]))
    _check_header(found)
    if whole and len(records) == 1:
        raise UserError(
            f"{path}: there is no row below the header ({clipped(header)}); expected one for each text: add them"
        )
    data = _like_data(header)
    if data is not None:
        note = f"the header names a column {data!r}; if line 1 is a row, set data.header: none in params.yaml"
        found = replace(found, notes=(*found.notes, note))
    return found


def _rows(records: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(fields) for fields in records[:100])


def _with_delimiter(found: Look, sample: Sequence[str], whole: bool, wanted: params.Data) -> Look:
    """Return `found` with its delimiter; raises UserError where another one, or none for sure, fits the file."""
    asked = "\t" if found.format == "tsv" else wanted.delimiter
    fitting = {
        delimiter: fields
        for delimiter in dict.fromkeys((*DELIMITERS, *(asked if asked != "auto" else "")))
        if (fields := fields_a_row(replace(found, delimiter=delimiter), sample, whole)) > 1
    }
    if asked != "auto":
        others = [delimiter for delimiter in fitting if delimiter != asked]
        if asked not in fitting and len(others) == 1:
            settings = separated_by(others[0], found)
            raise SettingsError(
                f"{found.path}, line 1: the fields are separated by {shown(others[0])} ({fitting[others[0]]} on each "
                f"row), not by {shown(asked)}; set {written(settings)} in params.yaml",
                settings,
            )
        return replace(found, delimiter=asked)
    if len(fitting) > 1:
        seen = " and ".join(f"{shown(delimiter)} ({fields} fields)" for delimiter, fields in fitting.items())
        raise UserError(
            f"{found.path}: data.delimiter: auto cannot tell, since {seen} fit every row; set data.delimiter in "
            "params.yaml to one of them"
        )
    if fitting:
        delimiter, fields = next(iter(fitting.items()))
        mend = f"data.delimiter: auto: read as separated by {shown(delimiter)}, {fields} fields on each row"
        return replace(found, delimiter=delimiter, mends=(*found.mends, mend))
    first = next(csv.reader(sample[:1], quotechar=found.quote or None, delimiter=NO_DELIMITER), [""])[0]
    if any(delimiter in first for delimiter in DELIMITERS):
        raise UserError(
            f"{found.path}: data.delimiter: auto cannot tell what separates the fields of {clipped([first])}: none of "
            "comma, semicolon, tab and bar gives every row as many; set data.delimiter in params.yaml"
        )
    mend = "data.delimiter: auto: read as one column, since line 1 holds no comma, semicolon, tab or bar"
    return replace(found, delimiter=NO_DELIMITER, mends=(*found.mends, mend))


def _check_dialect(found: Look, wanted: params.Data) -> None:
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


def _check_header(found: Look) -> None:
    """Raise UserError unless each column has a name of its own."""
    names, where = found.columns, f"{found.path}, line 1: "
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        count = names.count(twice[0])
        what = f"names {twice[0]!r} more than once" if twice[0] else f"leaves {count} columns without a name"
        settings = headerless(found)
        if settings:
            raise SettingsError(
                f"{where}the header {what}, and looks like a row; set {written(settings)} in params.yaml", settings
            )
        raise UserError(
            f"{where}the header {what}; give each column its own name, delete what stands before the header, or set "
            "data.header: none in params.yaml if there is none"
        )
    check_reserved(found, where)


def _like_data(header: Sequence[str]) -> str | None:
    """Return a name of `header` that looks like a field of a row: blank, a number, prose."""
    for name in header:
        if not name.strip() or re.fullmatch(r"[-+\d.,:/% ]+", name) or len(name.split()) > 12:
            return name if len(name) <= 60 else name[:59] + "…"
    return None
