"""The hash of the clean rows, "data" in every later record. Light to import."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

NOT_LEARNED = ("row", "group")  # columns of clean.parquet that no model learns


class DataHash:
    """SHA-256 of clean rows, in order: split, text and the task's columns count; row numbers and groups do not."""

    def __init__(self) -> None:
        """Begin without a row."""
        self._sha256 = hashlib.sha256()

    def add(self, split: str, text: str, further: Sequence[Any]) -> None:
        """Add a row; `further` holds the values of the task's columns, in the order of the file."""
        self._sha256.update(f"{split}\0{text}\0".encode())
        if further:
            self._sha256.update(json.dumps(list(further), ensure_ascii=False).encode() + b"\0")

    def hexdigest(self) -> str:
        """Return the hash."""
        return self._sha256.hexdigest()
