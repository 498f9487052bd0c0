"""Parses the first thousand rows of a file of lines with given settings, and measures how well they fit.

`delimiter: auto`, `quote: auto` and all advice go by these figures, so advice and behaviour cannot disagree.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.intake.dialect import csv_dialect, double_lone_escapes
from pipeline.intake.file_format import FileFormat, line_end_of, line_ends_of
from pipeline.intake.text_lines import Sample

_ROWS = 1000
_REGULAR = 0.9  # share of the rows that must have as many fields as most for a trial to fit
_QUOTES = "\"'"


@dataclass(frozen=True)
class TrialParse:
    """The first records of a file, without blank lines and without rows of only delimiters above a header."""

    file_format: FileFormat
    records: list[list[str]]
    lines: list[int]  # the line at which each record begins, and that of the record that cannot be parsed
    line_ends: str  # as in FileFormat
    error: str  # csv.reader's, if it stopped
    quoted_share: float  # lines with a quoted field, per record

    @property
    def first_line(self) -> int:
        """The line at which the first record begins."""
        return self.lines[0] if self.lines else 1

    @property
    def width(self) -> int:
        """The number of fields that most records have."""
        return Counter(map(len, self.records)).most_common(1)[0][0] if self.records else 0

    @property
    def distinct_widths(self) -> int:
        """How many different numbers of fields there are."""
        return len(set(map(len, self.records)))

    @property
    def regular_share(self) -> float:
        """The share of the records that have as many fields as most."""
        return sum(len(fields) == self.width for fields in self.records) / max(1, len(self.records))

    @property
    def unparsed_quotes(self) -> float:
        """The share of fields still wrapped in quotes, in the column with the most of them."""
        marks = _QUOTES.replace(self.file_format.quote, "") if self.file_format.quote else _QUOTES
        rows = [fields for fields in self.records if len(fields) == self.width]
        return max((_wrapped_share([fields[at] for fields in rows], marks) for at in range(self.width)), default=0)

    @property
    def spaced_share(self) -> float:
        """The share of fields that begin with a space after the delimiter, as after a comma in prose."""
        fields = [value for fields in self.records for value in fields[1:] if value]
        return sum(value[0] == " " for value in fields) / max(1, len(fields))

    @property
    def fits(self) -> bool:
        """Whether the file can be read this way: nearly all records are regular, and the first one is."""
        regular = self.regular_share >= _REGULAR
        return bool(self.records) and not self.error and regular and len(self.records[0]) == self.width


def parse_sample(file_format: FileFormat, sample: Sample, *, strict: bool = True) -> TrialParse:
    """Return the first records, parsed by the reader that reads the whole file."""
    records: list[list[str]] = []
    ends: Counter[str] = Counter()
    starts: list[int] = []
    next_line = 1
    error = ""
    lines = double_lone_escapes(file_format, iter(sample.lines))
    reader = csv.reader(lines, **csv_dialect(file_format, strict=strict))
    try:
        for fields in reader:
            line, next_line = next_line, reader.line_num + 1
            if not sample.whole and reader.line_num == len(sample.lines) and records:
                break  # the record may go on beyond the sample
            last = sample.lines[reader.line_num - 1]
            if len(fields) < 2 and not last.strip():
                continue
            if file_format.header and not records and not any(map(str.strip, fields)):
                continue
            starts.append(line)
            records.append(fields)
            ends[line_end_of(last)] += 1
            if len(records) > _ROWS:
                break
    except csv.Error as csv_error:
        if sample.whole or reader.line_num < len(sample.lines):
            error = str(csv_error)
            starts.append(next_line)
    parsed = sample.lines[(starts or [1])[0] - 1 : reader.line_num]
    quoted = count_quoted_lines(parsed, file_format.delimiter, file_format.quote)
    quoted_share = min(1.0, quoted / max(1, len(records)))
    return TrialParse(file_format, records, starts, line_ends_of(ends), error, quoted_share)


def count_quoted_lines(lines: Sequence[str], delimiters: str, quotes: str) -> int:
    """Return how many lines have a field that begins with one of `quotes`."""
    if not quotes:
        return 0
    pattern = re.compile(f"(?:^|[{re.escape(delimiters)}])[{re.escape(quotes)}]")
    return sum(pattern.search(line) is not None for line in lines)


def _wrapped_share(values: Sequence[str], marks: str) -> float:
    filled = [value for value in values if value.strip()]
    wrapped = sum(len(value) > 1 and value[0] == value[-1] and value[0] in marks for value in filled)
    return wrapped / max(1, len(filled))
