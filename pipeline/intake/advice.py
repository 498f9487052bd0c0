"""Which settings would read a file better: each proposal is tried on the file's first thousand rows before it is named.

A proposal is read by the code that reads the file with these settings, and is named only where its rows fit, its texts
are whole and its column is there. So following an advice cannot end in other texts than the advice was judged by.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.columns import is_header, kind_of, kinds_of, longest_texts, near_name, text_columns
from pipeline.intake.dialect import DELIMITERS, NO_DELIMITER
from pipeline.intake.file_format import FileFormat, Sample, SettingsError, preview, shown, written
from pipeline.intake.table import QUOTES, TEXT_COLUMN, sniff_table
from pipeline.intake.trial_parse import Reading, quoted_lines, read_sample

_MOSTLY = 0.9  # of the rows
_FEW = 3  # rows, below which chance may explain what they show


@dataclass(frozen=True)
class Advice:
    """Settings by their full keys, and the reading that they give."""

    settings: dict[str, str]
    reading: Reading
    column: str  # of the texts; "" where the settings name none of this file's

    def names(self, columns: Collection[str]) -> bool:
        """Return whether the header holds these columns."""
        return set(columns) <= set(self.reading.look.columns)

    def __str__(self) -> str:
        """Return the advice as the end of a sentence."""
        count, width = len(self.reading.records), self.reading.width
        fields = "one field" if width == 1 else f"{width} fields"
        read = f"the first {count:,} records have {fields} each" if count > 1 else f"the first record has {fields}"
        sentence = f"set {written(self.settings)} in params.yaml, with which {read}"
        columns = self.reading.look.columns
        if self.column in columns and (rows := self.reading.look.sample):
            at = columns.index(self.column)
            sentence += f" and the first text is {preview(rows[0][at : at + 1])}"
        return sentence


def with_advice(
    error: SettingsError, found: FileFormat, wanted: params.Data, texts: params.Validate | None, sample: Sample
) -> SettingsError:
    """Return `error` with tried advice in place of its own where other settings of `data` read the file better."""
    advice = advise(found, wanted, texts, sample, text_columns(texts) if texts else ())
    if advice is None or not any(key.startswith("data.") for key in advice.settings):
        return error
    return SettingsError(error.what, str(advice), advice.settings)


def better_reading(look: FileFormat, wanted: params.Data, sample: Sample) -> Advice | None:
    """Return settings that keep the columns of `look`, whose rows do not fit them, and read most rows; else None."""
    names = look.columns if look.header else ()
    advice = advise(look, wanted, None, sample, names)
    if advice is None or not advice.settings or (len(look.columns) > 1 and advice.reading.width != len(look.columns)):
        return None
    return advice


def advise(
    found: FileFormat, wanted: params.Data, texts: params.Validate | None, sample: Sample, names: Collection[str]
) -> Advice | None:
    """Return the settings with which the file reads best, None where none is known to be right.

    `names` are the columns that the settings name. A proposal whose header holds them goes first, then one with quoted
    fields, then one of several columns; of equals, the one that changes the fewest settings.
    """
    ranked = []
    for order, proposal in enumerate(_proposals(found, wanted, sample)):
        reading = read_sample(proposal, sample)
        rank = _rank(reading, names, sample)
        if rank is not None:
            settings = _settings_of(proposal, found, wanted)
            ranked.append((rank, round(reading.leftover, 2), len(settings), order, proposal, settings))
    for *_, proposal, settings in sorted(ranked, key=lambda entry: entry[:4]):
        advice = _verified(proposal, settings, found, wanted, texts, sample, names)
        if advice:
            return advice
    return None


def _proposals(found: FileFormat, wanted: params.Data, sample: Sample) -> Iterator[FileFormat]:
    """Yield ways to read the file, as asked for first: delimiter, quote, escape and header."""
    held = "".join(sample.lines)
    asked = "\t" if found.format == "tsv" else wanted.delimiter
    delimiters = [mark for mark in dict.fromkeys((asked, *DELIMITERS)) if len(mark) == 1 and mark in held]
    asked_quote = "" if wanted.quote in ("none", "auto") else wanted.quote
    quotes = [asked_quote, *(mark for mark in QUOTES if mark != asked_quote and mark in held)]
    escapes = dict.fromkeys(("" if wanted.escape == "none" else wanted.escape, "", "\\"))
    headers = (True, False) if wanted.header == "first" else (False,)
    for delimiter, quote, escape, header in itertools.product(
        [*delimiters, NO_DELIMITER], quotes, [mark for mark in escapes if mark in held], headers
    ):
        if len({delimiter, quote, escape}) == 3 or (not quote and not escape):
            format_ = "tsv" if found.format == "tsv" and delimiter == "\t" else "csv"
            yield replace(found, format=format_, delimiter=delimiter, quote=quote, escape=escape, header=header)
    yield replace(found, format="text", delimiter=NO_DELIMITER, quote="", escape="", header=False)


def _rank(reading: Reading, names: Collection[str], sample: Sample) -> int | None:
    """Return how well a proposal reads the file, 0 best, None where it does not or would cut or garble texts."""
    look, records = reading.look, reading.records
    if not reading.fits or reading.leftover >= 0.5:
        return None
    named = bool(names) and set(names) <= set(records[0])
    if look.header != is_header(records[0], records[1:], names):
        return None
    quoted, one = reading.quoted >= 0.5, reading.width == 1
    if not named and not quoted and (_is_prose(reading) if not one else _has_fields(sample.lines)):
        return None
    if look.format == "text":
        return None if quoted_lines(sample.lines, "\n", "\"'") >= len(records) / 2 else 3
    if one and not quoted and not look.header:
        return None  # which is format text
    return 0 if named else 1 if quoted and not one else 2 if not one else 3


def _is_prose(reading: Reading) -> bool:
    """Return whether what separates the fields is followed by a space, as commas in prose are."""
    return reading.spaced >= _MOSTLY and reading.look.delimiter in ",;"


def _has_fields(lines: Sequence[str]) -> bool:
    """Return whether each line begins with a number or a code and a delimiter, so that it is no text as a whole."""
    given = [line for line in lines if line.strip()]
    for delimiter in DELIMITERS:
        pairs = [line.rstrip("\r\n").split(delimiter, 1) for line in given if delimiter in line]
        if len(pairs) < _MOSTLY * len(given):
            continue
        kind = kind_of([pair[0] for pair in pairs[1:] or pairs])  # line 1 may be a header
        spaced = sum(pair[1][:1] == " " for pair in pairs) >= len(pairs) / 2
        if kind in ("dates", "numbers") or not (spaced or kind.startswith("text")):
            return True
    return False


def _settings_of(proposal: FileFormat, found: FileFormat, wanted: params.Data) -> dict[str, str]:
    """Return the settings of `data` that a proposal changes; what is set to auto changes only if it finds another."""
    if proposal.format == "text":
        return {"data.format": "text"}
    delimiter = "auto" if proposal.delimiter == NO_DELIMITER else proposal.delimiter
    pairs = {
        "format": (found.format, proposal.format),
        "header": (wanted.header, "first" if proposal.header else "none"),
        "delimiter": (wanted.delimiter, wanted.delimiter if proposal.format == "tsv" else delimiter),
        "quote": (wanted.quote, proposal.quote or "none"),
        "escape": (wanted.escape, proposal.escape or "none"),
    }
    return {f"data.{key}": value for key, (before, value) in pairs.items() if value != before}


def _verified(
    proposal: FileFormat,
    settings: dict[str, str],
    found: FileFormat,
    wanted: params.Data,
    texts: params.Validate | None,
    sample: Sample,
    names: Collection[str],
) -> Advice | None:
    """Return the advice to set `settings` and the column, None where the file does not read so with them."""
    found_anyway = {f"data.{key}" for key in ("delimiter", "quote") if getattr(wanted, key) == "auto"}
    fewer = {key: value for key, value in settings.items() if key not in found_anyway}
    for tried in (fewer, settings) if fewer != settings else (settings,):
        data = wanted.model_copy(update={key.removeprefix("data."): value for key, value in tried.items()})
        try:
            look = sniff_table(replace(found, format=proposal.format), data, sample, names)
        except UserError:
            continue
        marks = (look.delimiter or NO_DELIMITER, look.quote, look.escape, look.header)
        if marks != (proposal.delimiter, proposal.quote, proposal.escape, proposal.header):
            continue
        # Without a header a column's name is its place, which another delimiter moves.
        column = _column(look, texts, moved=not look.header and look.delimiter != wanted.delimiter)
        if column is None:
            return None
        read = replace(look, delimiter=proposal.delimiter) if look.format == "text" else look
        reading = replace(read_sample(read, sample), look=look)
        if texts and column and column != texts.column:
            tried = tried | {"validate.column": column}
        return Advice(tried, reading, column)
    return None


def _column(look: FileFormat, texts: params.Validate | None, *, moved: bool) -> str | None:
    """Return the column that holds the texts, "" where none is asked for, None where none does."""
    if texts is None:
        return ""
    if texts.template != "none":
        return "" if set(text_columns(texts)) <= set(look.columns) else None
    if look.format == "text":
        return TEXT_COLUMN
    if texts.column in look.columns and not moved:
        return texts.column
    near = None if moved else near_name(texts.column, look)
    return near or next(iter(longest_texts(kinds_of(look))), None)


# --- readings that work, but give wrong texts


def check_texts(look: FileFormat, wanted: params.Data, texts: params.Validate | None, sample: Sample) -> None:
    """Raise SettingsError where the texts are cut, or keep quotes around them, and other settings read them whole.

    Where `quote` is none, quotes are part of the texts.
    """
    if look.format not in ("csv", "tsv"):
        return
    reading = read_sample(look, sample)
    names = text_columns(texts) if texts else ()
    if not reading.fits:
        advice = advise(look, wanted, texts, sample, names)
        loses_columns = advice and look.header and set(names) <= set(look.columns) and not advice.names(names)
        if advice and not loses_columns and any(key.startswith("data.") for key in advice.settings):
            raise SettingsError(_misfit(reading), str(advice), advice.settings)
    if len(reading.records) < _FEW:
        return
    if wanted.broken_rows == "quarantine" and reading.regular < 0.8 and reading.widths > 3:
        error = SettingsError(
            f"{look.path}: the first {len(reading.records):,} records have {reading.widths} different numbers of "
            "fields, so their texts are cut at the delimiter",
            "put the texts in quotes, or set data.broken_rows: stop in params.yaml to see the lines",
        )
        raise with_advice(error, look, wanted, texts, sample)
    if reading.width == 1 and any(mark in look.columns[0] for mark in DELIMITERS):
        advice = advise(look, wanted, texts, sample, names)
        if advice and advice.reading.width > 1:
            what = f"{look.path}, line {reading.line}: the fields are not separated by {shown(look.delimiter)}"
            raise SettingsError(what, str(advice), advice.settings)
    lines = sample.lines[reading.line - 1 :]
    many_quotes = quoted_lines(lines, "".join(DELIMITERS), "\"'") >= _MOSTLY * len(reading.records)
    if wanted.quote == "none" or not many_quotes or (reading.quoted and reading.leftover < _MOSTLY):
        return
    advice = advise(look, wanted, texts, sample, names)
    if advice is None or advice.reading.quoted < _MOSTLY or advice.reading.width < 2:
        return
    what = "quotes stand around the texts" if reading.leftover >= _MOSTLY else "the texts are cut, or hold other fields"
    raise SettingsError(
        f"{look.path}: read with data.delimiter and data.quote as they are, {what}: line {reading.line} reads "
        f"{preview(reading.records[0])}",
        f"{advice}; if the quotes belong to the texts, set data.quote: none",
        advice.settings,
    )


def _misfit(reading: Reading) -> str:
    """Return what is wrong with a reading that does not fit, for a sentence."""
    path, records = reading.look.path, reading.records
    if reading.error:
        return f"{path}, line {reading.lines[-1]}: the record that begins here cannot be read as CSV ({reading.error})"
    width = len(records[0])
    at, fields = next((at, fields) for at, fields in enumerate(records) if len(fields) != width)
    wrong = sum(len(fields) != width for fields in records)
    return (
        f"{path}, line {reading.lines[at]}: {len(fields)} fields where line {reading.line} has {width}, and so in "
        f"{wrong:,} of the first {len(records) - 1:,} rows: {preview(fields)}"
    )
