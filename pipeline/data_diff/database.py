"""The scratch DuckDB database of a comparison, on disk so that memory stays bounded."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb


@contextmanager
def scratch_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an empty database and delete it afterwards."""
    with tempfile.TemporaryDirectory(prefix="data_diff_") as folder:
        database = duckdb.connect(
            str(Path(folder) / "diff.duckdb"),
            config={
                "memory_limit": "400MB",
                "temp_directory": str(Path(folder) / "spill"),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        with database:
            yield database


def single_row(database: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    """Return the only row of a query for counts."""
    return tuple(int(value or 0) for value in database.execute(query).fetchall()[0])
