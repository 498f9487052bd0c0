"""Rows that repeat the text of another one, but not what the task is to learn of it, such as its label."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.intake.task_columns import TaskColumns
from pipeline.tasks.columns import Value

_COPY = {"duplicate", "near_duplicate"}  # reasons of rows that no rule for single rows refuses
_SHOWN = 3


class Contradictions:
    """Compares exact copies of a text with the row that they repeat, chunk by chunk."""

    def __init__(self, task_columns: TaskColumns, duplicate_of: NDArray[np.int64]) -> None:
        """Take the numbers of the rows that others repeat, 0 for none."""
        self._task_columns = task_columns
        columns = task_columns.columns
        self._compared = [at for at, column in enumerate(columns.kept) if column.source not in columns.texts]
        self._originals = np.unique(duplicate_of[duplicate_of > 0]) if self._compared else np.zeros(0, np.int64)
        self._values: dict[int, tuple[Value, ...]] = {}  # of the originals so far
        self.rows = 0
        self._examples: list[tuple[int, int]] = []

    def add(
        self, batch: pa.RecordBatch, fields: Sequence[str], reasons: Sequence[str], duplicate_of: NDArray[np.int64]
    ) -> None:
        """Add a chunk of rows with the reasons for which each is refused, and the row that each repeats."""
        if len(self._originals) == 0:
            return
        numbers = batch["row"].to_numpy()
        is_readable = np.array([set(row_reasons.split()) <= _COPY for row_reasons in reasons])
        chosen = is_readable & ((duplicate_of > 0) | np.isin(numbers, self._originals))
        columns = self._task_columns.clean(batch, fields, chosen)
        values = zip(*(columns[at].to_pylist() for at in self._compared), strict=True)
        for number, original, found in zip(numbers[chosen], duplicate_of[chosen], values, strict=True):
            if original == 0:
                self._values[int(number)] = found
            elif self._values.get(int(original), found) != found:
                self.rows += 1
                if len(self._examples) < _SHOWN:
                    self._examples.append((int(number), int(original)))

    def as_json(self) -> dict[str, int]:
        """Return the number of these rows for the stage's metrics, {} without any."""
        return {"contradictions": self.rows} if self.rows else {}

    def warnings(self) -> list[str]:
        """Return what a person should know of these rows, a sentence or none."""
        if not self.rows:
            return []
        kept = [self._task_columns.columns.kept[at].name for at in self._compared]
        examples = ", ".join(f"row {row} that of row {original}" for row, original in self._examples)
        more = ", ..." if self.rows > len(self._examples) else ""
        number = "1 row repeats" if self.rows == 1 else f"{self.rows} rows repeat"
        return [
            f"warning: {number} the text of an earlier row with another {' or '.join(kept)} ({examples}{more});"
            " validate.rules.duplicate decides whether the later ones count: correct them in the corpus"
        ]
