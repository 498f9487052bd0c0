"""The figures of a task's own: which of a model's metrics stand in one table, and what is drawn."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.reporting.classification_charts import confusion_chart, precision_recall_chart, reliability_chart

# Metrics with a place of their own on the page.
_ELSEWHERE = {"perplexity", "perplexity_low", "perplexity_high", "bits_per_byte", "tokens", "rows", "bytes"}
Drawing = Callable[[Mapping[str, Any]], str]
_CHARTS: dict[str, tuple[str, Drawing]] = {  # key of the chart data: title, drawing
    "confusion": (
        "Confusion on the test split: rows are the true labels, columns the answers",
        lambda data: confusion_chart(data["confusion"], data["labels"]),
    ),
    "reliability": (
        "Reliability on the test split: how often answers of a confidence are right",
        lambda data: reliability_chart(data["reliability"]),
    ),
    "precision_recall": (
        "Precision and recall on the test split, at every threshold",
        lambda data: precision_recall_chart(
            data["precision_recall"]["points"],
            data["precision_recall"]["positive"],
            data["precision_recall"]["threshold"],
        ),
    ),
}


def own_figures(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the single numbers among each model's metrics that have no other place; {} where there are none."""
    figures = {
        name: {key: value for key, value in of.items() if _is_number(value) and key not in _ELSEWHERE}
        for name, of in measured.items()
    }
    return figures if any(figures.values()) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def charts_of(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the charts of one model, each a title and an SVG file; `data` is its part of `paths.GENERATIONS`."""
    return [(title, draw(data)) for key, (title, draw) in _CHARTS.items() if data.get(key)]
