"""SVG charts drawn without a plotting library, so that equal data gives equal bytes.

An `Axis` maps values to positions and picks round ticks; a `Plot` collects the elements of one chart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

INK, GREY, GRID = "#222222", "#777777", "#dddddd"
BLUE, RED = "#1f77b4", "#d62728"

_LOGARITHMIC_FROM = 10  # largest by smallest value


@dataclass(frozen=True)
class Axis:
    """The range from `low` to `high`; on a logarithmic axis both are logarithms to base 10."""

    low: float
    high: float
    is_logarithmic: bool = False

    @classmethod
    def around(cls, values: Iterable[float]) -> "Axis":
        """Return an axis with a margin around finite `values`, logarithmic where they are positive and far apart."""
        numbers = list(values)
        smallest, largest = min(numbers), max(numbers)
        is_logarithmic = smallest > 0 and largest / smallest >= _LOGARITHMIC_FROM
        low, high = (math.log10(smallest), math.log10(largest)) if is_logarithmic else (smallest, largest)
        margin = max(0.06 * (high - low), 0.005 * abs(high)) or 1.0
        return cls(low - margin, high + margin, is_logarithmic)

    def scaled(self, value: float) -> float:
        """Return `value`, or its logarithm on a logarithmic axis."""
        return math.log10(value) if self.is_logarithmic else value

    def percent(self, value: float) -> float:
        """Return the position of `value` in percent of the axis's length."""
        return round(100 * (self.scaled(value) - self.low) / (self.high - self.low), 2)

    def ticks(self, steps: int = 4) -> list[float]:
        """Return round numbers on the axis: powers of ten, or multiples of 1, 2 or 5 times one."""
        if self.is_logarithmic:
            factors = (1, 2, 5) if self.high - self.low < 2 else (1,)
            powers = range(math.floor(self.low), min(math.ceil(self.high), 309))
            numbers = [factor * 10.0**power for power in powers for factor in factors]
            on_axis = [number for number in numbers if self.low <= math.log10(number) <= self.high]
            return on_axis[:: len(on_axis) // 6 + 1]
        rough = (self.high - self.low) / steps
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        multiples = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [round(multiple * step, 12) for multiple in multiples]


class Margins(NamedTuple):
    """Pixels between the edges of a chart and its plotting area."""

    left: int
    right: int
    top: int
    bottom: int


class Plot:
    """One chart: data coordinates in, SVG elements out, in the order they were added."""

    def __init__(self, size: tuple[int, int], margins: Margins, x_axis: Axis, y_axis: Axis) -> None:
        """Start empty; `size` is (width, height) in pixels."""
        self.width, self.height = size
        self.margins, self.x_axis, self.y_axis = margins, x_axis, y_axis
        self.elements: list[str] = []

    def x(self, value: float) -> str:
        """Return the horizontal position of `value` in pixels."""
        axis, span = self.x_axis, self.width - self.margins.left - self.margins.right
        return f"{self.margins.left + span * (axis.scaled(value) - axis.low) / (axis.high - axis.low):.1f}"

    def y(self, value: float) -> str:
        """Return the vertical position of `value` in pixels."""
        axis, span = self.y_axis, self.height - self.margins.top - self.margins.bottom
        return f"{self.margins.top + span * (axis.high - axis.scaled(value)) / (axis.high - axis.low):.1f}"

    def text(self, x: str | int, y: str | int, words: str, *, anchor: str = "middle", colour: str = INK) -> None:
        """Add `words` at a position in pixels."""
        self.elements.append(text_element(x, y, words, anchor=anchor, colour=colour))

    def horizontal_grid(self, ticks: Iterable[float]) -> None:
        """Add a labelled line across the plotting area for each tick of the vertical axis."""
        left, right = self.margins.left, self.width - self.margins.right
        for tick in ticks:
            self.elements.append(f'<path d="M{left} {self.y(tick)}H{right}" stroke="{GRID}"/>')
            self.text(left - 8, f"{float(self.y(tick)) + 4:.1f}", f"{tick:g}", anchor="end")

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1.5) -> None:
        """Add a line through `points`."""
        places = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        self.elements.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>')

    def error_bar(self, x: float, low: float, high: float, colour: str) -> None:
        """Add a vertical line from `low` to `high`."""
        self.elements.append(f'<path d="M{self.x(x)} {self.y(low)}V{self.y(high)}" stroke="{colour}"/>')

    def vertical_marker(self, x: float, colour: str) -> None:
        """Add a dashed line over the whole height of the plotting area."""
        ends = f"M{self.x(x)} {self.margins.top}V{self.height - self.margins.bottom}"
        self.elements.append(f'<path d="{ends}" stroke="{colour}" stroke-dasharray="4 4"/>')

    def point(self, x: float, y: float, colour: str, radius: float = 3.5, *, outline: str = "") -> None:
        """Add a dot, filled with `colour`."""
        stroke = f' stroke="{outline}"' if outline else ""
        self.elements.append(f'<circle cx="{self.x(x)}" cy="{self.y(y)}" r="{radius:g}" fill="{colour}"{stroke}/>')

    def svg(self) -> str:
        """Return the chart as an SVG file."""
        return svg_file(self.width, self.height, self.elements)


def text_element(x: str | int, y: str | int, words: str, *, anchor: str = "middle", colour: str = INK) -> str:
    """Return `words` at a position in pixels."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def svg_file(width: int, height: int, elements: Iterable[str]) -> str:
    """Return an SVG file of `elements` on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *elements, "</svg>", ""])
