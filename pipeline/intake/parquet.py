"""Parquet: its format and its records, every value as text, in bounded memory whatever the file holds."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.command import UserError
from pipeline.intake.file_format import LONGEST_RECORD, SAMPLE, FileFormat, check_reserved, check_width
from pipeline.intake.json_lines import writable
from pipeline.intake.parquet_pages import pages
from pipeline.intake.records import CHUNK_BYTES, CHUNK_ROWS, Record

_LARGEST_PAGE = 16 << 20  # bytes, and values, of a page
_LARGEST_PAGES = 16 * _LARGEST_PAGE  # bytes of one page of each column, which are in memory together
_ROWS_PER_BYTE = 1000  # of the file; more than any table of texts has
_SAMPLE_ROWS = 100
Sizes = npt.NDArray[np.int64]


def sniff_parquet(path: Path) -> FileFormat:
    """Return the format of the Parquet file `path`; raises UserError if it cannot be read or has no rows."""
    try:
        with pq.ParquetFile(path) as file:
            columns, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable_error(path, error) from None
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise UserError(f"{path}: two columns are called {twice[0]!r}; give each column its own name")
    if not columns or not rows:
        raise UserError(f"{path}: there is no row in {len(columns)} columns; expected one row per text")
    check_width(len(columns), f"{path}: ")
    check_reserved(columns, f"{path}: ")
    file_format = FileFormat(path, "parquet", "none", columns=columns)
    sample: list[tuple[str, ...]] = []
    size = 0
    for record in parquet_records(file_format, batch_rows=_SAMPLE_ROWS):
        sample.append(tuple(record.fields))
        size += sum(map(len, record.fields))
        if len(sample) == _SAMPLE_ROWS or size > SAMPLE:
            break
    return FileFormat(path, "parquet", "none", columns=columns, sample=tuple(sample))


def parquet_records(file_format: FileFormat, batch_rows: int = CHUNK_ROWS) -> Iterator[Record]:
    """Yield the records with their ordinals from 1 as rows, reading at most `batch_rows` at once."""
    path = file_format.path
    unpacked, total, length = 0, 0, path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            total = file.metadata.num_rows
        for first, batch in _batches(path, batch_rows):
            unpacked += int(_row_sizes(batch).sum())
            named = zip(file_format.columns, batch.columns, strict=True)
            columns = [_column_as_text(path, name, column) for name, column in named]
            for row, fields in enumerate(zip(*columns, strict=True), start=first):
                if sum(map(len, fields)) > LONGEST_RECORD:
                    raise _too_long_error(path, row)
                yield Record(row, list(fields), None, unpacked, length * row // total)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable_error(path, error) from None


def _batches(path: Path, max_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield rows in batches that fit a chunk, with the ordinal of the first row, from 1.

    Memory is bounded whatever the file holds: texts stay dictionary-encoded as in the file, where a repeated value
    takes no room, and batches are cut by their decoded size. Raises UserError for a row or a page that is too large.
    """
    # Without pre_buffer and with a small buffer pages are read one by one, not whole row groups.
    rows, dictionary_columns = _batch_plan(path, max_rows)
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, read_dictionary=dictionary_columns) as file:
        first = 1
        for batch in file.iter_batches(batch_size=rows, use_threads=False):
            for start, length in _slices(path, first, batch):
                yield first + start, batch.slice(start, length)
            first += len(batch)


def _batch_plan(path: Path, max_rows: int) -> tuple[int, list[str]]:
    """Return how many rows to read at once, and the columns to keep dictionary-encoded."""
    with pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema
    leaves = [schema.column(index) for index in range(len(schema))]
    largest = _largest_pages(path, metadata)
    # Values that can be far longer unpacked than in their page: repeated by a list, or sharing a beginning.
    expanding = {leaf.path for leaf in leaves if leaf.max_repetition_level > 0} | _delta_columns(metadata)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    widest_row = max(
        sum(size for name, size in largest.items() if name in expanding),
        sum(max(0, leaf.length or 0) for leaf in leaves),  # of values of a fixed width
        *(group.total_byte_size / max(1, group.num_rows) for group in groups),
    )
    rows = max(1, min(max_rows, int(CHUNK_BYTES / max(1, widest_row))))
    return rows, [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path not in expanding]


def _largest_pages(path: Path, metadata: pq.FileMetaData) -> dict[str, int]:
    """Return the unpacked size of each column's largest page; raises UserError for sizes that no table of texts has."""
    file_size = path.stat().st_size
    if metadata.num_rows > _ROWS_PER_BYTE * file_size:
        raise UserError(f"{path}: holds {metadata.num_rows:,} rows in {file_size:,} bytes, more than texts can")
    largest: dict[str, int] = {}
    try:
        for name, page in pages(path, metadata):
            largest[name] = max(largest.get(name, 0), page.unpacked)
            if page.unpacked > _LARGEST_PAGE or page.values > _LARGEST_PAGE:
                raise UserError(
                    f"{path}: a page of the column {name!r} has {page.unpacked:,} bytes unpacked and {page.values:,} "
                    f"values, and at most {_LARGEST_PAGE:,} of each are read at once; write the file again with pages "
                    "of 1 MB, the default of pandas, pyarrow and Spark"
                )
    except ValueError as error:
        raise _unreadable_error(path, error) from None
    if sum(largest.values()) > _LARGEST_PAGES:
        raise UserError(
            f"{path}: a page of each of its {len(largest):,} columns takes {sum(largest.values()):,} bytes unpacked, "
            f"and at most {_LARGEST_PAGES:,} are read at once; keep the columns of the texts and their categories"
        )
    return largest


def _delta_columns(metadata: pq.FileMetaData) -> set[str]:
    """Return the columns whose values are written as differences from the value before."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    columns = (group.column(index) for group in groups for index in range(group.num_columns))
    return {column.path_in_schema for column in columns if "DELTA_BYTE_ARRAY" in column.encodings}


def _slices(path: Path, first: int, batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
    """Yield start and length of the parts of `batch` that fit a chunk when they are decoded."""
    sizes = _row_sizes(batch)
    longest = int(sizes.argmax())
    if sizes[longest] > 4 * LONGEST_RECORD:  # a character takes at most 4 bytes
        raise _too_long_error(path, first + longest)
    start = size = 0
    for at, row_size in enumerate(sizes.tolist()):
        if at > start and size + row_size > CHUNK_BYTES:
            yield start, at - start
            start, size = at, 0
        size += row_size
    yield start, len(batch) - start


def _row_sizes(batch: pa.RecordBatch) -> Sizes:
    """Return about how many bytes each row takes when it is decoded."""
    return sum(map(_value_sizes, batch.columns), np.zeros(len(batch), np.int64))


def _value_sizes(column: pa.Array) -> Sizes:
    kind = column.type
    if pa.types.is_dictionary(kind) and len(column.dictionary):
        dictionary_sizes = _value_sizes(column.dictionary)
        indices = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
        # Arrow would read beyond the dictionary.
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(dictionary_sizes):
            raise pa.ArrowInvalid("a value that its dictionary does not hold")
        sizes: Sizes = dictionary_sizes[indices]
        return sizes
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        lengths: Sizes = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return lengths
    return np.full(len(column), column.nbytes // max(1, len(column)), np.int64)


def _too_long_error(path: Path, row: int) -> UserError:
    return UserError(
        f"{path}, row {row}: is longer than {LONGEST_RECORD:,} characters, the most that a row may have; split its "
        "text into several rows, or delete it"
    )


def _unreadable_error(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"{path}: cannot be read as Parquet ({reason}); it is truncated or damaged: write or download it again"
    )


def _column_as_text(path: Path, name: str, column: pa.Array) -> list[str]:
    """Return a column's values as text; raises UserError for values that Python cannot hold, such as the year 10000."""
    try:
        return _as_text(column)
    except (ValueError, LookupError, ArithmeticError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: the column {name!r} ({str(column.type)[:100]}) holds a value that cannot be written as text "
            f"({reason}); leave the column out, or write it as text"
        ) from None


def _as_text(column: pa.Array) -> list[str]:
    """Return the values as text: null as "", lists and structs as JSON, bytes and NULs as `writable` does."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    try:
        if not pa.types.is_binary(kind) and not pa.types.is_nested(kind):
            column = column.cast(pa.large_string())
            column.validate(full=True)  # a file may claim that bytes are UTF-8 when they are not
            column = pc.fill_null(column, "")
            holds_nul = pc.any(pc.match_substring(column, "\0")).as_py()
            return list(map(writable, column.to_pylist())) if holds_nul else column.to_pylist()
        if pa.types.is_nested(kind):
            return [_as_json(value) for value in column.to_pylist()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        pass  # the slower way below takes what casts do not
    try:
        values = column.cast(pa.large_binary()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    return ["" if value is None else writable(value.decode(errors="surrogateescape")) for value in values]


def _as_json(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
