"""The format of a CSV by its first rows: delimiter, quote, header and columns; and of plain text, one text per line."""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.dialect import DELIMITERS, NO_DELIMITER
from pipeline.intake.file_format import (
    FileFormat,
    SettingsError,
    check_reserved,
    check_width,
    delimiter_name,
    preview,
)
from pipeline.intake.json_lines import is_json_object
from pipeline.intake.text_lines import Sample
from pipeline.intake.trial_parse import TrialParse, parse_sample

QUOTES = ('"', "'", "")
TEXT_COLUMN = "text"  # the column of plain text
_SAMPLE_ROWS = 100


def sniff_table(file_format: FileFormat, data: params.Data, sample: Sample, names: Collection[str] = ()) -> FileFormat:
    """Return `file_format` with delimiter, header and first rows; raises UserError if the first rows contradict them.

    Args:
        file_format: What is known of the file so far.
        data: The settings to read it with.
        sample: Its first lines.
        names: Columns that the settings name, by which a header is recognised.
    """
    path = file_format.path
    header = data.header == "first"
    file_format = replace(file_format, quote=_mark(data.quote), escape=_mark(data.escape), header=header)
    _check_marks(file_format, data)
    if sample.whole and not any(line.strip() for line in sample.lines):
        what = "holds blank lines only" if sample.lines else "the file is empty"
        raise UserError(f"{path}: {what}; expected a header line and one row per text")
    if file_format.format == "text":
        return _sniff_text(file_format, sample)
    _check_first_line(file_format, next((line for line in sample.lines if line.strip()), ""))
    file_format = _with_dialect(file_format, sample, data, names)
    trial = parse_sample(file_format, sample, strict=False)
    file_format = _with_line_ends(file_format, trial, sample)
    if header:
        return _with_header(file_format, trial, sample)
    return _without_header(file_format, trial)


def _mark(setting: str) -> str:
    return "" if setting in ("none", "auto") else setting


def _delimiter_setting(file_format: FileFormat, data: params.Data) -> str:
    """Return the delimiter of the settings, "auto" included; that of a TSV is a tab."""
    return "\t" if file_format.format == "tsv" else data.delimiter


def _sniff_text(file_format: FileFormat, sample: Sample) -> FileFormat:
    """Return `file_format` as plain text: each line that is not blank is a text."""
    file_format = replace(file_format, delimiter="", quote="", escape="", header=False, columns=(TEXT_COLUMN,))
    texts = [(line.rstrip("\r\n"),) for line in sample.lines if line.strip()]
    trial = parse_sample(replace(file_format, delimiter=NO_DELIMITER), sample)
    return _with_line_ends(replace(file_format, sample=tuple(texts[:_SAMPLE_ROWS])), trial, sample)


def _check_first_line(file_format: FileFormat, first: str) -> None:
    """Raise UserError if the first line shows that the file is JSON, or holds Excel's separator line."""
    where = f"{file_format.path}, line 1: "
    if first.lower().startswith("sep=") and len(first.rstrip()) == 5:
        raise UserError(
            f"{where}holds Excel's own {first.strip()!r}; delete the line and set data.delimiter: "
            f"{json.dumps(first[4])} in params.yaml"
        )
    if first.lstrip().startswith('{"') and is_json_object(first):
        raise SettingsError(
            f"{where}holds JSON",
            "name the file .jsonl or set data.format: jsonl in params.yaml",
            {"data.format": "jsonl"},
        )
    if re.match(r"\s*(\{|\[|\[\s*\{\s*\"[^\"]*\":.*)\s*$", first):
        command = "jq -c '.[]'" if first.lstrip().startswith("[") else "jq -c ."
        raise UserError(f"{where}holds JSON, and not one object per line; convert it with {command} FILE > NEW.jsonl")


def _with_line_ends(file_format: FileFormat, trial: TrialParse, sample: Sample) -> FileFormat:
    note = {
        "mixed": "line ends are mixed: each of LF, CRLF and CR ends a row",
        "CR": "lines end with CR alone, as on old Macs",
    }.get(trial.line_ends)
    if trial.line_ends == "CR" and "\r\n" in sample.lines[1:2]:
        note = "lines end with CR CR LF, which makes every other line blank"
    file_format = replace(file_format, line_ends=trial.line_ends)
    return _add_note(file_format, note) if note else file_format


def _add_note(file_format: FileFormat, note: str) -> FileFormat:
    return replace(file_format, notes=(*file_format.notes, note))


def _add_fixes(file_format: FileFormat, *fixes: str) -> FileFormat:
    return replace(file_format, fixes=(*file_format.fixes, *fixes))


def _without_header(file_format: FileFormat, trial: TrialParse) -> FileFormat:
    """Return `file_format` with numbered columns."""
    width = len(trial.records[0]) if trial.records else 1
    check_width(width, f"{file_format.path}, line 1: ")
    columns = tuple(f"column_{number}" for number in range(1, max(1, width) + 1))
    file_format = replace(file_format, columns=columns, sample=_first_rows(trial.records))
    return _add_fixes(file_format, f"data.header: none: the columns are called {columns[0]} to {columns[-1]}")


def _with_header(file_format: FileFormat, trial: TrialParse, sample: Sample) -> FileFormat:
    """Return `file_format` with the columns of the first record; raises UserError if it cannot be a header."""
    records, line = trial.records, trial.first_line
    where = f"{file_format.path}, line {line}: "
    header = records[0] if records else [""]
    only_header = sample.whole and len(records) == 1
    check_width(len(header), where)
    if only_header and any("\n" in name or "\r" in name for name in header):
        raise SettingsError(
            f"{where}the header goes on to the end of the file, so a quote ({file_format.quote}) that opens in it is "
            "never closed",
            "close it",
        )
    file_format = replace(file_format, columns=tuple(header), header_line=line, sample=_first_rows(records[1:]))
    _check_header(file_format.columns, where)
    if only_header:
        raise UserError(
            f"{file_format.path}: there is no row below the header ({preview(header)}); expected one row per text"
        )
    if line > 1:
        above = "line 1 is" if line == 2 else f"lines 1 to {line - 1} are"
        file_format = _add_note(file_format, f"{above} blank; the header is line {line}")
    name = _name_like_a_field(header)
    if name is not None:
        note = f"the header names a column {name!r}; if line {line} is a row, set data.header: none in params.yaml"
        file_format = _add_note(file_format, note)
    return file_format


def _first_rows(records: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(fields) for fields in records[:_SAMPLE_ROWS])


# --- delimiter and quote


def _with_dialect(file_format: FileFormat, sample: Sample, data: params.Data, names: Collection[str]) -> FileFormat:
    """Return `file_format` with its delimiter and quote, found by trial where the settings say auto."""
    delimiter = _delimiter_setting(file_format, data)
    if delimiter != "auto" and data.quote != "auto":
        return replace(file_format, delimiter=delimiter)
    delimiters = DELIMITERS if delimiter == "auto" else (delimiter,)
    fitting: list[TrialParse] = []
    for strict in (True, False):  # a broken row among the first ones is reported later, with its line
        trials = [_best_quote(replace(file_format, delimiter=mark), sample, data, strict=strict) for mark in delimiters]
        fitting = fitting or [trial for trial in trials if trial and (delimiter != "auto" or trial.width > 1)]
    fitting = _likeliest(fitting, names)
    if len(fitting) > 1:
        raise _ambiguous_error(file_format, fitting)
    if fitting:
        return _with_trial(file_format, fitting[0], data)
    if delimiter != "auto":
        raise SettingsError(
            f"{file_format.path}: data.quote: auto cannot tell the quote: with none of \", ' and none do all rows have "
            f"as many fields between {delimiter_name(delimiter)}",
            "set data.quote in params.yaml",
        )
    return _as_one_column(file_format, sample, data)


def _best_quote(
    file_format: FileFormat, sample: Sample, data: params.Data, *, strict: bool = True
) -> TrialParse | None:
    """Return the trial with the quote that leaves the fewest fields in quotes, or None if no quote fits."""
    quotes = QUOTES if data.quote == "auto" else (file_format.quote,)
    trials = [
        parse_sample(replace(file_format, quote=quote), sample, strict=strict)
        for quote in quotes
        if not quote or quote not in (file_format.delimiter, file_format.escape)
    ]
    fitting = [trial for trial in trials if trial.fits and file_format.delimiter != file_format.escape]
    return min(fitting, key=lambda trial: (not _is_quoted(trial), round(trial.unparsed_quotes, 2)), default=None)


def _likeliest(fitting: list[TrialParse], names: Collection[str]) -> list[TrialParse]:
    """Return the trials with quoted fields or a header that holds `names`; all where there is none."""
    for is_likely in (_is_quoted, lambda trial: bool(names) and set(names) <= set(trial.records[0])):
        if len(fitting) > 1:
            fitting = [trial for trial in fitting if is_likely(trial)] or fitting
    return fitting


def _is_quoted(trial: TrialParse) -> bool:
    return trial.quoted_share >= 0.5


def _ambiguous_error(file_format: FileFormat, fitting: list[TrialParse]) -> SettingsError:
    candidates = " and ".join(
        f"{delimiter_name(trial.file_format.delimiter)} ({trial.width} fields)" for trial in fitting
    )
    return SettingsError(
        f"{file_format.path}: data.delimiter: auto cannot tell, since {candidates} fit every row",
        "set data.delimiter in params.yaml to one of them",
    )


def _with_trial(file_format: FileFormat, trial: TrialParse, data: params.Data) -> FileFormat:
    """Return `file_format` with the dialect of `trial`, and a sentence for each part that was detected."""
    delimiter, quote = trial.file_format.delimiter, trial.file_format.quote
    fields = "one field" if trial.width == 1 else f"{trial.width} fields"
    fixes = []
    if _delimiter_setting(file_format, data) == "auto":
        fixes.append(f"data.delimiter: auto: read as separated by {delimiter_name(delimiter)}, {fields} on each row")
    if data.quote == "auto":
        fixes.append(_describe_quote(quote))
    return _add_fixes(replace(file_format, delimiter=delimiter, quote=quote), *fixes)


def _as_one_column(file_format: FileFormat, sample: Sample, data: params.Data) -> FileFormat:
    """Return `file_format` as one column; raises UserError if the first row holds what may separate fields."""
    file_format = replace(file_format, delimiter=NO_DELIMITER)
    trial = _best_quote(file_format, sample, data) or _best_quote(file_format, sample, data, strict=False)
    first = trial.records[0][0] if trial else sample.lines[0].strip()
    if trial is None or any(delimiter in first for delimiter in DELIMITERS):
        raise SettingsError(
            f"{file_format.path}: data.delimiter: auto cannot tell what separates the fields of {preview([first])}: "
            "none of comma, semicolon, tab and bar gives every row as many",
            "set data.delimiter in params.yaml",
        )
    line = trial.first_line
    fixes = [f"data.delimiter: auto: read as one column, since line {line} holds no comma, semicolon, tab or bar"]
    if data.quote == "auto":
        fixes.append(_describe_quote(trial.file_format.quote))
    return _add_fixes(replace(file_format, quote=trial.file_format.quote), *fixes)


def _describe_quote(quote: str) -> str:
    return f"data.quote: auto: read {f'with the quote {quote}' if quote else 'without quotes'}"


def _check_marks(file_format: FileFormat, data: params.Data) -> None:
    """Raise UserError if two of delimiter, quote and escape are the same, or one of them ends lines."""
    marks = {
        "data.delimiter": _delimiter_setting(file_format, data),
        "data.quote": file_format.quote,
        "data.escape": file_format.escape,
    }
    for key, mark in marks.items():
        if mark in ("\r", "\n"):
            raise UserError(f"params.yaml: {key}: found a line break, which ends rows; name another character")
    for key, other in (
        ("data.delimiter", "data.quote"),
        ("data.delimiter", "data.escape"),
        ("data.escape", "data.quote"),
    ):
        if marks[key] and marks[key] == marks[other]:
            hint = "; a quote written twice needs no escape: set data.escape: none" if key == "data.escape" else ""
            raise UserError(
                f"params.yaml: {key} and {other} are both {marks[key]!r}; name two different characters{hint}"
            )


def _check_header(names: Sequence[str], where: str) -> None:
    """Raise UserError unless each column has a name of its own."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        missing = f"leaves {names.count(twice[0])} columns without a name"
        what = f"names {twice[0]!r} more than once" if twice[0] else missing
        raise SettingsError(
            f"{where}the header {what}",
            "give each column its own name, or delete what stands before the header",
        )
    check_reserved(names, where)


def _name_like_a_field(header: Sequence[str]) -> str | None:
    """Return a name of `header` that looks like a field of a row: blank, a number, or prose."""
    for name in header:
        if not name.strip() or re.fullmatch(r"[-+\d.,:/% ]+", name) or len(name.split()) > 12:
            return name if len(name) <= 60 else name[:59] + "…"
    return None
