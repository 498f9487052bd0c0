"""The columns that the task needs beside the text: which rows lack one, and the values that the clean rows keep."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.file_format import FileFormat, preview
from pipeline.intake.splits import normalize_text, text_digest
from pipeline.intake.text_builder import normalize_newlines
from pipeline.tasks.columns import Column, Columns, Value

MISSING, INVALID = "no_", "bad_"  # reasons, with the column's name
_TYPES = {"text": pa.string(), "label": pa.string(), "labels": pa.list_(pa.string()), "number": pa.float64()}
_MAX_LABELS = 1_000  # with more, too few rows share one to learn it: the column holds names, numbers or texts


def fields_of(columns: Columns) -> list[pa.Field]:
    """Return the fields of clean.parquet that these columns fill."""
    return [pa.field(column.name, _TYPES[column.kind]) for column in columns.kept]


class TaskColumns:
    """Reads the task's columns out of the corpus's, chunk by chunk."""

    def __init__(self, file_format: FileFormat, config: params.Validate) -> None:
        """Take the places of the columns in the corpus."""
        self.columns = config.columns
        self._format = file_format
        self._places = [file_format.columns.index(column.source) for column in self.columns.kept]
        self._labels: dict[str, None] = {}  # in the order of their first appearance
        self._rows = 0

    def reasons(self, cells: Sequence[pa.Array]) -> dict[int, tuple[str, ...]]:
        """Return why rows cannot be used, by position; `cells` are the corpus's columns.

        Blank texts are left to the rule `empty`. Raises UserError if a column of labels holds something else.
        """
        reasons: dict[int, tuple[str, ...]] = {}
        for column, place in zip(self.columns.kept, self._places, strict=True):
            if column.kind == "text":
                continue
            for position, cell in enumerate(cells[place].to_pylist()):
                reason = self._reason(column, cell)
                if reason:
                    reasons[position] = (*reasons.get(position, ()), reason)
        self._rows += len(cells[0])
        if len(self._labels) > _MAX_LABELS:
            column = next(column for column in self.columns.kept if column.kind in ("label", "labels"))
            raise UserError(
                f"{self._format.path}: the column {column.source!r} ({column.key}) holds no labels: its first"
                f" {self._rows:,} rows have {len(self._labels):,} different values, {preview(list(self._labels), 3)},"
                f" and there can be {_MAX_LABELS:,}; name another column in params.yaml, or give rare values one name"
            )
        return reasons

    def _reason(self, column: Column, cell: str) -> str:
        if not cell.strip():
            return f"{MISSING}{column.name}"
        try:
            value = column.parse(cell)
        except ValueError:
            return f"{INVALID}{column.name}"
        if column.kind in ("label", "labels"):
            self._labels |= dict.fromkeys(_labels_of(value))
        return ""

    def split_keys(self, cells: Sequence[pa.Array], text_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return what decides each row's split: that of its text, or of the column that the task splits by."""
        if not self.columns.split_by:
            return text_keys
        column = cells[self._format.columns.index(self.columns.split_by)].to_pylist()
        digests = b"".join(text_digest(normalize_text(cell))[:8] for cell in column)
        return np.frombuffer(digests, dtype=">u8").astype(np.uint64)

    def clean(self, batch: pa.RecordBatch, fields: Sequence[str], kept: NDArray[np.bool_]) -> list[pa.Array]:
        """Return the values of the rows that are `kept`; `fields` are the names of the corpus's columns in `batch`."""
        arrays = []
        for column, place in zip(self.columns.kept, self._places, strict=True):
            cells = batch[fields[place]].filter(pa.array(kept)).to_pylist()
            values: list[Value] = [column.parse(normalize_newlines(cell)) for cell in cells]
            arrays.append(pa.array(values, _TYPES[column.kind]))
        return arrays


class LabelCounts:
    """How many clean rows of each split have each label, and which labels a model cannot learn."""

    def __init__(self, columns: Columns) -> None:
        """Start without rows."""
        self._column = next((column for column in columns.kept if column.kind in ("label", "labels")), None)
        self.counts: dict[str, Counter[str]] = {}

    def add(self, clean_rows: pa.Table) -> None:
        """Add a chunk of clean rows."""
        if self._column is None:
            return
        labels = clean_rows[self._column.name].to_pylist()
        for split, value in zip(clean_rows["split"].to_pylist(), labels, strict=True):
            for label in _labels_of(value):
                self.counts.setdefault(label, Counter())[split] += 1

    def as_json(self) -> dict[str, dict[str, int]]:
        """Return the counts by label and split, sorted."""
        return {
            label: {split: counts[split] for split in ("train", "validation", "test")}
            for label, counts in sorted(self.counts.items())
        }

    def problem(self) -> str:
        """Return why no model can be trained on these labels, as a clause; "" where one can."""
        if self._column is None or len([label for label, counts in self.counts.items() if counts["train"]]) > 1:
            return ""
        found = preview(sorted(self.counts)) if self.counts else "none"
        return (
            f"the column {self._column.source!r} ({self._column.key}) has fewer than two labels in the training rows"
            f" ({found}), so there is nothing to tell apart"
        )

    def warnings(self) -> list[str]:
        """Return what a person should know of rare labels, a sentence each."""
        if self._column is None:
            return []
        least, section = self._column.min_rows, self._column.key.rpartition(".")[0]
        totals = {label: counts.total() for label, counts in sorted(self.counts.items())}
        rare = [f"{label!r} ({total})" for label, total in totals.items() if total < least]
        unlearned = [
            f"{label!r} ({totals[label]})" for label, counts in sorted(self.counts.items()) if not counts["train"]
        ]
        sentences = []
        if rare:
            sentences.append(
                f"warning: fewer than {least} clean rows ({section}.min_rows) have {_some(rare)}: add rows, or give"
                " rare labels one name"
            )
        if unlearned:
            sentences.append(
                f"warning: no training row has {_some(unlearned)}, so no model can learn it: add rows with it"
            )
        return sentences


def _labels_of(value: Value) -> list[str]:
    return value if isinstance(value, list) else [str(value)]


def _some(labels: Sequence[str], most: int = 5) -> str:
    """Return the first labels and how many there are, for a sentence."""
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    noun = "the label" if len(labels) == 1 else "the labels"
    return f"{noun} {', '.join(labels[:most])}{more}"
