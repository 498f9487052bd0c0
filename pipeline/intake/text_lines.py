"""The lines of a corpus file as text, checked while they are read."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.command import UserError
from pipeline.intake.byte_source import BLOCK, ByteSource, NulError, open_source
from pipeline.intake.encoding_errors import undecodable_error
from pipeline.intake.encodings import BYTE_ORDER_MARKS
from pipeline.intake.file_format import LONGEST_RECORD, SAMPLE, FileFormat, preview


class Sample(NamedTuple):
    """The first lines of a file, with their line ends."""

    lines: Sequence[str]
    whole: bool  # whether these are all lines


@contextmanager
def open_lines(file_format: FileFormat) -> Iterator[tuple[ByteSource, Iterator[str]]]:
    """Open the file and yield its bytes' source and its lines, with their line ends.

    Raises UserError, with the line and the fix, for bytes outside the encoding, NULs and damaged compression.
    """
    encoding = file_format.encoding
    utf8 = encoding == "utf-8"  # only here is a NUL byte a NUL character, so blocks of bytes can be searched for it
    try:
        with open_source(file_format.path, file_format.compression, refuse_nul=utf8) as source:
            buffer = io.BufferedReader(source, BLOCK)
            if file_format.bom:
                buffer.read(len(BYTE_ORDER_MARKS[encoding]))
            text = io.TextIOWrapper(buffer, encoding=encoding, errors="strict", newline="")
            yield source, _checked_lines(file_format, text, refuse_nul=not utf8)
    except (UnicodeError, NulError):
        raise undecodable_error(file_format) from None


def _checked_lines(file_format: FileFormat, text: io.TextIOWrapper, *, refuse_nul: bool) -> Iterator[str]:
    """Yield the lines of `text`; raises UserError for one longer than LONGEST_RECORD."""
    number = 0
    while line := text.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise UserError(
                f"{file_format.path}, line {number}: is longer than {LONGEST_RECORD:,} characters "
                f"({preview([line])}), the most that a row may have; split its text into several rows, or delete the "
                "line"
            )
        if refuse_nul and "\0" in line:
            raise NulError
        yield line


def read_sample(file_format: FileFormat) -> Sample:
    """Return the lines of the first mebibyte, without one that goes on beyond it."""
    sample: list[str] = []
    size = 0
    with open_lines(file_format) as (_, lines):
        for line in lines:
            size += len(line)
            if size > SAMPLE:
                return Sample(sample or [line], False)
            sample.append(line)
    return Sample(sample, True)
