"""The loss curves as a picture: SVG 1.1, without a drawing library, whose files hold dates and ids."""

import math

import pandas as pd

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 50
_POINTS = 300  # of the training curve: more than its pixels show
_BLUE, _ORANGE, _GREY = "#1f77b4", "#d62728", "#777777"


def draw(training: pd.DataFrame, validation: pd.DataFrame, best_epoch: int) -> str:
    """Return the picture of `training` (epoch, loss) and `validation` (epoch, loss), nats a token.

    The training curve is the mean over windows of equally many steps. A line marks the best epoch.
    """
    window = math.ceil(len(training) / _POINTS)
    means = training.groupby(training.index // window).mean()
    losses = [loss for loss in (*means["loss"], *validation["loss"]) if math.isfinite(loss)]
    end, low, high = float(validation["epoch"].max()), min(losses), max(losses)
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def x(epoch: float) -> str:
        return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * epoch / end:.1f}"

    def y(loss: float) -> str:
        return f"{_TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - loss) / (high - low):.1f}"

    def line(points: pd.DataFrame, colour: str) -> str:
        finite = points.loc[points["loss"].map(math.isfinite)]
        places = " ".join(f"{x(epoch)},{y(loss)}" for epoch, loss in zip(finite["epoch"], finite["loss"], strict=True))
        return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    def text(at: tuple[str, str], words: str, anchor: str = "middle", colour: str = "#222222") -> str:
        return f'<text x="{at[0]}" y="{at[1]}" text-anchor="{anchor}" fill="{colour}">{words}</text>'

    bottom = str(_HEIGHT - _BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for loss in _round_numbers(low, high):
        parts.append(f'<path d="M{_LEFT} {y(loss)}H{_WIDTH - _RIGHT}" stroke="#dddddd"/>')
        parts.append(text((str(_LEFT - 8), f"{float(y(loss)) + 4:.1f}"), f"{loss:g}", "end"))
    for epoch in _round_numbers(0, end):
        if epoch == int(epoch):
            parts.append(text((x(epoch), str(_HEIGHT - _BOTTOM + 18)), f"{epoch:g}"))
    parts += [
        text((str(_WIDTH // 2), str(_HEIGHT - 12)), "epoch"),
        text((str(_LEFT), "24"), "loss (nats a token):", "start"),
        text((str(_LEFT + 125), "24"), "training", "start", _BLUE),
        text((str(_LEFT + 185), "24"), "validation", "start", _ORANGE),
        text((str(_LEFT + 255), "24"), f"best epoch: {best_epoch}", "start", _GREY),
        f'<path d="M{x(best_epoch)} {_TOP}V{bottom}" stroke="{_GREY}" stroke-dasharray="4 4"/>',
        line(means, _BLUE),
        line(validation, _ORANGE),
    ]
    for epoch, loss in zip(validation["epoch"], validation["loss"], strict=True):
        if math.isfinite(loss):
            parts.append(f'<circle cx="{x(epoch)}" cy="{y(loss)}" r="3.5" fill="{_ORANGE}"/>')
    return "\n".join([*parts, "</svg>", ""])


def _round_numbers(low: float, high: float) -> list[float]:
    """Return 3 to 8 multiples of 1, 2 or 5 times a power of ten between `low` and `high`."""
    rough = (high - low) / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
