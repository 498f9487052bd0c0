"""Documents to token rows of one length."""

from collections.abc import Mapping
from typing import Any

from pipeline.tasks.protocol import Document, TokenColumn


def padded_row(document: Document, columns: Mapping[str, TokenColumn]) -> dict[str, Any]:
    """Return the token row of a document: lists cut to their column's length, or filled with what the mask hides.

    `attention_mask` is 1 where `input_ids` holds a token of the document, else 0.
    """
    row = {name: _padded(value, columns[name]) for name, value in document.columns.items()}
    length = columns["input_ids"].length or 0
    kept = min(length, len(document.columns["input_ids"]))
    return {**row, "attention_mask": [1] * kept + [0] * (length - kept)}


def _padded(value: Any, column: TokenColumn) -> Any:
    if column.length is None:
        return value
    return value[: column.length] + [column.fill] * (column.length - len(value))
