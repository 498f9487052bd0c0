"""A file of the corpus: what is known of it, its lines as text, and how sentences quote it."""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.command import UserError
from pipeline.intake import encodings
from pipeline.intake.encodings import MARKS, NulError

SAMPLE = 1 << 20  # bytes
# A row is in memory whole, several times over: this many characters take up to 300 MB on the way to their refusal.
LONGEST_RECORD = 1 << 22  # characters; War and Peace has 3.2 million
MOST_COLUMNS = 1 << 14  # as in Excel
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_YAML_WORDS = ("false", "n", "no", "null", "off", "on", "true", "y", "yes")
RESERVED_COLUMNS = ("row", "reasons", "reason_details")  # the columns that quarantine.csv puts before the file's own


@dataclass(frozen=True)
class FileFormat:
    """What the raw bytes are.

    `columns` are the names of the fields; `sample` holds the first rows for whom wants to describe them. `fixes` has a
    sentence for each thing that was mended because params.yaml allows it, `notes` one for each thing to know although
    nothing was changed. Of Parquet, encoding, line ends and what follows them mean nothing and are "". Line ends,
    notes and `delimiter: auto` go by the first mebibyte.
    """

    path: Path
    format: str  # csv, tsv, text, jsonl or parquet
    compression: str  # none, gzip or zstd
    encoding: str = ""  # Python's name, with the byte order: utf-8, utf-16-le, cp1252
    bom: bool = False
    line_ends: str = ""  # LF, CRLF, CR or mixed; "" where there is one line
    delimiter: str = ""
    quote: str = ""  # one character or none
    escape: str = ""  # one character or none
    header: bool = False  # whether the first record names the columns
    header_line: int = 1  # blank lines and rows of delimiters alone may stand above it
    columns: tuple[str, ...] = ()
    sample: tuple[tuple[str, ...], ...] = ()
    fixes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class SettingsError(UserError):
    """A mistake that settings in params.yaml may mend; `settings` has those that do, by their full keys."""

    def __init__(self, what: str, mend: str = "", settings: Mapping[str, str] | None = None) -> None:
        """Say `what` is wrong, and the `mend`, which names `settings`."""
        super().__init__(f"{what}; {mend}" if mend else what)
        self.what = what
        self.settings = dict(settings or {})


def written(settings: dict[str, str]) -> str:
    """Return `settings` as they are written in params.yaml, for a sentence."""
    values = {
        key: value if _is_plain(value) else json.dumps(value, ensure_ascii=False) for key, value in settings.items()
    }
    return " and ".join(f"{key}: {value}" for key, value in values.items())


def _is_plain(value: str) -> bool:
    """Return whether `value` needs no quotes in YAML."""
    return value not in _YAML_WORDS and re.fullmatch(r"[a-z][a-z\d]*([-_][a-z\d]+)*", value) is not None


def check_reserved(found: FileFormat, where: str) -> None:
    """Raise UserError where a column is called as one that the quarantine puts before the file's own."""
    reserved = [name for name in found.columns if name in RESERVED_COLUMNS]
    if reserved:
        raise UserError(f"{where}the column name {reserved[0]!r} is used by quarantine.csv; rename it")


def choices(guess: encodings.Detected) -> str:
    """Return the encodings that could be meant, each with how a line reads, for a sentence."""
    readings = "; ".join(f"{name} reads {reading!r}" for name, reading in guess.readings)
    return f"name it in data.encoding in params.yaml ({readings or 'no known one fits'})"


def likeliest(guess: encodings.Detected) -> dict[str, str]:
    """Return the setting with the likeliest encoding, none where no known one fits."""
    return {"data.encoding": guess.readings[0][0]} if guess.readings else {}


def mixture(weighed: encodings.Weighed, foreign: encodings.Foreign) -> str:
    """Return the end of a sentence about a file of two encodings: the best one, and the lines against it."""
    (line, text, garbled), *others = weighed.against
    total = foreign.utf8 + foreign.not_utf8
    if weighed.best == "utf-8":
        most = foreign.utf8
        against = f"line {line}" + (f", which may be meant as {text!r}" if text else "")
        mend = "save that line in UTF-8 too" if weighed.count == 1 else "save all of it in UTF-8"
    else:
        most = total - weighed.count
        against = f"line {line}, which is UTF-8 ({text!r}) and would read {garbled!r}"
        against += f" (likewise line {', '.join(str(other) for other, *_ in others)})" if others else ""
        mend = f"save all of it in one encoding, and name that in data.encoding ({weighed.best} or utf-8)"
    return (
        f"mixes encodings: of {total:,} lines outside ASCII {most:,} are {weighed.best}, the best reading; against it "
        f"{'speaks' if weighed.count == 1 else f'speak {weighed.count:,} lines, the first is'} {against}; {mend}"
    )


def undecodable(found: FileFormat) -> UserError:
    """Return the error for a file that holds bytes outside its encoding, or a NUL, with the line and the mend."""
    skip = len(MARKS[found.encoding]) if found.bom else 0
    fault = encodings.first_fault(found.path, found.compression, found.encoding, skip)
    if fault is None:
        raise RuntimeError(f"{found.path} changed while it was read")
    line, data, before = fault
    where = f"{found.path}, line {line}: "
    if data == b"\0":
        place = f"holds a NUL byte after {before!r}" if before else "begins with a NUL byte"
        return UserError(
            f"{where}{place}; remove it (tr -d '\\000' < FILE > NEW takes out all of them), or save the file as CSV in "
            "UTF-8 where it was made"
        )
    at = f"{where}holds bytes that are not {found.encoding.upper()} ({data.hex(' ')} after {before!r}); "
    if found.encoding != "utf-8":
        return UserError(
            f"{at}save the whole file in one encoding, or set data.encoding in params.yaml to the right name"
        )
    if found.fixes or found.bom:
        return UserError(f"{at}the rest up to there is UTF-8: save that line in UTF-8 too")
    foreign = encodings.foreign_lines(found.path, found.compression)
    guess = encodings.detected(foreign)
    weighed = encodings.weighed(foreign, guess)
    if weighed.count:
        return UserError(f"{at}the file {mixture(weighed, foreign)}")
    if guess.encoding is None:
        return SettingsError(
            at.removesuffix("; "), f"save the file as CSV in UTF-8, or {choices(guess)}", likeliest(guess)
        )
    name, reading = guess.readings[0]
    return SettingsError(
        at.removesuffix("; "),
        f"the file looks like {name}, in which line {guess.line} reads {reading!r}: set data.encoding: {name} in "
        "params.yaml, or save the file as CSV in UTF-8",
        {"data.encoding": name},
    )


@contextmanager
def lines(found: FileFormat) -> Iterator[tuple["encodings.Counting", Iterator[str]]]:
    """Open the file and yield its source of bytes and its lines, ends kept; their text is checked as they come.

    Raises UserError with line and mend for bytes outside the encoding, NULs and damaged packing.
    """
    utf8 = found.encoding == "utf-8"  # a NUL byte is then a NUL, so that blocks of bytes can be searched for it
    try:
        with encodings.opened(found.path, found.compression, refuse_nul=utf8) as source:
            buffer = io.BufferedReader(source, encodings.BLOCK)
            if found.bom:
                buffer.read(len(MARKS[found.encoding]))
            text = io.TextIOWrapper(buffer, encoding=found.encoding, errors="strict", newline="")
            yield source, _checked(found, text, refuse_nul=not utf8)
    except (UnicodeError, NulError):
        raise undecodable(found) from None


def _checked(found: FileFormat, text: io.TextIOWrapper, *, refuse_nul: bool) -> Iterator[str]:
    """Yield the lines of `text`; raises UserError for one that is longer than LONGEST_RECORD."""
    number = 0
    while line := text.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise UserError(
                f"{found.path}, line {number}: is longer than {LONGEST_RECORD:,} characters ({preview([line])}), the "
                "most that a row may have; split its text into several rows, or delete the line"
            )
        if refuse_nul and "\0" in line:
            raise NulError
        yield line


def check_width(where: str, columns: int) -> None:
    """Raise UserError for more columns than a table of texts has."""
    if columns > MOST_COLUMNS:
        raise UserError(
            f"{where}there are {columns:,} columns, and a corpus may have {MOST_COLUMNS:,}; keep those that hold "
            "texts and their categories, or see whether the delimiter is right"
        )


class Sample(NamedTuple):
    """The first lines of a file, ends kept, and whether these are all."""

    lines: Sequence[str]
    whole: bool


def sample_lines(found: FileFormat) -> Sample:
    """Return the lines of the first mebibyte, without one that goes on beyond it."""
    sample: list[str] = []
    size = 0
    with lines(found) as (_, text):
        for line in text:
            size += len(line)
            if size > SAMPLE:
                return Sample(sample or [line], False)
            sample.append(line)
    return Sample(sample, True)


def shown(delimiter: str) -> str:
    """Return how a delimiter is called in a sentence."""
    return f"{_NAMES[delimiter]} ({json.dumps(delimiter)})" if delimiter in _NAMES else json.dumps(delimiter)


def preview(fields: Sequence[str], most: int = 6, width: int = 40) -> str:
    """Return `fields` for a sentence: quoted, the long and the many of them cut short."""
    quoted = [repr(field if len(field) <= width else field[: width - 1] + "…") for field in fields[:most]]
    return ", ".join(quoted) + (f" and {len(fields) - most} more" if len(fields) > most else "")
