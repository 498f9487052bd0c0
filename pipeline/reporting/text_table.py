"""Tables and lists for a terminal: aligned, at most 100 columns wide."""

import io
import shutil
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import escape

_WIDTH = 100  # columns; wider lines are hard to read, and many terminals wrap them


def width() -> int:
    """Return the columns to fill: those of the terminal, at most 100."""
    return min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` in aligned columns; cells that do not fit continue on the next line."""
    if not rows:
        return ""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in rows[0]:
        grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*(Text(escape.terminal(cell)) for cell in row))
    # The same width on a narrower terminal, which wraps the line: a version broken in two could not be copied.
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def bullets(sentences: Sequence[str]) -> str:
    """Return sentences as a wrapped list."""
    return "\n".join(wrap(sentence, "- ", "  ") for sentence in sentences)


def wrap(text: str, first: str, rest: str) -> str:
    """Return `text` in lines that begin with `first` and then `rest`; words are never broken at hyphens."""
    return textwrap.fill(text, width(), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
