"""Advises settings with which a file reads better, each tried on the first thousand rows before it is named.

A trial uses the reader that reads the file, and a proposal is named only if its rows fit, its texts are whole and its
column exists. So following the advice gives the texts by which the advice was judged.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.column_kinds import column_kinds, is_header, kind_of, longest_texts
from pipeline.intake.columns import near_name
from pipeline.intake.dialect import DELIMITERS, NO_DELIMITER
from pipeline.intake.file_format import FileFormat, SettingsError, delimiter_name, format_settings, preview
from pipeline.intake.table import QUOTES, TEXT_COLUMN, sniff_table
from pipeline.intake.text_builder import text_columns
from pipeline.intake.text_lines import Sample
from pipeline.intake.trial_parse import TrialParse, count_quoted_lines, parse_sample

_MOSTLY = 0.9  # of the rows
_FEW = 3  # rows, below which chance may explain what they show


@dataclass(frozen=True)
class Advice:
    """Settings by their full keys, and what they give."""

    settings: dict[str, str]
    trial: TrialParse
    column: str  # of the texts; "" if the settings name none

    def has_columns(self, columns: Collection[str]) -> bool:
        """Return whether the header holds these columns."""
        return set(columns) <= set(self.trial.file_format.columns)

    @property
    def changes_reading(self) -> bool:
        """Whether a setting of `data` is among them."""
        return any(key.startswith("data.") for key in self.settings)

    def __str__(self) -> str:
        """Return the advice as the end of a sentence."""
        count, width = len(self.trial.records), self.trial.width
        fields = "one field" if width == 1 else f"{width} fields"
        read = f"the first {count:,} records have {fields} each" if count > 1 else f"the first record has {fields}"
        sentence = f"set {format_settings(self.settings)} in params.yaml, with which {read}"
        columns = self.trial.file_format.columns
        if self.column in columns and (rows := self.trial.file_format.sample):
            at = columns.index(self.column)
            sentence += f" and the first text is {preview(rows[0][at : at + 1])}"
        return sentence


@dataclass(frozen=True)
class _Case:
    """A file for which settings are sought."""

    file_format: FileFormat
    data: params.Data  # the settings so far
    validate: params.Validate | None
    sample: Sample
    names: Collection[str]  # columns that the settings name


@dataclass(frozen=True)
class _Proposal:
    """A way to read the file, and the settings that ask for it."""

    file_format: FileFormat
    settings: dict[str, str]


def with_advice(
    error: SettingsError,
    file_format: FileFormat,
    data: params.Data,
    validate: params.Validate | None,
    sample: Sample,
) -> SettingsError:
    """Return `error` with tried advice in place of its own fix if other settings of `data` read the file better."""
    advice = _advise(_case(file_format, data, validate, sample))
    if advice is None or not advice.changes_reading:
        return error
    return SettingsError(error.what, str(advice), advice.settings)


def better_reading(file_format: FileFormat, data: params.Data, sample: Sample) -> Advice | None:
    """Return settings with which more rows fit the columns of `file_format`, or None."""
    names = file_format.columns if file_format.header else ()
    advice = _advise(_Case(file_format, data, None, sample, names))
    columns = len(file_format.columns)
    if advice is None or not advice.settings or (columns > 1 and advice.trial.width != columns):
        return None
    return advice


def _case(file_format: FileFormat, data: params.Data, validate: params.Validate | None, sample: Sample) -> _Case:
    return _Case(file_format, data, validate, sample, text_columns(validate) if validate else ())


def _advise(case: _Case) -> Advice | None:
    """Return the settings with which the file reads best, or None if none is known to be right.

    A proposal whose header holds the named columns goes first, then one with quoted fields, then one of several
    columns; of equals, the one that changes the fewest settings.
    """
    ranked = []
    for order, file_format in enumerate(_readings(case)):
        trial = parse_sample(file_format, case.sample)
        rank = _rank(trial, case)
        if rank is not None:
            proposal = _Proposal(file_format, _settings_of(file_format, case))
            ranked.append((rank, round(trial.unparsed_quotes, 2), len(proposal.settings), order, proposal))
    for *_, proposal in sorted(ranked, key=lambda entry: entry[:4]):
        advice = _verify(proposal, case)
        if advice:
            return advice
    return None


def _readings(case: _Case) -> Iterator[FileFormat]:
    """Yield ways to read the file, those of the settings first: delimiter, quote, escape and header."""
    file_format, data = case.file_format, case.data
    content = "".join(case.sample.lines)
    delimiter = "\t" if file_format.format == "tsv" else data.delimiter
    delimiters = [mark for mark in dict.fromkeys((delimiter, *DELIMITERS)) if len(mark) == 1 and mark in content]
    quote = "" if data.quote in ("none", "auto") else data.quote
    quotes = [quote, *(mark for mark in QUOTES if mark != quote and mark in content)]
    escapes = dict.fromkeys(("" if data.escape == "none" else data.escape, "", "\\"))
    headers = (True, False) if data.header == "first" else (False,)
    for delimiter, quote, escape, header in itertools.product(
        [*delimiters, NO_DELIMITER], quotes, [mark for mark in escapes if mark in content], headers
    ):
        if len({delimiter, quote, escape}) == 3 or (not quote and not escape):
            name = "tsv" if file_format.format == "tsv" and delimiter == "\t" else "csv"
            yield replace(file_format, format=name, delimiter=delimiter, quote=quote, escape=escape, header=header)
    yield replace(file_format, format="text", delimiter=NO_DELIMITER, quote="", escape="", header=False)


def _rank(trial: TrialParse, case: _Case) -> int | None:
    """Return how well a proposal reads the file, 0 best, or None if it does not or would cut or garble texts."""
    file_format, records, lines = trial.file_format, trial.records, case.sample.lines
    if not trial.fits or trial.unparsed_quotes >= 0.5:
        return None
    named = bool(case.names) and set(case.names) <= set(records[0])
    if file_format.header != is_header(records[0], records[1:], case.names):
        return None
    quoted, one_column = trial.quoted_share >= 0.5, trial.width == 1
    if not named and not quoted and (_has_fields(lines) if one_column else _is_prose(trial)):
        return None
    if file_format.format == "text":
        return None if count_quoted_lines(lines, "\n", "\"'") >= len(records) / 2 else 3
    if one_column and not quoted and not file_format.header:
        return None  # this is format text
    if named:
        return 0
    if one_column:
        return 3
    return 1 if quoted else 2


def _is_prose(trial: TrialParse) -> bool:
    """Return whether a space follows what separates the fields, as it follows commas in prose."""
    return trial.spaced_share >= _MOSTLY and trial.file_format.delimiter in ",;"


def _has_fields(lines: Sequence[str]) -> bool:
    """Return whether each line begins with a number or a code and a delimiter, so that it is not a text as a whole."""
    filled = [line for line in lines if line.strip()]
    for delimiter in DELIMITERS:
        pairs = [line.rstrip("\r\n").split(delimiter, 1) for line in filled if delimiter in line]
        if len(pairs) < _MOSTLY * len(filled):
            continue
        kind = kind_of([pair[0] for pair in pairs[1:] or pairs])  # line 1 may be a header
        spaced = sum(pair[1][:1] == " " for pair in pairs) >= len(pairs) / 2
        if kind in ("dates", "numbers") or not (spaced or kind.startswith("text")):
            return True
    return False


def _settings_of(reading: FileFormat, case: _Case) -> dict[str, str]:
    """Return the settings of `data` that a reading changes."""
    if reading.format == "text":
        return {"data.format": "text"}
    data = case.data
    delimiter = "auto" if reading.delimiter == NO_DELIMITER else reading.delimiter
    pairs = {
        "format": (case.file_format.format, reading.format),
        "header": (data.header, "first" if reading.header else "none"),
        "delimiter": (data.delimiter, data.delimiter if reading.format == "tsv" else delimiter),
        "quote": (data.quote, reading.quote or "none"),
        "escape": (data.escape, reading.escape or "none"),
    }
    return {f"data.{key}": value for key, (before, value) in pairs.items() if value != before}


def _verify(proposal: _Proposal, case: _Case) -> Advice | None:
    """Return the advice to make the proposal's settings and name its column, or None if the file does not read so.

    What the settings leave to auto is named only if auto does not find it.
    """
    settings = proposal.settings
    automatic = {f"data.{key}" for key in ("delimiter", "quote") if getattr(case.data, key) == "auto"}
    fewer = {key: value for key, value in settings.items() if key not in automatic}
    for tried in (fewer, settings) if fewer != settings else (settings,):
        file_format = _read_with(tried, proposal.file_format, case)
        if file_format is None:
            continue
        # Without a header a column's name is its position, which another delimiter moves.
        moved = not file_format.header and file_format.delimiter != case.data.delimiter
        column = _text_column(file_format, case.validate, moved=moved)
        if column is None:
            return None
        parsed = file_format
        if file_format.format == "text":
            parsed = replace(file_format, delimiter=proposal.file_format.delimiter)
        trial = replace(parse_sample(parsed, case.sample), file_format=file_format)
        if case.validate and column and column != case.validate.column:
            tried = tried | {"validate.column": column}
        return Advice(tried, trial, column)
    return None


def _read_with(settings: dict[str, str], reading: FileFormat, case: _Case) -> FileFormat | None:
    """Return the format that the file has with `settings`, or None if it is not that of `reading`."""
    data = case.data.model_copy(update={key.removeprefix("data."): value for key, value in settings.items()})
    try:
        file_format = sniff_table(replace(case.file_format, format=reading.format), data, case.sample, case.names)
    except UserError:
        return None
    marks = (file_format.delimiter or NO_DELIMITER, file_format.quote, file_format.escape, file_format.header)
    return file_format if marks == (reading.delimiter, reading.quote, reading.escape, reading.header) else None


def _text_column(file_format: FileFormat, validate: params.Validate | None, *, moved: bool) -> str | None:
    """Return the column that holds the texts, "" if none is needed, or None if there is none."""
    if validate is None:
        return ""
    if validate.template != "none" or validate.columns.texts:
        return "" if set(text_columns(validate)) <= set(file_format.columns) else None
    if file_format.format == "text":
        return TEXT_COLUMN
    if validate.column in file_format.columns and not moved:
        return validate.column
    near = None if moved else near_name(validate.column, file_format)
    return near or next(iter(longest_texts(column_kinds(file_format))), None)


# --- settings that parse, but give wrong texts


def check_texts(file_format: FileFormat, data: params.Data, validate: params.Validate | None, sample: Sample) -> None:
    """Raise SettingsError if the texts are cut or keep quotes around them, and other settings read them whole.

    Where data.quote is none, quotes are part of the texts.
    """
    if file_format.format not in ("csv", "tsv"):
        return
    case = _case(file_format, data, validate, sample)
    trial = parse_sample(file_format, sample)
    if not trial.fits:
        _check_fit(trial, case)
    if len(trial.records) < _FEW:
        return
    if data.broken_rows == "quarantine" and trial.regular_share < 0.8 and trial.distinct_widths > 3:
        error = SettingsError(
            f"{file_format.path}: the first {len(trial.records):,} records have {trial.distinct_widths} different "
            "numbers of fields, so their texts are cut at the delimiter",
            "put the texts in quotes, or set data.broken_rows: stop in params.yaml to see the lines",
        )
        raise with_advice(error, file_format, data, validate, sample)
    if trial.width == 1 and any(mark in file_format.columns[0] for mark in DELIMITERS):
        _check_delimiter(trial, case)
    _check_quotes(trial, case)


def _check_fit(trial: TrialParse, case: _Case) -> None:
    """Raise SettingsError if the rows do not fit, and other settings read them."""
    advice = _advise(case)
    if advice is None or not advice.changes_reading:
        return
    columns = case.file_format.columns
    loses_columns = case.file_format.header and set(case.names) <= set(columns) and not advice.has_columns(case.names)
    if not loses_columns:
        raise SettingsError(_describe_misfit(trial), str(advice), advice.settings)


def _check_delimiter(trial: TrialParse, case: _Case) -> None:
    """Raise SettingsError if a file read as one column has several with other settings."""
    advice = _advise(case)
    if advice and advice.trial.width > 1:
        raise SettingsError(
            f"{case.file_format.path}, line {trial.first_line}: the fields are not separated by "
            f"{delimiter_name(case.file_format.delimiter)}",
            str(advice),
            advice.settings,
        )


def _check_quotes(trial: TrialParse, case: _Case) -> None:
    """Raise SettingsError if quotes are not understood as such, and other settings do so."""
    lines = case.sample.lines[trial.first_line - 1 :]
    many_quotes = count_quoted_lines(lines, "".join(DELIMITERS), "\"'") >= _MOSTLY * len(trial.records)
    understood = trial.quoted_share and trial.unparsed_quotes < _MOSTLY
    if case.data.quote == "none" or not many_quotes or understood:
        return
    advice = _advise(case)
    if advice is None or advice.trial.quoted_share < _MOSTLY or advice.trial.width < 2:
        return
    wrapped = trial.unparsed_quotes >= _MOSTLY
    what = "quotes stand around the texts" if wrapped else "the texts are cut, or hold other fields"
    raise SettingsError(
        f"{case.file_format.path}: read with data.delimiter and data.quote as they are, {what}: "
        f"line {trial.first_line} reads {preview(trial.records[0])}",
        f"{advice}; if the quotes belong to the texts, set data.quote: none",
        advice.settings,
    )


def _describe_misfit(trial: TrialParse) -> str:
    """Return what is wrong with a trial that does not fit, for a sentence."""
    path, records = trial.file_format.path, trial.records
    if trial.error:
        return f"{path}, line {trial.lines[-1]}: the record that begins here cannot be read as CSV ({trial.error})"
    width = len(records[0])
    at, fields = next((at, fields) for at, fields in enumerate(records) if len(fields) != width)
    wrong = sum(len(fields) != width for fields in records)
    return (
        f"{path}, line {trial.lines[at]}: {len(fields)} fields where line {trial.first_line} has {width}, and so in "
        f"{wrong:,} of the first {len(records) - 1:,} rows: {preview(fields)}"
    )
