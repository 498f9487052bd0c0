"""Parquet: the same look and records as for files of lines; every value as text."""

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
from pipeline.intake.reader import BYTES, ROWS, Record

_LARGEST_PAGE = 16 << 20  # bytes, and values, of a page
_LARGEST_PAGES = 16 * _LARGEST_PAGE  # of all columns, one page of each, which are in memory together
_ROWS_A_BYTE = 1000
Sizes = npt.NDArray[np.int64]


def sniff_parquet(path: Path) -> FileFormat:
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
    check_width(f"{path}: ", len(columns))
    found = FileFormat(path, "parquet", "none", columns=columns)
    check_reserved(found, f"{path}: ")
    sample: list[tuple[str, ...]] = []
    size = 0
    for record in records(found, size=100):
        sample.append(tuple(record[1]))
        size += sum(map(len, record[1]))
        if len(sample) == 100 or size > SAMPLE:
            break
    return FileFormat(path, "parquet", "none", columns=columns, sample=tuple(sample))


def records(found: FileFormat, size: int | None = None) -> Iterator[Record]:
    """Yield the records, their ordinals from 1 as rows, reading `size` at once (as many as fit a chunk)."""
    path = found.path
    unpacked, total, length = 0, 0, path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            total = file.metadata.num_rows
        for first, batch in batches(path, size=size):
            unpacked += int(_row_sizes(batch).sum())
            texts = [_texts_of(path, name, column) for name, column in zip(found.columns, batch.columns, strict=True)]
            for row, fields in enumerate(zip(*texts, strict=True), start=first):
                if sum(map(len, fields)) > LONGEST_RECORD:
                    raise _too_long(path, row)
                yield row, list(fields), None, unpacked, length * row // total
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def batches(
    path: Path, columns: list[str] | None = None, size: int | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield rows together, at most `size` and as many as fit a chunk, with the ordinal of the first, from 1.

    Memory is bounded whatever the file holds: texts stay encoded by dictionaries as in the file, where a value that
    repeats takes no room, and are cut into batches by what they take decoded. Raises UserError for a row or a page
    beyond all bounds.
    """
    with pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema
    leaves = [schema.column(index) for index in range(len(schema))]
    largest = _largest_pages(path, metadata)
    # What can be far longer unpacked than in its page: a value that a list repeats, or that shares a beginning.
    wide = {leaf.path for leaf in leaves if leaf.max_repetition_level > 0} | _sharing(metadata)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    widest = max(
        sum(size for name, size in largest.items() if name in wide),
        sum(max(0, leaf.length or 0) for leaf in leaves),  # of values of a fixed width
        *(group.total_byte_size / max(1, group.num_rows) for group in groups),
    )
    most = max(1, min(size or ROWS, int(BYTES / max(1, widest))))
    flat = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path not in wide]
    # Without pre_buffer and with a small buffer pages are read one by one, not row groups whole.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, read_dictionary=flat) as file:
        first = 1
        for batch in file.iter_batches(batch_size=most, columns=columns, use_threads=False):
            for start, length in _slices(path, first, batch):
                yield first + start, batch.slice(start, length)
            first += len(batch)


def _largest_pages(path: Path, metadata: pq.FileMetaData) -> dict[str, int]:
    """Return the size of each column's largest page, unpacked; raises UserError for what no writer of tables makes."""
    if metadata.num_rows > _ROWS_A_BYTE * path.stat().st_size:
        raise UserError(f"{path}: holds {metadata.num_rows:,} rows in {path.stat().st_size:,} bytes, as no texts do")
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
        raise _unreadable(path, error) from None
    if sum(largest.values()) > _LARGEST_PAGES:
        raise UserError(
            f"{path}: a page of each of its {len(largest):,} columns takes {sum(largest.values()):,} bytes unpacked, "
            f"and at most {_LARGEST_PAGES:,} are read at once; keep the columns that hold texts and their categories"
        )
    return largest


def _sharing(metadata: pq.FileMetaData) -> set[str]:
    """Return the columns whose values are written as how they differ from the one before."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    columns = (group.column(index) for group in groups for index in range(group.num_columns))
    return {column.path_in_schema for column in columns if "DELTA_BYTE_ARRAY" in column.encodings}


def _slices(path: Path, first: int, batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
    """Yield start and length of parts of `batch` that fit in a chunk when they are decoded."""
    sizes = _row_sizes(batch)
    longest = int(sizes.argmax())
    if sizes[longest] > 4 * LONGEST_RECORD:  # bytes that a character takes at most
        raise _too_long(path, first + longest)
    start = size = 0
    for at, row_size in enumerate(sizes.tolist()):
        if at > start and size + row_size > BYTES:
            yield start, at - start
            start, size = at, 0
        size += row_size
    yield start, len(batch) - start


def _row_sizes(batch: pa.RecordBatch) -> Sizes:
    """Return about how many bytes each row takes when it is decoded."""
    return sum(map(_sizes, batch.columns), np.zeros(len(batch), np.int64))


def _sizes(column: pa.Array) -> Sizes:
    kind = column.type
    if pa.types.is_dictionary(kind) and len(column.dictionary):
        of_value = _sizes(column.dictionary)
        indices = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(of_value):  # Arrow would read beyond it
            raise pa.ArrowInvalid("a value that its dictionary does not hold")
        sizes: Sizes = of_value[indices]
        return sizes
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        lengths: Sizes = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return lengths
    return np.full(len(column), column.nbytes // max(1, len(column)), np.int64)


def _too_long(path: Path, row: int) -> UserError:
    return UserError(
        f"{path}, row {row}: is longer than {LONGEST_RECORD:,} characters, the most that a row may have; split its "
        "text into several rows, or delete it"
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: cannot be read as Parquet ({reason}); it is cut off or damaged: write or fetch it again")


def _texts_of(path: Path, name: str, column: pa.Array) -> list[str]:
    """Return a column's values as text; raises UserError for such as have none in Python, like a year beyond 9999."""
    try:
        return _texts(column)
    except (ValueError, LookupError, ArithmeticError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: the column {name!r} ({str(column.type)[:100]}) holds what cannot be written as text ({reason}); "
            "leave the column out, or write it as text"
        ) from None


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
