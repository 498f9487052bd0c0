"""The unpacked sizes of a Parquet file's pages, read from the page headers before any page is unpacked.

Arrow unpacks a page whole, and neither the footer nor Arrow's API gives a page's size: a file of a few kilobytes can
hold a page of 2 GB. The headers use Thrift's compact protocol (parquet-format, `PageHeader`): field 2 is the unpacked
size, field 3 the size in the file, and fields 5, 7 and 8, by the kind of page, begin with the number of values.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

_HEADER_BYTES = 4096  # read first; statistics can make a header longer
_LONGEST_HEADER = 1 << 20
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)


class Page(NamedTuple):
    """The header of a page: its sizes in bytes, and the number of values that it states."""

    unpacked: int
    packed: int
    values: int
    header: int


def pages(path: Path, metadata: pq.FileMetaData) -> Iterator[tuple[str, Page]]:
    """Yield each page with the path of its column in the schema; raises ValueError for an invalid header."""
    with path.open("rb") as file:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                offsets = (column.data_page_offset, column.dictionary_page_offset or 0)
                start = min(offset for offset in offsets if offset > 0)
                at, end = start, start + column.total_compressed_size
                while at < end:
                    page = _read_page(file, at)
                    yield column.path_in_schema, page
                    at += page.header + page.packed


def _read_page(file: BinaryIO, at: int) -> Page:
    size = _HEADER_BYTES
    while True:
        file.seek(at)
        data = file.read(size)
        try:
            return _parse_page(data)
        except IndexError:  # the header is longer than what was read
            if len(data) < size or size >= _LONGEST_HEADER:
                raise ValueError(f"the header of the page at byte {at} does not end") from None
            size *= 16


def _parse_page(data: bytes) -> Page:
    reader = _CompactReader(data)
    fields = reader.struct()
    values = max((inner.get(1, 0) for inner in fields.values() if isinstance(inner, dict)), default=0)
    unpacked, packed = fields.get(2), fields.get(3)
    if not isinstance(unpacked, int) or not isinstance(packed, int) or min(unpacked, packed) < 0:
        raise ValueError("a page's header has no sizes")
    return Page(unpacked, packed, values if isinstance(values, int) else 0, reader.at)


class _CompactReader:
    """Reads Thrift's compact protocol; raises IndexError if the data ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number in a page's header does not end")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def struct(self, depth: int = 0) -> dict[int, object]:
        """Return the fields of a struct by number: the values of integers and structs, None for all others."""
        if depth > 8:
            raise ValueError("a page's header is nested too deep")
        fields: dict[int, object] = {}
        number = 0
        while (head := self._byte()) & 0x0F != _STOP:
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 0x0F, depth)
        return fields

    def _value(self, kind: int, depth: int) -> object:
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_BYTE, _DOUBLE, _BINARY):
            length = {_BYTE: 1, _DOUBLE: 8}.get(kind, 0) or self._unsigned()
            self.at += length
            if self.at > len(self._data):
                raise IndexError
        elif kind not in (_TRUE, _FALSE):  # page headers hold no lists, sets or maps
            raise ValueError("a page's header has a field of an unknown type")
        return None
