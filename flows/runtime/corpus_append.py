"""Rows of another file, appended to the corpus in the corpus's own encoding and CSV dialect.

`write_rows` writes the rows to a file and reads them back, so that no row changes on the way. `append_rows` writes a
copy of the corpus, byte for byte, followed by those rows.
"""

import csv
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import IO, Literal

from pipeline import params, storage
from pipeline.command import UserError
from pipeline.intake.file_format import FileFormat, preview
from pipeline.intake.reader import read_chunks
from pipeline.intake.sniff import sniff_format

_LINE_ENDS = {"CRLF": "\r\n", "CR": "\r"}  # LF otherwise
_CHUNK = 1 << 20  # bytes


def corpus_format(corpus: Path, config: params.Params) -> FileFormat:
    """Return the format of the corpus; raises UserError for a format to which nothing can be appended."""
    file = sniff_format(corpus, config.data)
    if file.format not in ("csv", "tsv") or file.compression != "none":
        packed = "" if file.compression == "none" else f", compressed with {file.compression}"
        raise UserError(
            f"{corpus}: dropped files are appended to CSV and TSV files, and the corpus is {file.format}{packed}; "
            "append to it yourself, or save it as CSV and name that file under data.path in params.yaml"
        )
    return file


def write_rows(target: Path, source: Path, corpus: FileFormat, config: params.Params) -> tuple[int, int]:
    """Write the rows of `source` to `target` in the dialect of the corpus, and read them back.

    Args:
        target: The new file; a header comes first if the corpus has one.
        source: A file with the columns of the corpus, in any order and any format that the intake reads.
        corpus: The format of the corpus.
        config: The project's settings.

    Returns:
        The number of rows, and the size of the header in bytes.

    Raises:
        UserError: The intake cannot read the file, its columns differ, or the dialect cannot hold a row.
    """
    data = config.data.model_copy(update={"broken_rows": "stop"})
    _check_is_file(source)
    try:
        file = sniff_format(source, data)
        if set(file.columns) != set(corpus.columns):
            raise UserError(
                f"{source}: its columns are {preview(file.columns)}, but those of the corpus, {corpus.path}, are "
                f"{preview(corpus.columns)}; give it the same columns, in any order"
            )
        order = [file.columns.index(name) for name in corpus.columns]
        rows, header = _write(target, file, corpus, order, data)
    except PermissionError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); allow it and drop it again") from None
    _check_reads_back(target, file, corpus, order, data)
    return rows, header


def append_rows(target: Path, corpus: FileFormat, rows: Path, header: int) -> None:
    """Write the corpus byte for byte, and then the rows, to `target`.

    Args:
        target: The new file, which gets the permissions of the corpus.
        corpus: The format of the corpus.
        rows: The file that `write_rows` wrote.
        header: The size of its header in bytes.
    """
    with storage.create_new(target) as file:
        with corpus.path.open("rb") as old:
            shutil.copyfileobj(old, file, _CHUNK)
            newlines = [mark.encode(corpus.encoding) for mark in ("\n", "\r")]
            old.seek(-len(newlines[0]), os.SEEK_END)
            if old.read() not in newlines:
                file.write(_LINE_ENDS.get(corpus.line_ends, "\n").encode(corpus.encoding))
        with rows.open("rb") as new:
            new.seek(header)
            shutil.copyfileobj(new, file, _CHUNK)
        file.flush()
        os.fsync(file.fileno())
    target.chmod(corpus.path.stat().st_mode | 0o200)  # a link into DVC's cache is read-only, the new file is not
    storage.fsync(target.parent)


def _check_is_file(source: Path) -> None:
    if source.is_symlink():
        raise UserError(f"{source}: is a link, whose target may change; put the file itself there")
    if not stat.S_ISREG(source.lstat().st_mode):
        raise UserError(f"{source}: is no regular file, but a pipe or a folder for instance; put a file there")


def _write(target: Path, file: FileFormat, corpus: FileFormat, order: list[int], data: params.Data) -> tuple[int, int]:
    """Write header and rows; return the number of rows and the size of the header in bytes."""
    rows = 0
    target.unlink(missing_ok=True)
    with target.open("x", encoding=corpus.encoding, newline="") as output:
        write = _writer(output, corpus, csv.QUOTE_MINIMAL if corpus.quote else csv.QUOTE_NONE)
        # Without quotes, a row of white space would be read as no row.
        write_blank = _writer(output, corpus, csv.QUOTE_ALL) if corpus.quote else write
        if corpus.header:
            write(corpus.columns)
        output.flush()
        header = output.tell()
        for line, fields in _rows(file, data):
            ordered = [fields[column] for column in order]
            try:
                (write if any(map(str.strip, ordered)) else write_blank)(ordered)
            except (csv.Error, UnicodeEncodeError) as error:
                raise UserError(
                    f"{file.path}, line {line}: cannot be written in the format of the corpus, {corpus.path} "
                    f"({error}); change that text, or save the corpus as UTF-8 with quotes"
                ) from None
            rows += 1
        output.flush()
        os.fsync(output.fileno())
    return rows, header


def _check_reads_back(target: Path, file: FileFormat, corpus: FileFormat, order: list[int], data: params.Data) -> None:
    """Raise UserError if a row reads differently in the format of the corpus."""
    written = _rows(replace(corpus, path=target, bom=False), data)
    for source, copy in zip_longest(_rows(file, data), written):
        if source is None or copy is None or [source[1][column] for column in order] != copy[1]:
            line = (source or copy or (0,))[0]
            raise UserError(
                f"{file.path}, line {line}: in the format of the corpus, {corpus.path}, this row would read "
                "differently; change its text, or save the corpus with quotes"
            )


def _writer(file: IO[str], corpus: FileFormat, quoting: Literal[0, 1, 3]) -> Callable[[Sequence[str]], object]:
    """Return a function that writes a row in the dialect of the corpus; `quoting` is a constant of `csv`."""
    return csv.writer(
        file,
        delimiter=corpus.delimiter,
        quotechar=corpus.quote or None,
        escapechar=corpus.escape or None,
        quoting=quoting,
        lineterminator=_LINE_ENDS.get(corpus.line_ends, "\n"),
    ).writerow


def _rows(file: FileFormat, data: params.Data) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each row."""
    for chunk in read_chunks(file, data):
        yield from zip(chunk.rows, chunk.fields, strict=True)
