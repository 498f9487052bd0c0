"""What the readers of all formats share: records, why one does not fit the columns, and the size of chunks."""

from dataclasses import dataclass
from typing import NamedTuple

CHUNK_ROWS = 50_000  # at most
CHUNK_CELLS = 1_000_000  # at most; each field is an object of 50 bytes and more
CHUNK_BYTES = 12 << 20  # roughly; a few chunks are in memory at once, and a longer record is a chunk of its own

DOS_END_OF_FILE = "\x1a"


class Problem(NamedTuple):
    """Why a record does not fit the columns."""

    what: str  # with its line
    fix: str


class Record(NamedTuple):
    """A row as it was read."""

    row: int  # the line at which it begins, in Parquet its ordinal; from 1
    fields: list[str]
    problem: Problem | None  # why the fields do not fit the columns
    unpacked: int  # bytes of the unpacked file read so far
    position: int  # bytes of the file on disk read so far


@dataclass
class BlankLines:
    """Counts the lines that are not rows."""

    count: int = 0


def dos_end_of_file(line: int) -> Problem:
    """Return the problem of a line that holds only DOS_END_OF_FILE."""
    return Problem(f"line {line}: holds only the DOS end-of-file mark (^Z, 0x1a)", "remove it")
