"""Which figures of a task people see first, and what its perplexity is called: for every page and table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Headline:
    """How the figures of a task are shown."""

    quantity: str = "perplexity"
    unit: str = "token"
    figures: tuple[str, ...] = ("bits_per_byte",)  # dotted keys of a model's metrics

    def values(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures of one model by their keys; None where one is missing or not defined."""
        return {key: _value(metrics, key) for key in self.figures}


def headline_of(metrics: Mapping[str, Any]) -> Headline:
    """Return how the figures of reports/evaluate/metrics.json are shown."""
    shown = metrics.get("test_rows", {})
    if "headline" not in shown:
        return Headline()
    return Headline(shown["quantity"], shown["unit"], tuple(shown["headline"]))


def label_of(key: str) -> str:
    """Return the name of a figure for people."""
    return key.rpartition(".")[2].replace("_", " ")


def _value(metrics: Mapping[str, Any], key: str) -> Any:
    value: Any = metrics
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
