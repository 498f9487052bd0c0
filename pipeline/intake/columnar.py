"""Parquet: the same look and records as for files of lines; every value as text."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.command import UserError
from pipeline.intake.json_lines import writable
from pipeline.intake.records import BYTES, ROWS, Record
from pipeline.intake.source import Look, check_reserved


def look(path: Path) -> Look:
    """Return what the Parquet file `path` is; raises UserError where it cannot be read or has no rows."""
    try:
        with pq.ParquetFile(path) as file:
            columns, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise UserError(f"{path}: two columns are called {twice[0]!r}; give each column its own name")
    if not columns or not rows:
        raise UserError(f"{path}: there is no row in {len(columns)} columns; expected one for each text")
    found = Look(path, "parquet", "none", columns=columns)
    check_reserved(found, f"{path}: ")
    sample = []
    for record in records(found, size=100):
        sample.append(tuple(record[1]))
        if len(sample) == 100:
            break
    return Look(path, "parquet", "none", columns=columns, sample=tuple(sample))


def records(found: Look, size: int | None = None) -> Iterator[Record]:
    """Yield the records, their ordinals from 1 as rows, reading `size` at once (as many as fit a chunk)."""
    path = found.path
    try:
        # Without pre_buffer and with a small buffer pages are read one by one, not row groups whole.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            total, length = file.metadata.num_rows, path.stat().st_size
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            widest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
            size = size or max(1, min(ROWS, int(BYTES / max(1, widest))))
            row = unpacked = 0
            for batch in file.iter_batches(batch_size=size):
                unpacked += batch.nbytes
                texts = [_texts(column) for column in batch.columns]
                for fields in zip(*texts, strict=True):
                    row += 1
                    yield row, list(fields), None, unpacked, length * row // total
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: cannot be read as Parquet ({reason}); it is cut off or damaged: write or fetch it again")


def _texts(column: pa.Array) -> list[str]:
    """Return the values as text: null as "", lists and structs as JSON, bytes and NULs as in `writable`."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    try:
        if not pa.types.is_binary(kind) and not pa.types.is_nested(kind):
            column = column.cast(pa.large_string())
            column.validate(full=True)  # a file may say that its bytes are UTF-8 where they are not
            column = pc.fill_null(column, "")
            held_nul = pc.any(pc.match_substring(column, "\0")).as_py()
            return list(map(writable, column.to_pylist())) if held_nul else column.to_pylist()
        if pa.types.is_nested(kind):
            return [_json(value) for value in column.to_pylist()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        pass  # the slow way below takes what casts do not
    try:
        values = column.cast(pa.large_binary()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    return ["" if value is None else writable(value.decode(errors="surrogateescape")) for value in values]


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
