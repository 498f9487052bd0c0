"""The groups of rows by the column validate.category, and the check that it holds categories."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.corpus_batches import CorpusBatch
from pipeline.intake.file_format import FileFormat, preview
from pipeline.intake.text_builder import normalize_newlines

_MAX_GROUPS = 200  # with more, too few rows share one for figures of its own: the column holds names or numbers
_MAX_LENGTH = 200  # characters; a longer value is a text


def group_names(cells: pa.Array, kept: NDArray[np.bool_]) -> list[str]:
    """Return the groups of the rows that are `kept`: the category's cells, trimmed."""
    return [normalize_newlines(cell.strip()) for cell in cells.filter(pa.array(kept)).to_pylist()]


class CategoryCheck:
    """Stops the stage at the first rows that show that the category's column holds something else."""

    def __init__(self, file_format: FileFormat, config: params.Validate) -> None:
        """Start without rows."""
        self._format, self._name = file_format, config.category
        self._groups: dict[str, None] = {}  # in the order of their first appearance
        self._rows = 0

    def add(self, batch: CorpusBatch, refused: NDArray[np.bool_]) -> None:
        """Add the groups of the rows that are not `refused`; raises UserError if they are too many or too long."""
        if self._name == "none":
            return
        groups = group_names(batch.columns[self._format.columns.index(self._name)], ~refused)
        longest = max(groups, key=len, default="")
        if len(longest) > _MAX_LENGTH:
            row = batch.rows[~refused][groups.index(longest)]
            raise UserError(
                f"{self._format.path}, {'row' if self._format.format == 'parquet' else 'line'} {row}: the column "
                f"{self._name!r} (validate.category) holds {len(longest):,} characters, {preview([longest])}, and a "
                f"category has at most {_MAX_LENGTH}; shorten it, or set validate.category in params.yaml to another "
                "column or none"
            )
        self._groups |= dict.fromkeys(groups)
        self._rows += len(batch.rows)
        if len(self._groups) > _MAX_GROUPS:
            raise UserError(
                f"{self._format.path}: the column {self._name!r} (validate.category) is not a category: its first "
                f"{self._rows:,} rows hold {len(self._groups):,} different values, {preview(list(self._groups), 3)}, "
                f"and a category has at most {_MAX_GROUPS}; set validate.category in params.yaml to a column with "
                "fewer or none, or give its rare values one name"
            )
