"""Read a whole CSV with one library, in a process of its own: `python -m bench.readers NAME FILE`.

These are the peers of `bench.intake`, each called as its documentation shows. What a reader writes is deleted.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.command import arg_parser, run

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Reader:
    """How a library reads a CSV: `read(file, folder)`, which is timed, and the columns of what it returns."""

    read: Callable[[Path, Path], Any]
    columns: Callable[[Any], Columns]
    large: bool = True  # whether it reads a file of several blocks (1 MB each) in which cells hold line breaks


def _pandas(file: Path, _: Path) -> Any:
    import pandas as pd

    return pd.read_csv(file)


def _pandas_pyarrow(file: Path, _: Path) -> Any:
    import pandas as pd

    return pd.read_csv(file, engine="pyarrow")


def _pyarrow(file: Path, _: Path) -> Any:
    from pyarrow import csv

    return csv.read_csv(file, parse_options=csv.ParseOptions(newlines_in_values=True))


def _polars(file: Path, _: Path) -> Any:
    import polars as pl

    return pl.read_csv(file)


def _polars_streaming(file: Path, folder: Path) -> Any:
    import polars as pl

    pl.scan_csv(file).sink_parquet(folder / "rows.parquet")
    return pl.scan_parquet(folder / "rows.parquet")


def _datasets(file: Path, folder: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("csv", data_files=str(file), cache_dir=str(folder), split="train")


def _pandas_columns(frame: Any) -> Columns:
    return {str(name): frame[name].tolist() for name in frame.columns}


def _pyarrow_columns(table: Any) -> Columns:
    columns: Columns = table.to_pydict()
    return columns


def _polars_columns(frame: Any) -> Columns:
    columns: Columns = frame.lazy().collect().to_dict(as_series=False)
    return columns


def _datasets_columns(dataset: Any) -> Columns:
    return {name: list(dataset[name]) for name in dataset.column_names}


READERS = {
    "pandas": Reader(_pandas, _pandas_columns),
    "pandas, pyarrow engine": Reader(_pandas_pyarrow, _pandas_columns, large=False),
    "pyarrow, newlines_in_values": Reader(_pyarrow, _pyarrow_columns),
    "polars": Reader(_polars, _polars_columns),
    "polars, streaming to Parquet": Reader(_polars_streaming, _polars_columns),
    "datasets, to Arrow": Reader(_datasets, _datasets_columns),
}


def main() -> None:
    """Read the file."""
    parser = arg_parser()
    parser.add_argument("name", choices=READERS)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        READERS[arguments.name].read(arguments.file, Path(folder))


if __name__ == "__main__":
    run(main)
