"""Axes with round ticks, and charts that any figures can be drawn in."""

import math
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.reporting.charts import interval_chart, judged_entries, perplexity_history
from pipeline.reporting.plot import Axis


def entry(action: str, perplexity: float | None, at: str = "2026-11-22") -> dict[str, Any]:
    figures = {"perplexity": perplexity, "perplexity_low": 9.0, "perplexity_high": 11.5}
    return {"action": action, "at": at, "figures": figures}


def test_an_axis_is_logarithmic_where_values_are_far_apart() -> None:
    far, near = Axis.around([8.86, 5638.0]), Axis.around([8.86, 10.07])
    assert far.is_logarithmic
    assert far.ticks() == [10, 100, 1000]
    assert far.percent(100) - far.percent(10) == pytest.approx(far.percent(1000) - far.percent(100), abs=0.02)
    assert not near.is_logarithmic
    assert near.ticks() == [9, 9.5, 10]


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-0.02, 0.01], [1.0, 1e12], [12.0, 150.0], [5.0, 5.0 + 1e-12]])
def test_an_axis_has_room_for_every_value_and_one_to_seven_distinct_ticks(values: list[float]) -> None:
    axis = Axis.around(values)
    assert all(0 < axis.percent(value) < 100 for value in values)
    assert 1 <= len(axis.ticks()) <= 7
    assert len({f"{tick:g}" for tick in axis.ticks()}) == len(axis.ticks())


@pytest.mark.parametrize("perplexities", [[10.0], [1.5, 1e6], [7.0, 7.0, 7.0]])
def test_any_history_can_be_drawn(perplexities: list[float]) -> None:
    svg = perplexity_history([entry("refuse", perplexity) for perplexity in perplexities])
    points = list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle"))  # noqa: S314 - our own
    assert len(points) == len(perplexities)
    assert all(0 <= float(point.get("cy", "")) <= 320 for point in points)


def test_what_the_history_holds_cannot_become_markup() -> None:
    svg = perplexity_history([entry("refuse", 9.0, at="<script\u202e>")])
    assert "<script" not in svg
    assert "\u202e" not in svg


def test_only_verdicts_with_a_finite_perplexity_are_in_the_history() -> None:
    history = [entry("promote", 9.0), entry("rollback", 9.0), entry("refuse", None), entry("refuse", math.inf)]
    assert judged_entries([*history, {**entry("force", 8.0)}, {"action": "refuse", "at": "", "figures": None}]) == [
        entry("promote", 9.0),
        entry("force", 8.0),
    ]


def test_models_without_a_finite_interval_are_left_out_of_a_chart() -> None:
    good = {"perplexity_low": 8.0, "perplexity": 9.0, "perplexity_high": 10.0}
    chart = interval_chart({"all": {"base": good | {"perplexity_high": None}, "candidate": good}})
    assert chart is not None
    assert [mark.model for _, marks in chart.rows for mark in marks] == ["candidate"]
    assert interval_chart({"all": {"base": {}}}) is None
