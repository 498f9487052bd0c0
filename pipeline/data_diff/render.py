"""Shows a comparison as a table for a terminal and as an HTML page that needs no network."""

from pipeline.data_diff.lengths import interpret_psi
from pipeline.data_diff.near_copies import EDIT_THRESHOLD
from pipeline.data_diff.result import DataDiff
from pipeline.reporting.pages import render


def table(diff: DataDiff) -> str:
    """Return the figures as a short table for a terminal."""
    rows, splits, length, vocabulary = diff.rows, diff.splits, diff.length, diff.vocabulary
    names = list(splits.old | splits.new)
    lines = {
        "old": f"{diff.old.name}: {rows.old:,} rows, data {diff.old.data[:12]}",
        "new": f"{diff.new.name}: {rows.new:,} rows, data {diff.new.data[:12]}",
        "rows": f"{rows.unchanged:,} unchanged, {rows.edited:,} edited, {rows.removed:,} removed, {rows.added:,} added",
        "splits": ", ".join(f"{name} {_change(splits.old.get(name, 0), splits.new.get(name, 0))}" for name in names),
        "moved": f"{splits.moved:,} texts"
        + "".join(f", {count:,} {move}" for move, count in splits.moves.items())
        + f"; {splits.moved_by_edit:,} by an edit",
        "length": f"mean {_change(length.old.mean, length.new.mean)}, median "
        f"{_change(length.old.median, length.new.median)}, 95 % {_change(length.old.p95, length.new.p95)} characters",
        "": f"{interpret_psi(length.psi)} (PSI {length.psi}); KS {length.ks}, p {length.p_value}",
        "words": f"{_change(vocabulary.distinct_old, vocabulary.distinct_new)} different ones, "
        f"{vocabulary.distinct_added:,} new, {vocabulary.distinct_gone:,} gone",
        " ": f"unseen share {vocabulary.unseen_share}, Jensen-Shannon distance {vocabulary.distance}",
        "rose": ", ".join(word.word for word in vocabulary.rose) or "none",
        "fell": ", ".join(word.word for word in vocabulary.fell) or "none",
    }
    return "\n".join(f"{name:8}{line}" for name, line in lines.items())


def _change(old: float | None, new: float | None) -> str:
    return " -> ".join("none" if value is None else f"{value:,.7g}" for value in (old, new))


def page(diff: DataDiff) -> str:
    """Return one HTML page, which needs no network."""
    return render(
        "data_diff.html", diff=diff, psi_interpretation=interpret_psi(diff.length.psi), edit_threshold=EDIT_THRESHOLD
    )
