"""Example rows and the length histogram of a comparison, for the page; texts are redacted and shortened."""

# ruff: noqa: S608 - queries are put together from names in this module alone

import difflib
import re
from collections.abc import Sequence
from functools import partial

import duckdb

from pipeline.data_diff.reader import CleanFile
from pipeline.data_diff.result import Array, Examples
from pipeline.redaction import redact
from pipeline.reporting.formatting import excerpt
from pipeline.reporting.histogram import Bar, Histogram, bars_on_one_axis

_EXAMPLES = 5  # of removed and of added rows; twice as many of edited ones
_CONTEXT = 60  # characters shown on each side of a change
_MAX_COMPARED = 2000  # characters of a text in which changes are marked


def collect_examples(
    files: Sequence[CleanFile], lengths: Sequence[Array], database: duckdb.DuckDBPyConnection, region: str
) -> Examples:
    """Return the first rows of each kind, redacted for `region`, and the histogram of lengths."""
    edited = database.execute(
        "SELECT pairs.old, pairs.new, old.row, new.row FROM pairs JOIN old ON pairs.old = old.position "
        "JOIN new ON pairs.new = new.position WHERE kind <> 'identical' "
        f"ORDER BY kind = 'normalized', pairs.new LIMIT {2 * _EXAMPLES}"
    ).fetchall()
    left = {
        side: database.execute(f"SELECT position, row FROM {side}_left ORDER BY position LIMIT {_EXAMPLES}").fetchall()
        for side in ("old", "new")
    }
    old = _texts_at({at for at, *_ in edited} | {at for at, _ in left["old"]}, files[0])
    new = _texts_at({at for _, at, *_ in edited} | {at for at, _ in left["new"]}, files[1])
    mask = partial(redact, region=region)
    return Examples(
        edited=[
            {"old": row_old, "new": row_new, "parts": mark_changes(*map(mask, _differing(old[at_old], new[at_new])))}
            for at_old, at_new, row_old, row_new in edited
        ],
        removed=[{"row": row, "text": excerpt(old[at][0], mask=mask)} for at, row in left["old"]],
        added=[{"row": row, "text": excerpt(new[at][0], mask=mask)} for at, row in left["new"]],
        histogram=_histogram(old=lengths[0], new=lengths[1]),
    )


def _differing(old: tuple[str, str], new: tuple[str, str]) -> tuple[str, str]:
    """Return the two texts or, where these are the same, the task's columns of each."""
    return (old[0], new[0]) if old[0] != new[0] else (old[1], new[1])


def _texts_at(positions: set[int], file: CleanFile) -> dict[int, tuple[str, str]]:
    """Return the text at each position, and the task's columns of its row."""
    texts: dict[int, tuple[str, str]] = {}
    for first, columns in file.batches():
        if len(texts) == len(positions):
            break
        batch = range(first, first + len(columns["text"]))
        for position in positions:
            if position in batch:
                further = columns["further"][position - first]
                shown = "; ".join(f"{name}: {value}" for name, value in further.items())
                texts[position] = columns["text"][position - first], shown
    return texts


def mark_changes(old: str, new: str) -> list[tuple[str, str]]:
    """Return what turns `old` into `new`: ("same" | "removed" | "added", text), with long equal stretches shortened.

    Words, white space and single marks are compared, in at most 2,000 characters from the first difference on.
    """
    start = max(0, _common_prefix(old, new) - 2 * _CONTEXT)
    old, new = old[start:], new[start:]
    end = max(0, _common_prefix(old[::-1], new[::-1]) - 2 * _CONTEXT)
    old, new = old[: len(old) - end], new[: len(new) - end]
    is_cut = max(len(old), len(new)) > _MAX_COMPARED
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text[:_MAX_COMPARED]) for text in (old, new))
    opcodes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    if is_cut and len(opcodes) > 1 and opcodes[-1][0] != "equal":
        opcodes.pop()  # the cut may have made it: one text ends sooner
    parts: list[tuple[str, str]] = [("same", "…")] if start else []
    for tag, i1, i2, j1, j2 in opcodes:
        if tag == "equal":
            parts.append(("same", _shorten("".join(before[i1:i2]))))
        else:
            pieces = (("removed", "".join(before[i1:i2])), ("added", "".join(after[j1:j2])))
            parts += [(kind, piece) for kind, piece in pieces if piece]
    return [*parts, ("same", "…")] if end or is_cut else parts


def _shorten(text: str) -> str:
    return text if len(text) <= 4 * _CONTEXT else f"{text[:_CONTEXT]} … {text[-_CONTEXT:]}"


def _common_prefix(old: str, new: str) -> int:
    """Return how many characters both begin with."""
    return next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _histogram(**lengths: Array) -> dict[str, list[Bar]]:
    """Return the share of the texts of each length, on one axis of bins that grow with the length."""
    histograms = {side: Histogram() for side in lengths}
    for side, values in lengths.items():
        histograms[side].add(values)
    return bars_on_one_axis(histograms)
