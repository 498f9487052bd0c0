"""The first rows of a CSV, read as some settings say, to judge these by."""

import csv
from collections import Counter
from collections.abc import Sequence

from pipeline.intake.dialect import dialect, unescaped_lines
from pipeline.intake.source import Look

_SAMPLE_ROWS = 1000


def sample_records(found: Look, sample: Sequence[str], whole: bool) -> tuple[list[list[str]], Counter[str]]:
    """Return the first records as csv.reader has them without being strict, and how their last lines end.

    Blank lines are none of them.
    """
    records: list[list[str]] = []
    ends: Counter[str] = Counter()
    reader = csv.reader(unescaped_lines(found, iter(sample)), **dialect(found, strict=False))
    for fields in reader:
        if not whole and reader.line_num == len(sample) and records:
            break  # it may go on beyond the sample
        last = sample[reader.line_num - 1]
        if len(fields) < 2 and not last.strip():
            continue
        records.append(fields)
        ends["CRLF" if last.endswith("\r\n") else {"\n": "LF", "\r": "CR"}.get(last[-1:], "")] += 1
        if len(records) > _SAMPLE_ROWS:
            break
    del ends[""]
    return records, ends


def line_ends_of(ends: Counter[str]) -> str:
    """Return the one way in which lines end, or mixed; "" for none."""
    return next(iter(ends)) if len(ends) == 1 else "mixed" if ends else ""


def fields_a_row(found: Look, sample: Sequence[str], whole: bool, share: float = 0.9) -> int:
    """Return the number of fields that the first row and a `share` of all have, 0 where these are fewer."""
    if found.delimiter in (found.quote, found.escape):
        return 0
    try:
        records, _ = sample_records(found, sample, whole)
    except csv.Error:
        return 0
    counts = [len(fields) for fields in records if fields]
    if not counts or counts.count(counts[0]) < share * len(counts):
        return 0
    return counts[0]
