"""The loss curves as an SVG picture."""

import math

import pandas as pd

from pipeline.reporting.plot import BLUE, GREY, RED, Axis, Margins, Plot

_POINTS = 300  # of the training curve: more than its pixels show


def draw(training: pd.DataFrame, validation: pd.DataFrame, best_epoch: int, unit: str = "token") -> str:
    """Return the picture of `training` (epoch, loss) and `validation` (epoch, loss), in nats per `unit`.

    The training curve is the mean over windows of equally many steps. A line marks the best epoch.
    """
    window = math.ceil(len(training) / _POINTS)
    means = training.groupby(training.index // window).mean()
    losses = [loss for loss in (*means["loss"], *validation["loss"]) if math.isfinite(loss)]
    margin = 0.05 * (max(losses) - min(losses)) or 0.5
    epochs = Axis(0, float(validation["epoch"].max()))
    plot = Plot(
        (720, 400),
        Margins(left=60, right=20, top=40, bottom=50),
        epochs,
        Axis(min(losses) - margin, max(losses) + margin),
    )
    plot.horizontal_grid(plot.y_axis.ticks(steps=6))
    for epoch in epochs.ticks(steps=6):
        if epoch == int(epoch):
            plot.text(plot.x(epoch), 368, f"{epoch:g}")
    plot.text(360, 388, "epoch")
    plot.text(60, 24, f"loss (nats a {unit}):", anchor="start")
    further = 7 * (len(unit) - len("token"))  # about 7 pixels a character
    plot.text(185 + further, 24, "training", anchor="start", colour=BLUE)
    plot.text(245 + further, 24, "validation", anchor="start", colour=RED)
    plot.text(315 + further, 24, f"best epoch: {best_epoch}", anchor="start", colour=GREY)
    plot.vertical_marker(best_epoch, GREY)
    plot.line(_finite_points(means), BLUE)
    plot.line(_finite_points(validation), RED)
    for epoch, loss in _finite_points(validation):
        plot.point(epoch, loss, RED)
    return plot.svg()


def _finite_points(curve: pd.DataFrame) -> list[tuple[float, float]]:
    points = zip(curve["epoch"], curve["loss"], strict=True)
    return [(epoch, loss) for epoch, loss in points if math.isfinite(loss)]
