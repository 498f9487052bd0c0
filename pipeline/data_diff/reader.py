"""Reads clean data sets: Parquet files with the columns row, text and split, and those of a task."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.command import UserError
from pipeline.data_hash import NOT_LEARNED

_BATCH_ROWS = 4096
_EXPECTED = "expected row (whole number), text and split, as `dvc repro validate` writes them"


class CleanFile:
    """A clean data set on disk, read in batches."""

    def __init__(self, path: Path, name: str) -> None:
        """Open `path`; raises UserError, which calls it `name`, where it is no clean data set."""
        self._name = name
        try:
            # Without pre-buffering, which keeps the pages that were read in memory.
            self._file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except pa.ArrowInvalid:
            raise UserError(f"{name}: is no clean data set: not a Parquet file; {_EXPECTED}") from None
        schema = self._file.schema_arrow
        self._of_task = [name for name in schema.names if name not in ("split", "text", *NOT_LEARNED)]
        types = {"row": pa.types.is_integer, "text": _is_text, "split": _is_text}
        if not all(name in schema.names and fits(schema.field(name).type) for name, fits in types.items()):
            columns = ", ".join(f"{column.name} ({column.type})" for column in schema) or "none"
            raise UserError(f"{name}: is no clean data set: its columns are {columns}; {_EXPECTED}")

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._file.metadata.num_rows)

    def batches(self) -> Iterator[tuple[int, dict[str, list[Any]]]]:
        """Yield the columns of some rows at a time, with the position of the first; raises UserError for a null.

        They are `row`, `text`, `split`, and `further`: the task's columns of each row, such as {"label": "fraud"}.
        """
        position = 0
        names = ["row", "text", "split", *self._of_task]
        for batch in self._file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
            columns = batch.to_pydict()
            for column, values in columns.items():
                if None in values:
                    raise UserError(
                        f"{self._name}: is no clean data set: its column {column} has a missing value in row "
                        f"{position + values.index(None) + 1} of the file; {_EXPECTED}"
                    )
            columns["further"] = [{name: columns[name][at] for name in self._of_task} for at in range(len(batch))]
            yield position, columns
            position += len(batch)


def _is_text(column: pa.DataType) -> bool:
    return bool(pa.types.is_string(column) or pa.types.is_large_string(column))
