"""The first thousand rows of a file of lines, read as some settings say, with figures to judge the reading by.

`delimiter: auto`, `quote: auto` and all advice go by these figures, so that advice and behaviour cannot disagree.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.intake.dialect import dialect, unescaped_lines
from pipeline.intake.file_format import FileFormat, Sample

ROWS = 1000
REGULAR = 0.9  # of the rows have as many fields as most: a reading with fewer is none
_QUOTES = "\"'"


@dataclass(frozen=True)
class Reading:
    """The first records of a file; blank lines are none of them.

    Records of delimiters alone above a header are padding, and none of them.
    """

    look: FileFormat
    records: list[list[str]]
    lines: list[int]  # at which each begins, and the one that cannot be read
    line_ends: str  # as in FileFormat
    error: str  # csv's, where the records end with a line that it cannot read
    quoted: float  # lines with a quoted field, as a share of the records

    @property
    def line(self) -> int:
        """The line at which the first record begins."""
        return self.lines[0] if self.lines else 1

    @property
    def width(self) -> int:
        """The number of fields that most records have."""
        return Counter(map(len, self.records)).most_common(1)[0][0] if self.records else 0

    @property
    def widths(self) -> int:
        """How many different numbers of fields there are."""
        return len(set(map(len, self.records)))

    @property
    def regular(self) -> float:
        """The share of the records that have as many fields as most."""
        return sum(len(fields) == self.width for fields in self.records) / max(1, len(self.records))

    @property
    def leftover(self) -> float:
        """The share of a column's fields that quotes still wrap, in the column with the most of them."""
        marks = _QUOTES.replace(self.look.quote, "") if self.look.quote else _QUOTES
        rows = [fields for fields in self.records if len(fields) == self.width]
        return max((_wrapped([fields[at] for fields in rows], marks) for at in range(self.width)), default=0)

    @property
    def spaced(self) -> float:
        """The share of the fields behind a delimiter that begin with a space, as after a comma in prose."""
        fields = [value for fields in self.records for value in fields[1:] if value]
        return sum(value[0] == " " for value in fields) / max(1, len(fields))

    @property
    def fits(self) -> bool:
        """Whether the file can be read so: nearly all records are regular, and the first is."""
        return bool(self.records) and not self.error and self.regular >= REGULAR and len(self.records[0]) == self.width


def read_sample(look: FileFormat, sample: Sample, *, strict: bool = True) -> Reading:
    """Return the first records as `look` has them read, by the reader that reads the file."""
    records: list[list[str]] = []
    ends: Counter[str] = Counter()
    starts: list[int] = []
    next_line = 1
    error = ""
    reader = csv.reader(unescaped_lines(look, iter(sample.lines)), **dialect(look, strict=strict))
    try:
        for fields in reader:
            line, next_line = next_line, reader.line_num + 1
            if not sample.whole and reader.line_num == len(sample.lines) and records:
                break  # it may go on beyond the sample
            last = sample.lines[reader.line_num - 1]
            if len(fields) < 2 and not last.strip():
                continue
            if look.header and not records and not any(map(str.strip, fields)):
                continue
            starts.append(line)
            records.append(fields)
            ends["CRLF" if last.endswith("\r\n") else {"\n": "LF", "\r": "CR"}.get(last[-1:], "")] += 1
            if len(records) > ROWS:
                break
    except csv.Error as problem:
        if sample.whole or reader.line_num < len(sample.lines):
            error = str(problem)
            starts.append(next_line)
    del ends[""]
    line_ends = next(iter(ends)) if len(ends) == 1 else "mixed" if ends else ""
    quoted = quoted_lines(sample.lines[(starts or [1])[0] - 1 : reader.line_num], look.delimiter, look.quote)
    return Reading(look, records, starts, line_ends, error, min(1.0, quoted / max(1, len(records))))


def quoted_lines(lines: Sequence[str], delimiters: str, quotes: str) -> int:
    """Return how many lines have a field that begins with one of `quotes`."""
    if not quotes:
        return 0
    pattern = re.compile(f"(?:^|[{re.escape(delimiters)}])[{re.escape(quotes)}]")
    return sum(pattern.search(line) is not None for line in lines)


def _wrapped(values: Sequence[str], marks: str) -> float:
    given = [value for value in values if value.strip()]
    return sum(len(value) > 1 and value[0] == value[-1] and value[0] in marks for value in given) / max(1, len(given))
