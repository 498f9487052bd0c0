"""What the charts of reports show: perplexity over time as SVG, and the geometry of intervals that pages draw."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.escape import visible
from pipeline.reporting.plot import BLUE, INK, RED, Axis, Margins, Plot

_INTERVAL = ("perplexity_low", "perplexity", "perplexity_high")
_COLOURS = {"promote": (BLUE, BLUE), "force": (BLUE, BLUE), "refuse": (RED, "white")}  # action: outline, fill


@dataclass(frozen=True)
class IntervalMark:
    """One model's value and interval, in percent of the axis."""

    model: str
    low: float
    value: float
    high: float


@dataclass(frozen=True)
class IntervalChart:
    """Labelled rows of intervals on one axis."""

    axis: Axis
    rows: list[tuple[str, list[IntervalMark]]]


def interval_chart(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> IntervalChart | None:
    """Return the perplexities of the models (label -> model -> figures) as a chart; None if none is finite."""
    intervals = {
        label: {
            model: [figures[key] for key in _INTERVAL]
            for model, figures in models.items()
            if all_finite(map(figures.get, _INTERVAL))
        }
        for label, models in rows.items()
    }
    values = [value for models in intervals.values() for interval in models.values() for value in interval]
    if not values:
        return None
    axis = Axis.around(values)
    return IntervalChart(
        axis,
        [
            (label, [IntervalMark(model, *map(axis.percent, interval)) for model, interval in models.items()])
            for label, models in intervals.items()
        ],
    )


def gain_axis(gain: Mapping[str, Any] | None) -> Axis | None:
    """Return an axis for the interval of a gain that includes 0; None without finite values."""
    if gain is None or not all_finite(values := [gain[key] for key in ("gain", "low", "high")]):
        return None
    return Axis.around([0.0, *values])


def all_finite(values: Iterable[Any]) -> bool:
    """Return whether all values are finite numbers; JSON has null for those that are not."""
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def judged_entries(history: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries of the registry's history that have a verdict and a finite perplexity."""
    return [entry for entry in history if entry["action"] in _COLOURS and has_perplexity(entry)]


def has_perplexity(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry has a finite perplexity."""
    return all_finite([(entry.get("figures") or {}).get("perplexity")])


def perplexity_history(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the perplexity of `judged_entries` over time, with intervals, as an SVG file.

    Promoted candidates are filled, refused ones hollow; an entry with another action is drawn in ink.
    """
    values = [[entry["figures"].get(key) for key in _INTERVAL] for entry in entries]
    axis = Axis.around(value for interval in values for value in interval if all_finite([value]))
    plot = Plot((720, 320), Margins(left=60, right=20, top=30, bottom=40), Axis(0, len(entries)), axis)
    plot.text(60, 18, "perplexity on the test split of its day", anchor="start")
    plot.horizontal_grid(axis.ticks())
    for number, (entry, (low, perplexity, high)) in enumerate(zip(entries, values, strict=True)):
        outline, fill = _COLOURS.get(entry["action"], (INK, INK))
        if all_finite((low, high)):
            plot.error_bar(number + 0.5, low, high, outline)
        plot.point(number + 0.5, perplexity, fill, 4, outline=outline)
    for number in sorted({0, len(entries) - 1}):
        anchor = "middle" if len(entries) == 1 else "start" if number == 0 else "end"
        plot.text(plot.x(number + 0.5), 320 - 14, visible(entries[number]["at"][:10]), anchor=anchor)
    return plot.svg()
