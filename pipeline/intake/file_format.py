"""What is known of a corpus file before its rows are read, and how error messages quote its content."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.command import UserError

SAMPLE = 1 << 20  # bytes read to detect the format
# A row is held in memory several times over: one of this length takes up to 300 MB on the way to its refusal.
LONGEST_RECORD = 1 << 22  # characters; War and Peace has 3.2 million
MAX_COLUMNS = 1 << 14  # as in Excel
RESERVED_COLUMNS = ("row", "reasons", "reason_details")  # quarantine.csv has these before the file's own columns
_DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_YAML_WORDS = ("false", "n", "no", "null", "off", "on", "true", "y", "yes")


@dataclass(frozen=True)
class FileFormat:
    """How the bytes of a corpus file are read.

    In a Parquet file `encoding` and everything below it but `columns` and `sample` is "" or empty. Line ends, notes and
    `delimiter: auto` are judged by the first mebibyte.
    """

    path: Path
    format: str  # csv, tsv, text, jsonl or parquet
    compression: str  # none, gzip or zstd
    encoding: str = ""  # Python's name, with the byte order: utf-8, utf-16-le, cp1252
    bom: bool = False
    line_ends: str = ""  # LF, CRLF, CR or mixed; "" for a single line
    delimiter: str = ""
    quote: str = ""  # one character or ""
    escape: str = ""  # one character or ""
    header: bool = False  # whether the first record names the columns
    header_line: int = 1  # blank lines and rows of only delimiters may stand above it
    columns: tuple[str, ...] = ()
    sample: tuple[tuple[str, ...], ...] = ()  # the first rows, to describe the columns by
    fixes: tuple[str, ...] = ()  # a sentence for each fault that was fixed because params.yaml allows it
    notes: tuple[str, ...] = ()  # a sentence for each oddity that needs no fix


class SettingsError(UserError):
    """An error that settings in params.yaml may fix."""

    def __init__(self, what: str, fix: str = "", settings: Mapping[str, str] | None = None) -> None:
        """Create the error.

        Args:
            what: What is wrong, and where.
            fix: What to do about it; names `settings`.
            settings: The values that fix it, by their full keys, such as data.encoding.
        """
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.settings = dict(settings or {})


def format_settings(settings: Mapping[str, str]) -> str:
    """Return `settings` as they are written in params.yaml, for a sentence."""
    values = {
        key: value if _is_plain_yaml(value) else json.dumps(value, ensure_ascii=False)
        for key, value in settings.items()
    }
    return " and ".join(f"{key}: {value}" for key, value in values.items())


def _is_plain_yaml(value: str) -> bool:
    """Return whether `value` needs no quotes in YAML."""
    return value not in _YAML_WORDS and re.fullmatch(r"[a-z][a-z\d]*([-_][a-z\d]+)*", value) is not None


def check_reserved(columns: Sequence[str], where: str) -> None:
    """Raise UserError if a column has the name of one that quarantine.csv adds."""
    reserved = [name for name in columns if name in RESERVED_COLUMNS]
    if reserved:
        raise UserError(f"{where}the column name {reserved[0]!r} is used by quarantine.csv; rename it")


def check_width(columns: int, where: str) -> None:
    """Raise UserError if there are more columns than a table of texts has."""
    if columns > MAX_COLUMNS:
        raise UserError(
            f"{where}there are {columns:,} columns, and a corpus may have at most {MAX_COLUMNS:,}; keep the columns "
            "of the texts and their categories, or check the delimiter"
        )


def delimiter_name(delimiter: str) -> str:
    """Return the name of a delimiter for a sentence, such as `comma (",")`."""
    if delimiter in _DELIMITER_NAMES:
        return f"{_DELIMITER_NAMES[delimiter]} ({json.dumps(delimiter)})"
    return json.dumps(delimiter)


def preview(fields: Sequence[str], most: int = 6, width: int = 40) -> str:
    """Return `fields` quoted for a sentence: at most `most` of them, each cut to `width` characters."""
    quoted = [repr(field if len(field) <= width else field[: width - 1] + "…") for field in fields[:most]]
    return ", ".join(quoted) + (f" and {len(fields) - most} more" if len(fields) > most else "")


def line_ends_of(counts: Mapping[str, int]) -> str:
    """Return FileFormat.line_ends, given how many lines end in each way."""
    ends = [end for end in counts if end]
    return ends[0] if len(ends) == 1 else "mixed" if ends else ""


def line_end_of(line: str) -> str:
    """Return how a line ends: LF, CRLF, CR, or "" if it has no line break."""
    return "CRLF" if line.endswith("\r\n") else {"\n": "LF", "\r": "CR"}.get(line[-1:], "")
