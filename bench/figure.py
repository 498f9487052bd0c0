"""The picture of `bench.serve`: panels of lines, SVG 1.1."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 460, 330  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 45
_LINE = 18  # of the legend
_COLOURS = ("#d62728", "#ff7f0e", "#2ca02c", "#9467bd", "#1f77b4", "#8c564b", "#7f7f7f")


@dataclass(frozen=True)
class Panel:
    """Lines over the same places of the horizontal axis, which are equally far apart; the other axis is logarithmic."""

    title: str
    below: str
    places: Sequence[int]
    lines: Mapping[str, Sequence[float]]  # nan: no point


def draw(panels: Sequence[Panel]) -> str:
    """Return the panels side by side over one legend; raises ValueError when there is no point in one."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    width, height = _WIDTH * len(panels), _HEIGHT + _LINE * (len(names) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * _WIDTH} 0)">', *_panel(panel, colours), "</g>"]
    for number, (name, colour) in enumerate(colours.items()):
        y = _HEIGHT + _LINE * number
        parts.append(f'<path d="M{_LEFT} {y}h24" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(_LEFT + 32, y + 4, name, "start"))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, colours: Mapping[str, str]) -> list[str]:
    figures = [figure for line in panel.lines.values() for figure in line if figure > 0]  # neither 0 nor nan
    if not figures:
        raise ValueError(f"{panel.title}: there is nothing to draw")
    low, high = math.floor(math.log10(min(figures))), math.ceil(math.log10(max(figures)))
    high = max(high, low + 1)
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(panel.places) - 1)

    def x(at: int) -> float:
        return _LEFT + step * at

    def y(figure: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - math.log10(figure)) / (high - low)

    parts = [_text(_LEFT, 24, panel.title, "start"), _text(_WIDTH / 2, _HEIGHT - 12, panel.below)]
    for power in range(low, high):
        for digit in (1, 2, 5):
            parts.append(_level(y(digit * 10**power), f"{digit * 10.0**power:g}"))
    parts.append(_level(y(10**high), f"{10.0**high:g}"))
    parts += [_text(x(at), _HEIGHT - _BOTTOM + 18, str(place)) for at, place in enumerate(panel.places)]
    for name, line in panel.lines.items():
        points = [(x(at), y(figure)) for at, figure in enumerate(line) if figure > 0]
        places = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colours[name]}"/>' for across, down in points
        ]
    return parts


def _level(y: float, words: str) -> str:
    line = f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#dddddd"/>'
    return line + _text(_LEFT - 8, y + 4, words, "end")


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222">{escape(words)}</text>'
