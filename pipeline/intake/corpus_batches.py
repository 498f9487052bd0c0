"""Reads the corpus for the stage `validate`: chunks in Arrow's compact form, with the texts that they give."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from operator import ne

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import params
from pipeline.intake.file_format import FileFormat
from pipeline.intake.reader import Chunk, read_chunks
from pipeline.intake.text_builder import normalize_newlines, text_builder


@dataclass(frozen=True)
class CorpusBatch:
    """A chunk of the corpus."""

    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]  # of the texts, in characters
    broken: tuple[int, ...]  # positions of the rows that do not fit the columns; their texts are ""
    headers: tuple[int, ...]  # positions of the rows that repeat the header
    columns: list[pa.Array]  # the corpus's, the further fields of broken rows, and the texts
    blank_lines: int
    fixed_line_ends: int  # texts in which CR LF or CR became LF


def read_batches(file_format: FileFormat, config: params.Params, size: int) -> Iterator[tuple[CorpusBatch, list[str]]]:
    """Yield the corpus's chunks with their texts, with a progress bar on a terminal; `size` is the file's in bytes."""
    build_text = text_builder(file_format.columns, config.validate_)
    with tqdm(total=size, desc="validate", unit="B", unit_scale=True, disable=None) as bar:
        for chunk in read_chunks(file_format, config.data):
            raw_texts = list(map(build_text, chunk.fields))
            texts = list(map(normalize_newlines, raw_texts))
            headers = tuple(at for at, fields in enumerate(chunk.fields) if _repeats_header(fields, file_format))
            further_fields = _take_further_fields(chunk, len(file_format.columns))
            columns = [*zip(*chunk.fields, strict=True), further_fields, texts]
            yield (
                CorpusBatch(
                    rows=np.array(chunk.rows, dtype=np.int64),
                    lengths=np.fromiter(map(len, texts), np.int64, len(texts)),
                    broken=tuple(chunk.broken),
                    headers=headers,
                    columns=[pa.array(column, pa.string()) for column in columns],
                    blank_lines=chunk.blank_lines,
                    fixed_line_ends=sum(map(ne, raw_texts, texts)),
                ),
                texts,
            )
            bar.update(chunk.bytes_read - bar.n)


def _take_further_fields(chunk: Chunk, width: int) -> list[str]:
    """Put the fields of broken rows into the chunk's columns; return those that do not fit, as JSON."""
    further_fields = [""] * len(chunk.rows)
    for position, fields in chunk.broken.items():
        chunk.fields[position] = [*fields, *[""] * width][:width]
        if fields[width:]:
            further_fields[position] = json.dumps(fields[width:], ensure_ascii=False)
    return further_fields


def _repeats_header(fields: list[str], file_format: FileFormat) -> bool:
    """Return whether a row holds the names of the columns, perhaps after the byte order mark of another file."""
    columns = file_format.columns
    if not file_format.header or not fields[-1].endswith(columns[-1]):  # a quick answer for almost all rows
        return False
    return [field.lstrip("\ufeff").strip() for field in fields] == [name.strip() for name in columns]
