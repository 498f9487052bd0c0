"""Records of the corpus, in chunks, with the line at which each begins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipeline import params
from pipeline.command import UserError
from pipeline.intake import records
from pipeline.intake.advice import better_reading
from pipeline.intake.csv_records import csv_records
from pipeline.intake.file_format import FileFormat
from pipeline.intake.json_lines import json_records
from pipeline.intake.parquet import parquet_records
from pipeline.intake.records import BlankLines, Problem, Record
from pipeline.intake.text_lines import open_lines, read_sample

_LISTED = 10  # broken rows that an error lists
_NEARLY_ALL = 0.8  # share of broken rows from which the settings are wrong rather than the rows


@dataclass(frozen=True)
class Chunk:
    """Some records of the corpus, in file order.

    `fields` has as many for each record as the file has columns. A broken record (only with data.broken_rows:
    quarantine) has blanks there, and its fields as they were read in `broken`, by its position in the chunk (a line of
    JSON as one field).
    """

    rows: list[int] = field(default_factory=list)  # line at which each begins, in Parquet its ordinal; from 1
    fields: list[list[str]] = field(default_factory=list)
    broken: dict[int, list[str]] = field(default_factory=dict)
    bytes_read: int = 0  # of the file on disk, since its beginning
    blank_lines: int = 0  # before its last record; in the last chunk also those after it


def read_chunks(file_format: FileFormat, config: params.Data) -> Iterator[Chunk]:
    """Yield the records of the corpus in chunks, each record once.

    Lines of only white space are not records, and neither are rows of only delimiters at the end of the file, as Excel
    writes them; `Chunk.blank_lines` counts both.

    Raises UserError: at once for a fault that makes everything after it uncertain (an unclosed quote, bytes outside the
    encoding, a NUL, damaged compression); after the last record, with `broken_rows: stop`, for the rows that do not fit
    the columns.
    """
    blank = BlankLines()
    builder = _ChunkBuilder(len(file_format.columns), blank)
    problems: list[Problem] = []
    broken = count = 0
    for record in _records(file_format, config, blank):
        if builder.is_full:
            yield builder.build()
        count += 1
        if record.problem:
            broken += 1
            if broken <= _LISTED:
                problems.append(record.problem)
        if broken and config.broken_rows == "stop":
            continue  # the file will be refused: only count from here on
        builder.add(record)
    if broken and config.broken_rows == "stop":
        raise UserError(_broken_rows_message(file_format, config, problems, (broken, count)))
    if not count:
        raise UserError(f"{file_format.path}: there is no row below the header; expected one row per text")
    yield replace(builder.build(), bytes_read=file_format.path.stat().st_size)


def _records(file_format: FileFormat, config: params.Data, blank: BlankLines) -> Iterator[Record]:
    if file_format.format == "parquet":
        return parquet_records(file_format)
    if file_format.format == "jsonl":
        return json_records(file_format, blank)
    if file_format.format == "text":
        return _text_records(file_format, blank)
    return csv_records(file_format, blank, config)


def _text_records(file_format: FileFormat, blank: BlankLines) -> Iterator[Record]:
    """Yield each line that is not blank as a text."""
    with open_lines(file_format) as (source, lines):
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Record(number, [line.rstrip("\r\n")], None, source.unpacked, source.position)
            else:
                blank.count += 1


class _ChunkBuilder:
    """Collects records into chunks that are bounded in rows, cells and bytes.

    Whether a chunk is full is asked when the next record is there, so blank lines at the end of the file have a chunk
    to be counted in.
    """

    def __init__(self, width: int, blank: BlankLines) -> None:
        self._width, self._blank = width, blank
        self._max_rows = max(1, min(records.CHUNK_ROWS, records.CHUNK_CELLS // width))
        self._unpacked = self._position = self._blank_reported = 0
        self._begin()

    def _begin(self) -> None:
        self._chunk = Chunk()
        self._start = self._unpacked
        self._broken_cells = 0
        self.is_full = False  # whether the chunk has reached one of its bounds

    def add(self, record: Record) -> None:
        """Add one record."""
        chunk, fields = self._chunk, record.fields
        if record.problem:
            chunk.broken[len(chunk.rows)] = fields
            self._broken_cells += len(fields)
            fields = [""] * self._width
        chunk.rows.append(record.row)
        chunk.fields.append(fields)
        self._unpacked, self._position = record.unpacked, record.position
        self.is_full = (
            len(chunk.rows) >= self._max_rows
            or record.unpacked - self._start >= records.CHUNK_BYTES
            or self._broken_cells >= records.CHUNK_CELLS
        )

    def build(self) -> Chunk:
        """Return the chunk and begin the next one."""
        blank_lines = self._blank.count - self._blank_reported
        chunk = replace(self._chunk, bytes_read=self._position, blank_lines=blank_lines)
        self._blank_reported = self._blank.count
        self._begin()
        return chunk


def _broken_rows_message(
    file_format: FileFormat, config: params.Data, problems: Sequence[Problem], counts: tuple[int, int]
) -> str:
    """Return the message about broken rows: one sentence for one row, a list for several, each fix once.

    Args:
        file_format: The file.
        config: How it is read.
        problems: The first problems.
        counts: How many rows are broken, and how many there are.
    """
    broken, count = counts
    cause = ""
    skip = ", or set data.broken_rows: quarantine in params.yaml to continue without such rows"
    if broken >= _NEARLY_ALL * count or len(file_format.columns) == 1:
        cause = _settings_that_fit(file_format, config)
        skip = "" if broken >= _NEARLY_ALL * count else skip
    if broken == 1:
        return f"{file_format.path}, {problems[0].what}; {cause or problems[0].fix}{skip}"
    by_fix: dict[str, list[str]] = {}
    for problem in problems:
        by_fix.setdefault(cause or problem.fix, []).append(problem.what)
    listed = ""
    for fix, rows in by_fix.items():
        listed += "".join(f"\n  {row}" for row in rows) + (f"\n    {fix}" if len(by_fix) > 1 else "")
    more = f"\n  and {broken - len(problems)} more" if broken > len(problems) else ""
    first_fix = "fix them" if len(by_fix) > 1 else next(iter(by_fix))
    share = f"none of the {count} rows fits" if broken == count else f"{broken} of {count} rows do not fit"
    return f"{file_format.path}: {share} the columns; {first_fix}{skip}:{listed}{more}"


def _settings_that_fit(file_format: FileFormat, config: params.Data) -> str:
    """Return the advice to set what makes nearly all rows fit, "" if there is none."""
    if file_format.format not in ("csv", "tsv"):
        return ""
    return str(better_reading(file_format, config, read_sample(file_format)) or "")
