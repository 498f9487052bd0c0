"""`quarantine.csv`: refused rows, whole, and safe to open in a spreadsheet."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from pipeline.intake.file_format import RESERVED_COLUMNS

# What makes Excel, LibreOffice or Sheets read a cell as a formula (OWASP, "CSV Injection"), full-width forms included.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - these very characters


def escape_formula(cell: str) -> str:
    """Return `cell` with an apostrophe in front where a spreadsheet would run it; `unescape_formula` undoes it."""
    return "'" + cell if cell.lstrip("'").startswith(_FORMULA) else cell


def unescape_formula(cell: str) -> str:
    """Return the cell that `escape_formula` was given."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


class Quarantine:
    """Writes `quarantine.csv` in UTF-8: RESERVED_COLUMNS, then the corpus's columns.

    `reasons` are joined by a space; `reason_details` holds the value and the bound of each reason that has them.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Write the header."""
        self._file = path.open("w", encoding="utf-8", newline="")
        self.rows = 0  # written so far
        self._writer = csv.writer(self._file)  # its lines end in CRLF, so that a CR in a cell is quoted too
        self._writer.writerow([*RESERVED_COLUMNS, *map(escape_formula, columns)])

    def __enter__(self) -> "Quarantine":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    def add(self, row: int, reasons: str, details: str, fields: Sequence[str]) -> None:
        """Write one refused row."""
        self.rows += 1
        self._writer.writerow([row, reasons, details, *map(escape_formula, fields)])
