"""Records of the corpus, in chunks, with the line at which each begins."""

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, NoReturn

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.advice import better_reading
from pipeline.intake.dialect import dialect, unescaped_lines
from pipeline.intake.file_format import LONGEST_RECORD, FileFormat, lines, preview, sample_lines, shown
from pipeline.intake.json_lines import json_object

ROWS = 50_000  # a chunk's records at most
CELLS = 1_000_000  # and its fields, each of which is an object of 50 bytes and more
BYTES = 12 << 20  # and its bytes, roughly: a few chunks are in memory at once; a longer record is one of its own
_LISTED = 10  # broken rows that an error shows
_NEARLY_ALL = 0.8  # of the rows; where so many are broken, what is wrong is how the file is read
_END_OF_DOS = "\x1a"
_MOST_EMPTY = 1 << 20  # rows of delimiters that may pad a file, as many as a sheet of Excel has; more are rows


@dataclass(frozen=True)
class Chunk:
    """Some records of the corpus, in its order.

    `fields` has as many for each record as the look has columns. A broken one (only with data.broken_rows: quarantine)
    has blanks there, and in `broken`, under its position in the chunk, its fields as they stood (a line of JSON as one
    field).
    """

    rows: list[int] = field(default_factory=list)  # line at which each begins; in Parquet its ordinal; from 1
    fields: list[list[str]] = field(default_factory=list)
    broken: dict[int, list[str]] = field(default_factory=dict)
    bytes_read: int = 0  # of the file as it lies there, since its beginning
    blank_lines: int = 0  # before its last record or, in the last chunk, behind it; see `read_chunks`


class Problem(NamedTuple):
    """Why a record does not fit the columns."""

    what: str  # with its line
    mend: str


@dataclass
class Blank:
    """How many lines were no rows so far."""

    lines: int = 0


# The row, its fields as they were read, why they do not fit the columns (None where they do), and the bytes read so
# far: of the unpacked file and of the file as it lies there.
Record = tuple[int, list[str], Problem | None, int, int]


def read_chunks(look: FileFormat, wanted: params.Data) -> Iterator[Chunk]:
    """Yield the records of the corpus; each is in one chunk, once.

    A line of white space alone is no record, and neither are rows of nothing but delimiters at the end of the file,
    which are Excel's; `Chunk.blank_lines` counts both.

    Raises UserError: at once for what makes all that follows unsure (an unclosed quote, bytes outside the encoding, a
    NUL, damaged packing); after the last record, with `broken_rows: stop`, for the rows that do not fit the columns.
    """
    blank = Blank()
    if look.format == "parquet":
        from pipeline.intake import parquet

        records = parquet.records(look)
    else:
        of_lines = {"jsonl": _json_records, "text": _text_records}.get(look.format)
        records = of_lines(look, blank) if of_lines else _csv_records(look, blank, wanted)
    problems: list[Problem] = []
    broken = count = start = before = told = read_before = cells = 0
    chunk = Chunk()
    nothing = [""] * len(look.columns)
    most = max(1, min(ROWS, CELLS // len(look.columns)))
    for row, fields, problem, unpacked, position in records:
        # A full chunk waits for the next record, so that blank lines at the end have a chunk to be counted in.
        if chunk.rows and (len(chunk.rows) >= most or before - start >= BYTES or cells >= CELLS):
            yield replace(chunk, bytes_read=read_before, blank_lines=blank.lines - told)
            chunk, start, told, cells = Chunk(), before, blank.lines, 0
        before, read_before = unpacked, position
        count += 1
        if problem:
            broken += 1
            if wanted.broken_rows == "stop":
                if broken <= _LISTED:
                    problems.append(problem)
                continue
            chunk.broken[len(chunk.rows)] = fields
            cells += len(fields)
            fields = nothing.copy()
        if broken and wanted.broken_rows == "stop":
            continue  # only counting is left: nobody is to work on a file that will be refused
        chunk.rows.append(row)
        chunk.fields.append(fields)
    if problems:
        raise UserError(_summary(look, wanted, problems, broken, count))
    if not count:
        raise UserError(f"{look.path}: there is no row below the header; expected one for each text: add them")
    if chunk.rows:
        yield replace(chunk, bytes_read=look.path.stat().st_size, blank_lines=blank.lines - told)


def _summary(look: FileFormat, wanted: params.Data, problems: Sequence[Problem], broken: int, count: int) -> str:
    """Return the error for broken rows: a sentence for one, a list for several, each mend said once."""
    cause, go_on = "", ", or set data.broken_rows: quarantine in params.yaml to go on without such rows"
    if broken >= _NEARLY_ALL * count or len(look.columns) == 1:
        cause = _cause(look, wanted)
        go_on = "" if broken >= _NEARLY_ALL * count else go_on
    if broken == 1:
        return f"{look.path}, {problems[0].what}; {cause or problems[0].mend}{go_on}"
    by_mend: dict[str, list[str]] = {}
    for problem in problems:
        by_mend.setdefault(cause or problem.mend, []).append(problem.what)
    mend = "mend them" if len(by_mend) > 1 else next(iter(by_mend))
    listed = ""
    for group, whats in by_mend.items():
        listed += "".join(f"\n  {what}" for what in whats) + (f"\n    {group}" if len(by_mend) > 1 else "")
    more = f"\n  and {broken - len(problems)} more" if broken > len(problems) else ""
    rows = f"none of the {count} rows fits" if broken == count else f"{broken} of {count} rows do not fit"
    return f"{look.path}: {rows} the columns; {mend}{go_on}:{listed}{more}"


def _cause(look: FileFormat, wanted: params.Data) -> str:
    """Return the mend for a file nearly all rows of which are broken: settings with which they fit, "" for none."""
    if look.format not in ("csv", "tsv"):
        return ""
    return str(better_reading(look, wanted, sample_lines(look)) or "")


# --- CSV and TSV


def _csv_records(look: FileFormat, blank: Blank, wanted: params.Data) -> Iterator[Record]:
    width = len(look.columns)
    empty = array("q"), array("q")  # lines, and their numbers of fields: rows of delimiters that may be the last ones
    with lines(look) as (source, text):
        feed = _Feed(look, text)
        reader = csv.reader(unescaped_lines(look, iter(feed)), **dialect(look))
        next_line, skip = 1, look.header
        held: Record | None = None  # a broken row waits for the next one: the last is said to be cut off, perhaps

        def waiting() -> Iterator[Record]:
            if held:
                yield held
            for at, count in zip(*empty, strict=True):
                fields = [""] * count
                problem = None if count == width else _ragged(look, at, at, fields)
                yield at, fields, problem, source.unpacked, source.position

        try:
            for fields in reader:
                line, next_line = next_line, reader.line_num + 1
                feed.next_record(next_line)
                if skip:
                    skip = not any(map(str.strip, fields))  # blank lines and rows of delimiters above the header
                    blank.lines += skip * (next_line - line)
                    continue
                if not (fields and fields[-1] and not fields[-1].isspace()) and reader.line_num == line:
                    if len(fields) < 2 and not feed.last.strip():
                        blank.lines += 1
                        continue
                    if (
                        not any(fields)
                        and not feed.last.replace(look.delimiter, "").strip("\r\n")
                        and len(empty[0]) < _MOST_EMPTY
                    ):
                        empty[0].append(line)
                        empty[1].append(len(fields))
                        continue
                if held or empty[0]:
                    yield from waiting()
                    held, empty = None, (array("q"), array("q"))
                if len(fields) == width:
                    yield line, fields, None, source.unpacked, source.position
                else:
                    problem = _ragged(look, line, reader.line_num, fields)
                    held = line, fields, problem, source.unpacked, source.position
            blank.lines += len(empty[0])
            if held:
                line, fields, why = held[:3]
                if why and len(fields) < width and fields != [_END_OF_DOS]:
                    why = why._replace(what=f"{why.what} (the last row: the file may be cut off in it)")
                yield line, fields, why, source.unpacked, source.position
        except csv.Error as error:
            _raise_unreadable(look, wanted, next_line, reader.line_num, error)


class _Feed:
    """The lines that csv.reader is given, counted a record: it holds all of one, however many lines that has."""

    def __init__(self, look: FileFormat, text: Iterator[str]) -> None:
        """Start at line 1."""
        self._look, self._text = look, text
        self.last = ""  # the line that was given last
        self._begins, self._size = 1, 0  # the record's first line, its characters so far

    def next_record(self, line: int) -> None:
        """Begin a record at `line`."""
        self._begins, self._size = line, 0

    def __iter__(self) -> Iterator[str]:
        """Yield the lines; raises UserError where a record has more than LONGEST_RECORD characters."""
        for line in self._text:
            self.last = line
            self._size += len(line)
            if self._size > LONGEST_RECORD:
                quote = self._look.quote
                raise UserError(
                    f"{self._look.path}, line {self._begins}: the record that begins here has more than "
                    f"{LONGEST_RECORD:,} characters, the most that a row may have; a quote ({quote}) that opens in it "
                    "is probably never closed: close it, or split the text into several rows"
                )
            yield line


def _ragged(look: FileFormat, line: int, last_line: int, fields: Sequence[str]) -> Problem:
    """Return what is wrong with a record of too many or too few fields, and the mend."""
    if fields == [_END_OF_DOS]:
        return Problem(f"line {line}: holds only the mark with which DOS ends a file (^Z, 0x1a)", "remove it")
    what = f"{len(fields)} fields where the header has {len(look.columns)} ({', '.join(look.columns[:8])})"
    if not look.header:
        what = f"{len(fields)} fields where line 1 has {len(look.columns)}"
    what = f"line {line}: {what}: {preview(fields)}"
    delimiter = shown(look.delimiter)
    if look.quote and any(
        value.lstrip().startswith(look.quote) and value[0] != look.quote for value in fields if value
    ):
        return Problem(what, f"take the space before the {look.quote}, which opens no quoted text there")
    if look.header and len(fields) == len(look.columns) + 1 and not fields[-1]:
        return Problem(what, f"end the header with {delimiter} as well, or take it from the end of the rows")
    if last_line > line:
        return Problem(f"{what} (it goes on to line {last_line})", "close its quote where the text ends")
    if not look.quote:
        quotes = "put texts that hold {} or a line break in quotes (\") and set data.quote: '\"'"
        return Problem(what, quotes.format(delimiter))
    return Problem(what, f"put texts that hold {delimiter} or a line break in quotes ({look.quote})")


def _raise_unreadable(look: FileFormat, wanted: params.Data, line: int, last_line: int, error: csv.Error) -> NoReturn:
    """Raise UserError for the record that begins at `line`, in which csv.reader stopped."""
    where = f"{look.path}, line {line}: the record that begins here cannot be read as CSV"
    found = _excerpt(look, line, last_line)
    advice = better_reading(look, wanted, sample_lines(look))
    otherwise = f"; or {advice}" if advice else ""
    if look.quote and not look.escape and "\\" + look.quote in found:
        raise UserError(
            f"{where} (up to line {last_line}): quotes inside quotes are written as \\{look.quote} there ({found!r})"
            f"{f'; {advice}' if advice else ', and other rows differ: write them twice everywhere'}"
        ) from None
    if "unexpected end of data" in str(error):
        raise UserError(
            f"{where} (unexpected end of data): a quote ({look.quote}) that opens in it is not closed by the end of "
            f"the file, line {last_line} ({found!r}); close it, or write a quote inside a quoted text twice{otherwise}"
        ) from None
    raise UserError(
        f"{where} ({error}, found on line {last_line}): {found!r}; a {look.quote} inside a quoted text must be written "
        f"twice, and each opening one must be closed{otherwise}"
    ) from None


def _excerpt(look: FileFormat, line: int, last_line: int) -> str:
    """Return the beginning of line `line`; of `last_line` where that holds an escaped quote."""
    first = ""
    with lines(look) as (_, text):
        for number, content in enumerate(text, start=1):
            if number == line:
                first = content
            if number >= line and look.quote and "\\" + look.quote in content:
                at = content.index("\\" + look.quote)
                return content[max(0, at - 30) : at + 30].strip()
            if number >= min(last_line, line + 1000):
                break
    return first.strip()[:60]


# --- plain text and JSON lines


def _text_records(look: FileFormat, blank: Blank) -> Iterator[Record]:
    with lines(look) as (source, text):
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield number, [line.rstrip("\r\n")], None, source.unpacked, source.position
            else:
                blank.lines += 1


def _json_records(look: FileFormat, blank: Blank) -> Iterator[Record]:
    columns = look.columns
    known = frozenset(columns)
    with lines(look) as (source, text):
        for number, line in enumerate(text, start=1):
            if not line.strip():
                blank.lines += 1
                continue
            row = json_object(line)
            if isinstance(row, str):
                raw = line.rstrip("\r\n")
                problem = Problem(
                    f"line {number}: {row}: {preview([raw])}", "write one JSON object a line, each key once"
                )
                if raw == _END_OF_DOS:
                    problem = _ragged(look, number, number, [raw])
                yield (number, [raw], problem, source.unpacked, source.position)
                continue
            if not known.issuperset(row):
                raise RuntimeError(f"{look.path} changed while it was read: line {number} has a new key")
            values = [row.get(name, "") for name in columns]
            yield (number, values, None, source.unpacked, source.position)
