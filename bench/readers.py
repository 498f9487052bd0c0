"""The readers that `bench.intake` compares, each as a person would call it; run in a process of its own.

`python -m bench.readers NAME FILE` takes the CSV in as a whole; what it writes is deleted again.
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
    """How a library takes a CSV in: `read(file, folder)` for the time, and then what its rows are."""

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


def _of_pandas(frame: Any) -> Columns:
    return {str(name): frame[name].tolist() for name in frame.columns}


def _of_pyarrow(table: Any) -> Columns:
    columns: Columns = table.to_pydict()
    return columns


def _of_polars(frame: Any) -> Columns:
    columns: Columns = frame.lazy().collect().to_dict(as_series=False)
    return columns


def _of_datasets(dataset: Any) -> Columns:
    return {name: list(dataset[name]) for name in dataset.column_names}


READERS = {
    "pandas": Reader(_pandas, _of_pandas),
    "pandas, pyarrow engine": Reader(_pandas_pyarrow, _of_pandas, large=False),
    "pyarrow, newlines_in_values": Reader(_pyarrow, _of_pyarrow),
    "polars": Reader(_polars, _of_polars),
    "polars, streaming to Parquet": Reader(_polars_streaming, _of_polars),
    "datasets, to Arrow": Reader(_datasets, _of_datasets),
}


def main() -> None:
    """Read the file by the reader of that name."""
    parser = arg_parser()
    parser.add_argument("name", choices=READERS)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        READERS[given.name].read(given.file, Path(made))


if __name__ == "__main__":
    run(main)
