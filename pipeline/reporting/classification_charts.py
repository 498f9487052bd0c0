"""Charts of a classifier as SVG: its confusions, its reliability, and precision against recall."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.escape import terminal
from pipeline.reporting.formatting import cut_middle
from pipeline.reporting.plot import BLUE, GREY, INK, RED, Axis, Margins, Plot, svg_file, text_element

_NAMED = 25  # labels up to which each cell has its count and each row its name
_CELL, _HEAT_MAP = 30, 420  # pixels of a cell with a count, and of the map without counts
_NAME = 22  # characters of a label
_PAIRS = 20
_LEGEND = "rows: the truth; columns: the decision; colour: share of the row"


def confusion_chart(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Return the confusion matrix as an SVG file.

    Up to 25 labels every cell has its count; above, the map is without words, and the pairs that are confused most
    often stand in a table at its right.

    Args:
        confusion: Counts, rows are the truth: (labels, labels).
        labels: In the order of rows and columns; shown escaped, with their middle left out where they are long.
    """
    names = [cut_middle(terminal(label), _NAME) for label in labels]
    return _named_cells(confusion, names) if len(names) <= _NAMED else _map_and_table(confusion, names)


def reliability_chart(bins: Sequence[Mapping[str, float]]) -> str:
    """Return accuracy against confidence as an SVG file: a dot a bin, its area and its number the bin's rows.

    Dots on the dashed diagonal are calibrated; below it the model is too sure of itself.
    """
    plot = _unit_plot("share that is right, by confidence; numbers are rows", "confidence")
    plot.elements.append(
        f'<path d="M{plot.x(0)} {plot.y(0)}L{plot.x(1)} {plot.y(1)}" stroke="{GREY}" stroke-dasharray="4 4"/>'
    )
    plot.line([(entry["confidence"], entry["accuracy"]) for entry in bins], BLUE, 1)
    largest = max((entry["rows"] for entry in bins), default=1)
    for entry in bins:
        x, y = entry["confidence"], entry["accuracy"]
        plot.point(x, y, BLUE, round(2 + 4 * (entry["rows"] / largest) ** 0.5, 1))
        beside = 18 if y > x else -10  # away from the diagonal's other side, where the next dots are
        plot.text(plot.x(x), f"{float(plot.y(y)) - beside + 8:.1f}", f"{entry['rows']:g}", colour=GREY)
    return plot.svg()


def precision_recall_chart(points: Sequence[Mapping[str, float]], positive: str, threshold: float | None) -> str:
    """Return precision against recall as an SVG file, with the point of the chosen threshold marked.

    Args:
        points: Of the curve, from the highest threshold to the lowest, as `precision_recall_points` returns them.
        positive: The label that they are of.
        threshold: The chosen one; None where the likeliest label is decided.
    """
    plot = _unit_plot(f"precision for {cut_middle(terminal(positive), 40)}", "recall")
    steps: list[tuple[float, float]] = []  # the curve is no straight line between its points
    for point in points:
        if steps:
            steps.append((steps[-1][0], point["precision"]))
        steps.append((point["recall"], point["precision"]))
    plot.line(steps, BLUE)
    reached = [point for point in points if threshold is not None and point["threshold"] >= threshold]
    if reached and threshold is not None:
        chosen = reached[-1]
        plot.point(chosen["recall"], chosen["precision"], RED, 5)
        words = f"threshold {threshold:.3g}: precision {chosen['precision']:.2f}, recall {chosen['recall']:.2f}"
        plot.text(plot.width - plot.margins.right, 18, words, anchor="end", colour=RED)
    return plot.svg()


class ConfusedPair(NamedTuple):
    """How often rows of one label are decided as another."""

    truth: str
    decision: str
    rows: int
    share: float  # of the rows of `truth`


def confused_pairs(confusion: Sequence[Sequence[int]], labels: Sequence[str], most: int = _PAIRS) -> list[ConfusedPair]:
    """Return the pairs that are confused most often."""
    pairs = [
        ConfusedPair(labels[i], labels[j], count, count / sum(row))
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: (-pair.rows, -pair.share))[:most]


def _unit_plot(title: str, horizontal: str) -> Plot:
    """Return a plot of two axes from 0 to 1 with a grid."""
    size, margins = (520, 420), Margins(left=50, right=20, top=34, bottom=44)
    plot = Plot(size, margins, Axis(-0.02, 1.02), Axis(-0.02, 1.02))
    plot.text(margins.left, 18, title, anchor="start")
    plot.horizontal_grid(step / 5 for step in range(6))
    for step in range(6):
        plot.text(plot.x(step / 5), size[1] - margins.bottom + 16, f"{step / 5:g}")
    plot.text(size[0] - margins.right, size[1] - 8, horizontal, anchor="end", colour=GREY)
    return plot


def _named_cells(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    left = 20 + 7 * max(map(len, names))
    top, side = left + 24, _CELL * len(names)
    elements = [text_element(10, 18, _LEGEND, anchor="start", colour=GREY)]
    elements += _cells(confusion, left, top, _CELL)
    for at, (name, row) in enumerate(zip(names, confusion, strict=True)):
        middle = _CELL * at + _CELL // 2
        elements.append(text_element(left - 8, top + middle + 4, name, anchor="end"))
        column = text_element(0, 4, name, anchor="start")
        elements.append(f'<g transform="translate({left + middle},{top - 8}) rotate(-90)">{column}</g>')
        for column_at, count in enumerate(row):
            colour = "white" if count > 0.5 * sum(row) else INK
            x = left + _CELL * column_at + _CELL // 2
            elements.append(text_element(x, top + middle + 4, _short(count), colour=colour if count else GREY))
    return svg_file(max(left + side + 20, 400), top + side + 20, elements)


def _map_and_table(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    cell = max(3, _HEAT_MAP // len(names))
    left, top, side = 10, 34, cell * len(names)
    elements = [text_element(10, 18, f"{len(names)} labels; {_LEGEND}", anchor="start", colour=GREY)]
    elements.append(f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="{GREY}"/>')
    elements += _cells(confusion, left, top, cell)
    x, pairs = left + side + 30, confused_pairs(confusion, names)
    columns = (x, x + 180, x + 400, x + 470)  # truth, decision, rows, share
    table = [("truth", "decided instead", "rows", "share")]
    table += [(pair.truth, pair.decision, f"{pair.rows}", f"{100 * pair.share:.0f} %") for pair in pairs]
    for line, entries in enumerate(table):
        for at, (place, words) in enumerate(zip(columns, entries, strict=True)):
            anchor, colour = "start" if at < 2 else "end", INK if line else GREY
            elements.append(text_element(place, top + 12 + 19 * line, words, anchor=anchor, colour=colour))
    return svg_file(columns[-1] + 20, top + max(side, 19 * len(table) + 12) + 16, elements)


def _cells(confusion: Sequence[Sequence[int]], left: int, top: int, cell: int) -> list[str]:
    """Return a square for each count above 0: blue on the diagonal, red elsewhere, as dark as its share of the row."""
    return [
        f'<rect x="{left + cell * j}" y="{top + cell * i}" width="{cell}" height="{cell}" '
        f'fill="{BLUE if i == j else RED}" fill-opacity="{0.08 + 0.92 * count / sum(row):.3f}"/>'
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if count
    ]


def _short(count: int) -> str:
    """Return a count in at most four characters."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.0f}{unit}"
    return str(count)
