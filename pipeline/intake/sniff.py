"""Detects the format of a corpus file from its raw bytes, before any parser would have to guess."""

import io
import zipfile
from pathlib import Path

from pipeline import params, paths
from pipeline.command import UserError
from pipeline.intake.advice import check_texts, with_advice
from pipeline.intake.byte_source import BLOCK, open_source
from pipeline.intake.columns import category_problem, check_columns, text_problem
from pipeline.intake.file_format import SAMPLE, FileFormat, SettingsError, format_settings, preview
from pipeline.intake.json_lines import sniff_json_lines
from pipeline.intake.parquet import sniff_parquet
from pipeline.intake.sniff_encoding import with_encoding
from pipeline.intake.table import sniff_table
from pipeline.intake.text_builder import text_columns
from pipeline.intake.text_lines import read_sample

_FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_COMPRESSION_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_PARQUET_MAGIC = b"PAR1"
_AS_CSV = "open it in the program that made it and save it as CSV in UTF-8"
_OTHER_FORMATS = (  # the first bytes of a file, what the file is, the fix
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (xls)", _AS_CSV),
    (b"%PDF-", "a PDF", "export the texts as CSV from where the PDF was made"),
    (b"SQLite format 3\0", "an SQLite database", "export the table: sqlite3 -header -csv FILE 'select * from TABLE'"),
    (_PARQUET_MAGIC, "Parquet", "name it .parquet or set data.format: parquet in params.yaml"),
    (_COMPRESSION_MAGIC["gzip"], "compressed with gzip", "add .gz to its name"),
    (_COMPRESSION_MAGIC["zstd"], "compressed with zstd", "add .zst to its name"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2, or compress it with gzip or zstd"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it with unxz, or compress it with gzip or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it and name the CSV inside"),
    (b"ARROW1", "an Arrow (Feather) file", "save it as Parquet"),
    (b"Obj\x01", "an Avro file", "save it as Parquet"),
    (b"\x89HDF", "an HDF5 file", "save it as Parquet"),
    (b"{\\rtf", "a rich text document (RTF)", _AS_CSV),
    (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer to the file", "fetch the file: git lfs pull"),
)
_HEAD = 4096  # bytes that show another format


def sniff_format(path: Path, data: params.Data, validate: params.Validate | None = None) -> FileFormat:
    """Return the format of `path`, read with the settings `data`; raises UserError if it is not a table of texts.

    If other settings fix the problem, the error names all settings that the file needs; those of `validate` only where
    these are given.
    """
    try:
        return _sniff(path, data, validate)
    except SettingsError as error:
        raise UserError(f"{error}{_further_settings(path, data, validate, error.settings)}") from None


def _further_settings(path: Path, data: params.Data, validate: params.Validate | None, settings: dict[str, str]) -> str:
    """Return the end of a sentence: the settings that the file needs besides `settings`."""
    collected, new = dict(settings), settings
    while new:
        new_data = data.model_copy(update=_section(collected, "data."))
        new_validate = validate.model_copy(update=_section(collected, "validate.")) if validate else None
        try:
            file_format = _sniff(path, new_data, new_validate)
            if new_validate:
                check_columns(file_format, new_validate)
            break
        except SettingsError as error:
            new = {key: value for key, value in error.settings.items() if key not in collected}
            collected |= new
        except UserError:  # the user sees it once these settings are made
            break
    further = {key: value for key, value in collected.items() if key not in settings}
    return f"; the file also needs {format_settings(further)}" if further else ""


def _section(settings: dict[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _sniff(path: Path, data: params.Data, validate: params.Validate | None) -> FileFormat:
    _check_is_file(path)
    name, compression = _format_by_name(path, data)
    head = _head(path, "none", _HEAD)
    if head and not head.startswith(_COMPRESSION_MAGIC.get(compression, b"")):
        _refuse_other_formats(path, head)
        raise UserError(
            f"{path}: is named as compressed with {compression} but is not; remove {path.suffix} from its name"
        )
    if name == "parquet":
        _check_is_parquet(path, head)
        return sniff_parquet(path)
    sample = _head(path, compression, SAMPLE + 4)
    if not sample:
        raise UserError(f"{path}: the file is empty; expected a header line and one row per text")
    _refuse_other_formats(path, sample)
    file_format = with_encoding(FileFormat(path, name, compression), sample, data)
    try:
        return sniff_json_lines(file_format) if name == "jsonl" else _sniff_lines(file_format, data, validate)
    except SettingsError as error:
        if error.settings.keys() - {"validate.column", "validate.category"}:
            raise
        raise with_advice(error, file_format, data, validate, read_sample(file_format)) from None


def _sniff_lines(file_format: FileFormat, data: params.Data, validate: params.Validate | None) -> FileFormat:
    """Return the format of a CSV or of plain text; raises UserError if its texts cannot be read with these settings."""
    sample = read_sample(file_format)
    if not file_format.format:
        suffixes = ".csv, .tsv, .jsonl, .ndjson or .parquet, followed by .gz or .zst if it is compressed"
        raise SettingsError(
            f"{file_format.path}: its name does not say what it contains; expected {suffixes}",
            "rename it, or set data.format in params.yaml to csv, tsv, text, jsonl or parquet",
        )
    table = sniff_table(file_format, data, sample, text_columns(validate) if validate else ())
    if validate and (problem := text_problem(table, validate)):
        problem = with_advice(problem, file_format, data, validate, sample)
        category = category_problem(table, validate)
        raise SettingsError(f"{problem}\n{category}", settings=problem.settings) if category else problem
    check_texts(table, data, validate, sample)
    return table


def has_known_suffix(path: Path) -> bool:
    """Return whether the file's name ends like that of a table."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    inner = suffixes[:-1] if suffixes and suffixes[-1] in _COMPRESSIONS else suffixes
    return bool(inner) and inner[-1] in _FORMATS


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        names = sorted(str(entry) for entry in path.iterdir() if entry.suffix.lower() in _FORMATS)
        examples = f", such as {preview(names, 3)}" if names else ""
        raise UserError(
            f"params.yaml: data.path: {str(path)!r} is a folder; name the file in it that holds the texts{examples}"
        )
    if not path.is_file():
        raise UserError(
            f"params.yaml: data.path: there is no file {str(path)!r}; {paths.meant(path)}put the CSV there or name "
            "another"
        )


def _format_by_name(path: Path, data: params.Data) -> tuple[str, str]:
    """Return format and compression by data.format and the file's name; the format is "" if neither says it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = _COMPRESSIONS.get(suffixes[-1], "none") if suffixes else "none"
    inner = suffixes[:-1] if compression != "none" else suffixes
    name: str = data.format
    if name == "auto":
        name = _FORMATS.get(inner[-1], "") if inner else ""
        if not name:
            _refuse_other_formats(path, _head(path, "none", _HEAD))
    if name == "parquet" and compression != "none":
        raise UserError(f"{path}: Parquet is compressed inside; unpack the file ({compression}) and name it .parquet")
    return name, compression


def _head(path: Path, compression: str, size: int) -> bytes:
    """Return up to `size` bytes from the beginning of the unpacked file."""
    with open_source(path, compression) as source:
        return io.BufferedReader(source, BLOCK).read(size)


def _check_is_parquet(path: Path, head: bytes) -> None:
    """Raise UserError if the file does not begin as Parquet does."""
    if head.startswith(_PARQUET_MAGIC):
        return
    _refuse_magic(path, head)
    found = "is empty" if not head else f"begins with {head[:4]!r}, and Parquet with {_PARQUET_MAGIC!r}"
    raise UserError(f"{path}: is not a Parquet file ({found}); save it as Parquet again or set data.format")


def _refuse_magic(path: Path, head: bytes) -> None:
    for magic, what, fix in _OTHER_FORMATS:
        if head.startswith(magic):
            raise UserError(f"{path}: is {what}, not what its name says; {fix}")


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """Raise UserError if `head` shows that the file is not text."""
    _refuse_magic(path, head)
    if head.startswith(b"PK\x03\x04"):
        raise UserError(f"{path}: is {_describe_zip(path)}")
    start = head[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise UserError(
            f"{path}: is a web page (HTML), not what its name says; this happens when a download needs a login: fetch "
            "the file itself"
        )
    if start.startswith(b"<?xml"):
        raise UserError(f"{path}: is XML, not what its name says; {_AS_CSV}")


def _describe_zip(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    if any(name.startswith("xl/") for name in names):
        return f"an Excel workbook (xlsx), not what its name says; {_AS_CSV}"
    if "content.xml" in names:
        return f"an OpenDocument file, not what its name says; {_AS_CSV}"
    return "a ZIP archive, not what its name says; unpack it and name the file inside"
