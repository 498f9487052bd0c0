"""The records of a CSV or TSV file, with the line at which each begins and what is wrong with a broken one."""

import csv
from array import array
from collections.abc import Iterator, Sequence

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.advice import better_reading
from pipeline.intake.byte_source import ByteSource
from pipeline.intake.dialect import csv_dialect, double_lone_escapes
from pipeline.intake.file_format import LONGEST_RECORD, FileFormat, delimiter_name, preview
from pipeline.intake.records import DOS_END_OF_FILE, BlankLines, Problem, Record, dos_end_of_file
from pipeline.intake.text_lines import open_lines, read_sample

_MAX_PADDING = 1 << 20  # rows of delimiters that may pad the end of a file: as many as an Excel sheet has rows


def csv_records(file_format: FileFormat, blank: BlankLines, config: params.Data) -> Iterator[Record]:
    """Yield the records; lines that are not rows are counted in `blank`."""
    width = len(file_format.columns)
    with open_lines(file_format) as (source, lines):
        feed = _LineFeed(file_format, lines)
        reader = csv.reader(double_lone_escapes(file_format, iter(feed)), **csv_dialect(file_format))
        pending = _Pending(file_format)
        next_line, above_header = 1, file_format.header
        try:
            for fields in reader:
                line, next_line = next_line, reader.line_num + 1
                feed.begin_record(next_line)
                if above_header:
                    above_header = not any(map(str.strip, fields))
                    blank.count += above_header * (next_line - line)
                    continue
                if not (fields and fields[-1] and not fields[-1].isspace()) and reader.line_num == line:
                    if len(fields) < 2 and not feed.last.strip():
                        blank.count += 1
                        continue
                    if not any(fields) and pending.add_padding(line, len(fields), feed.last):
                        continue
                if pending.broken or pending.padding:
                    yield from pending.flush(source)
                if len(fields) == width:
                    yield Record(line, fields, None, source.unpacked, source.position)
                else:
                    problem = _ragged_problem(file_format, line, reader.line_num, fields)
                    pending.broken = Record(line, fields, problem, source.unpacked, source.position)
            blank.count += len(pending.padding)
            if pending.broken:
                yield _as_last(pending.broken, width)
        except csv.Error as error:
            raise _unreadable_error(file_format, config, (next_line, reader.line_num), error) from None


class _LineFeed:
    """Feeds lines to csv.reader and bounds the record that it collects, however many lines that has."""

    def __init__(self, file_format: FileFormat, lines: Iterator[str]) -> None:
        """Start at line 1."""
        self._format, self._lines = file_format, lines
        self.last = ""  # the line that was fed last
        self._first_line, self._size = 1, 0  # of the record: its first line, its characters so far

    def begin_record(self, line: int) -> None:
        """Begin a record at `line`."""
        self._first_line, self._size = line, 0

    def __iter__(self) -> Iterator[str]:
        """Yield the lines; raises UserError if a record has more than LONGEST_RECORD characters."""
        for line in self._lines:
            self.last = line
            self._size += len(line)
            if self._size > LONGEST_RECORD:
                raise UserError(
                    f"{self._format.path}, line {self._first_line}: the record that begins here has more than "
                    f"{LONGEST_RECORD:,} characters, the most that a row may have; a quote ({self._format.quote}) that "
                    "opens in it is probably never closed: close it, or split the text into several rows"
                )
            yield line


class _Pending:
    """Rows that wait for the next one: a broken row, and rows of delimiters that may only pad the end of the file."""

    def __init__(self, file_format: FileFormat) -> None:
        """Start empty."""
        self._format = file_format
        self.broken: Record | None = None
        self.padding = array("q")  # lines of the rows of delimiters
        self._widths = array("q")

    def add_padding(self, line: int, width: int, content: str) -> bool:
        """Take a row without values if it holds nothing but delimiters; return whether it was taken."""
        only_delimiters = not content.replace(self._format.delimiter, "").strip("\r\n")
        if not only_delimiters or len(self.padding) >= _MAX_PADDING:
            return False
        self.padding.append(line)
        self._widths.append(width)
        return True

    def flush(self, source: ByteSource) -> Iterator[Record]:
        """Yield what waits, since another row follows it."""
        if self.broken:
            yield self.broken
        for line, width in zip(self.padding, self._widths, strict=True):
            fields = [""] * width
            fits = width == len(self._format.columns)
            problem = None if fits else _ragged_problem(self._format, line, line, fields)
            yield Record(line, fields, problem, source.unpacked, source.position)
        self.broken, self.padding, self._widths = None, array("q"), array("q")


def _as_last(record: Record, width: int) -> Record:
    """Return a broken record as the last one of the file, which may be truncated in it."""
    problem = record.problem
    if problem and len(record.fields) < width and record.fields != [DOS_END_OF_FILE]:
        problem = problem._replace(what=f"{problem.what} (the last row: the file may be truncated)")
    return record._replace(problem=problem)


def _ragged_problem(file_format: FileFormat, line: int, last_line: int, fields: Sequence[str]) -> Problem:
    """Return what is wrong with a record of too many or too few fields, and the fix."""
    if fields == [DOS_END_OF_FILE]:
        return dos_end_of_file(line)
    columns, quote = file_format.columns, file_format.quote
    expected = f"the header has {len(columns)} ({', '.join(columns[:8])})"
    if not file_format.header:
        expected = f"line 1 has {len(columns)}"
    what = f"line {line}: {len(fields)} fields where {expected}: {preview(fields)}"
    delimiter = delimiter_name(file_format.delimiter)
    if quote and any(value.lstrip().startswith(quote) and value[0] != quote for value in fields if value):
        return Problem(what, f"remove the space before the {quote}, which does not open a quoted text there")
    if file_format.header and len(fields) == len(columns) + 1 and not fields[-1]:
        return Problem(what, f"end the header with {delimiter} as well, or remove it from the end of the rows")
    if last_line > line:
        return Problem(f"{what} (it goes on to line {last_line})", "close its quote where the text ends")
    if not quote:
        fix = f"put texts that hold {delimiter} or a line break in quotes (\") and set data.quote: '\"'"
        return Problem(what, fix)
    return Problem(what, f"put texts that hold {delimiter} or a line break in quotes ({quote})")


def _unreadable_error(
    file_format: FileFormat, config: params.Data, lines: tuple[int, int], error: csv.Error
) -> UserError:
    """Return the error for a record in which csv.reader stopped; `lines` are its first and the last one read."""
    line, last_line = lines
    quote = file_format.quote
    where = f"{file_format.path}, line {line}: the record that begins here cannot be read as CSV"
    excerpt = _excerpt(file_format, line, last_line)
    advice = better_reading(file_format, config, read_sample(file_format))
    if quote and not file_format.escape and "\\" + quote in excerpt:
        fix = f"; {advice}" if advice else ", and other rows differ: write them twice everywhere"
        return UserError(
            f"{where} (up to line {last_line}): quotes inside quotes are written as \\{quote} there ({excerpt!r}){fix}"
        )
    alternative = f"; or {advice}" if advice else ""
    if "unexpected end of data" in str(error):
        return UserError(
            f"{where} (unexpected end of data): a quote ({quote}) that opens in it is not closed by the end of the "
            f"file, line {last_line} ({excerpt!r}); close it, or write a quote inside a quoted text twice{alternative}"
        )
    return UserError(
        f"{where} ({error}, found on line {last_line}): {excerpt!r}; a {quote} inside a quoted text must be written "
        f"twice, and each opening one must be closed{alternative}"
    )


def _excerpt(file_format: FileFormat, line: int, last_line: int) -> str:
    """Return the beginning of line `line`, or the surroundings of the first escaped quote up to `last_line`."""
    escaped_quote = "\\" + file_format.quote
    first = ""
    with open_lines(file_format) as (_, lines):
        for number, content in enumerate(lines, start=1):
            if number == line:
                first = content
            if number >= line and file_format.quote and escaped_quote in content:
                at = content.index(escaped_quote)
                return content[max(0, at - 30) : at + 30].strip()
            if number >= min(last_line, line + 1000):
                break
    return first.strip()[:60]
