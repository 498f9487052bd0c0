"""Runs a measurement of the `evaluate` library in memory; by itself it would write to the home directory's cache."""

import tempfile
from typing import Any

import evaluate


def measure(measurement: type[evaluate.Measurement], **inputs: Any) -> dict[str, Any]:
    """Return what `measurement` computes from `inputs`, its own keyword arguments."""
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = measurement(keep_in_memory=True, cache_dir=folder).compute(**inputs)
    return result
