"""The rows between the two passes of the stage `validate`: a file of Arrow batches, one per chunk of the corpus."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import params
from pipeline.intake.file_format import FileFormat

FURTHER_FIELDS = "further_fields"  # column of quarantine.csv: the fields of a broken row beyond the corpus's columns
RULE_VALUES = pa.map_(pa.string(), pa.float64())  # the values of the rules that a row breaks


class BackgroundWriter:
    """Runs one call at a time in a thread: Arrow's writers release the interpreter."""

    def __enter__(self) -> "BackgroundWriter":
        """Start the thread."""
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[Any] = Future()
        self._running.set_result(None)
        return self

    def submit(self, call: Callable[[Any], None], argument: Any) -> None:
        """Wait for the previous call, then start this one; raises what the previous one raised."""
        self._running.result()
        self._running = self._thread.submit(call, argument)

    def __exit__(self, *error: object) -> None:
        """Wait for the last call."""
        with self._thread:
            self._running.result()


class SpillFile:
    """Holds the rows on disk: the corpus's columns as in the file, for the quarantine, the texts, and what is known."""

    def __init__(self, path: Path, file_format: FileFormat, config: params.Validate) -> None:
        """Name the file and its columns."""
        self._path = path
        self.fields = [f"field_{number}" for number in range(len(file_format.columns))]
        self.category = None
        if config.category != "none":
            self.category = self.fields[file_format.columns.index(config.category)]
        self._schema = pa.schema(
            [
                ("row", pa.int64()),
                ("characters", pa.int64()),
                ("split_key", pa.uint64()),
                ("key", pa.uint64()),
                ("values", RULE_VALUES),
                *((name, pa.string()) for name in ("reasons", "warnings", *self.fields, FURTHER_FIELDS, "text")),
            ]
        )
        self._first_rows: list[int] = []

    def write(self, batches: Iterator[list[Any]]) -> None:
        """Write `batches`, each a list of the columns of one chunk."""
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            pa.OSFile(str(self._path), "wb") as file,
            pa.ipc.new_file(file, self._schema, options=options) as writer,
            BackgroundWriter() as background,
        ):
            for columns in batches:
                self._first_rows.append(int(columns[0][0]))
                background.submit(writer.write_batch, pa.record_batch(columns, schema=self._schema))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the chunks in order."""
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def texts(self, rows: set[int]) -> dict[int, str]:
        """Return the texts of some rows."""
        texts = {}
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_file(file) as reader:
            for row in rows:
                batch = reader.get_batch(int(np.searchsorted(self._first_rows, row, side="right")) - 1)
                texts[row] = batch["text"][int(np.searchsorted(batch["row"].to_numpy(), row))].as_py()
        return texts
