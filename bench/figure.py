"""The chart of `bench.serve`: panels of lines, side by side over one legend."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.reporting.plot import BLUE, RED, Axis, Margins, Plot, svg_file, text_element

_SIZE = _WIDTH, _HEIGHT = (460, 330)  # of a panel
_MARGINS = Margins(left=60, right=20, top=40, bottom=45)
_LEGEND_LINE = 18  # pixels
_COLOURS = (RED, "#ff7f0e", "#2ca02c", "#9467bd", BLUE, "#8c564b", "#7f7f7f")


@dataclass(frozen=True)
class Panel:
    """Lines over equidistant places on the horizontal axis; the vertical axis is logarithmic."""

    title: str
    below: str
    places: Sequence[int]
    lines: Mapping[str, Sequence[float]]  # nan: no point


def draw(panels: Sequence[Panel]) -> str:
    """Return the panels as an SVG file; raises ValueError for a panel without a point."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    elements = []
    for number, panel in enumerate(panels):
        elements += [f'<g transform="translate({number * _WIDTH} 0)">', *_panel(panel, colours), "</g>"]
    for number, (name, colour) in enumerate(colours.items()):
        y = _HEIGHT + _LEGEND_LINE * number
        elements.append(f'<path d="M{_MARGINS.left} {y}h24" stroke="{colour}" stroke-width="3"/>')
        elements.append(text_element(_MARGINS.left + 32, y + 4, name, anchor="start"))
    return svg_file(_WIDTH * len(panels), _HEIGHT + _LEGEND_LINE * (len(names) + 1), elements)


def _panel(panel: Panel, colours: Mapping[str, str]) -> list[str]:
    figures = [figure for line in panel.lines.values() for figure in line if figure > 0]  # neither 0 nor nan
    if not figures:
        raise ValueError(f"{panel.title}: there is nothing to draw")
    low = math.floor(math.log10(min(figures)))
    high = max(math.ceil(math.log10(max(figures))), low + 1)
    plot = Plot(_SIZE, _MARGINS, Axis(0, max(1, len(panel.places) - 1)), Axis(low, high, is_logarithmic=True))
    plot.text(_MARGINS.left, 24, panel.title, anchor="start")
    plot.text(_WIDTH // 2, _HEIGHT - 12, panel.below)
    plot.horizontal_grid([digit * 10.0**power for power in range(low, high) for digit in (1, 2, 5)] + [10.0**high])
    for position, place in enumerate(panel.places):
        plot.text(plot.x(position), _HEIGHT - _MARGINS.bottom + 18, str(place))
    for name, line in panel.lines.items():
        points = [(position, figure) for position, figure in enumerate(line) if figure > 0]
        plot.line(points, colours[name], width=2)
        for point in points:
            plot.point(*point, colours[name], radius=3)
    return plot.elements
