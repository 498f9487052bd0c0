"""The look at the raw bytes before any parser: what the file is, and what about it would make a parser guess."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

from pipeline import params, paths
from pipeline.command import UserError
from pipeline.intake import encodings
from pipeline.intake.advice import check_texts, with_advice
from pipeline.intake.columns import category_problem, check_columns, text_columns, text_problem
from pipeline.intake.file_format import (
    SAMPLE,
    FileFormat,
    SettingsError,
    choices,
    likeliest,
    mixture,
    preview,
    sample_lines,
    written,
)
from pipeline.intake.json_lines import sniff_json_lines
from pipeline.intake.table import sniff_table

_FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_NO_CHARSETS = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape")  # Python's, but of no file
_AS_CSV = "open it in the program that made it and save it as CSV in UTF-8"
_MAGIC = (  # what a file begins with, what it then is, the mend
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (xls)", _AS_CSV),
    (b"%PDF-", "a PDF", "take the texts from where the PDF was made, as CSV"),
    (b"SQLite format 3\0", "an SQLite database", "export the table: sqlite3 -header -csv FILE 'select * from TABLE'"),
    (b"PAR1", "Parquet", "name it .parquet or set data.format: parquet in params.yaml"),
    (b"\x1f\x8b", "packed with gzip", "add .gz to its name"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "add .zst to its name"),
    (b"BZh", "packed with bzip2", "unpack it with bunzip2, or pack it with gzip or zstd"),
    (b"\xfd7zXZ\0", "packed with xz", "unpack it with unxz, or pack it with gzip or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it and name the CSV inside"),
    (b"ARROW1", "an Arrow (Feather) file", "save it as Parquet"),
    (b"Obj\x01", "an Avro file", "save it as Parquet"),
    (b"\x89HDF", "an HDF5 file", "save it as Parquet"),
    (b"{\\rtf", "a rich text document (RTF)", _AS_CSV),
    (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS to the file", "fetch the file: git lfs pull"),
)


def sniff_format(path: Path, wanted: params.Data, texts: params.Validate | None = None) -> FileFormat:
    """Return what the bytes of `path` are, read as `wanted` says; raises UserError for what makes them no table.

    Where settings mend that, the error names all that the file needs; those of `texts` only where these are given.
    """
    try:
        return _sniff(path, wanted, texts)
    except SettingsError as error:
        raise UserError(f"{error}{_further(path, wanted, texts, error.settings)}") from None


def _further(path: Path, wanted: params.Data, texts: params.Validate | None, settings: dict[str, str]) -> str:
    """Return the end of a sentence: what the file needs besides `settings`."""
    made, fresh = dict(settings), settings
    while fresh:
        data, validate = (
            {key.removeprefix(section): value for key, value in made.items() if key.startswith(section)}
            for section in ("data.", "validate.")
        )
        changed = texts.model_copy(update=validate) if texts else None
        try:
            seen = _sniff(path, wanted.model_copy(update=data), changed)
            if changed:
                check_columns(seen, changed)
            break
        except SettingsError as another:
            fresh = {key: value for key, value in another.settings.items() if key not in made}
            made |= fresh
        except UserError:  # said when these settings are made
            break
    further = {key: value for key, value in made.items() if key not in settings}
    return f"; the file also needs {written(further)}" if further else ""


def _sniff(path: Path, wanted: params.Data, texts: params.Validate | None) -> FileFormat:
    if path.is_dir():
        what = f"params.yaml: data.path: {str(path)!r} is a folder"
        raise UserError(f"{what}; name the file in it that holds the texts{_such_as(path)}")
    if not path.is_file():
        raise UserError(
            f"params.yaml: data.path: there is no file {str(path)!r}; {paths.meant(path)}put the CSV there or name "
            "another"
        )
    kind, compression = _kind(path, wanted)
    head = _head(path, "none", 4096)
    packed = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}.get(compression, b"")
    if head and not head.startswith(packed):
        _refuse_magic(path, head)
        raise UserError(f"{path}: is named as packed with {compression} but is not; take {path.suffix} from its name")
    if kind == "parquet":
        from pipeline.intake import parquet

        _refuse_magic(path, head, allowed=b"PAR1")
        return parquet.sniff_parquet(path)
    sample = _head(path, compression, SAMPLE + 4)
    if not sample:
        raise UserError(f"{path}: the file is empty; expected a header line and a row for each text")
    _refuse_magic(path, sample)
    found = _with_encoding(FileFormat(path, kind, compression), sample, wanted)
    try:
        return sniff_json_lines(found) if kind == "jsonl" else _sniff_lines(found, wanted, texts)
    except SettingsError as error:
        if error.settings.keys() - {"validate.column", "validate.category"}:
            raise
        raise with_advice(error, found, wanted, texts, sample_lines(found)) from None


def _sniff_lines(found: FileFormat, wanted: params.Data, texts: params.Validate | None) -> FileFormat:
    """Return the look of a CSV or of plain text; raises UserError also where its texts are not to be had so."""
    sample = sample_lines(found)
    if not found.format:
        suffixes = ".csv, .tsv, .jsonl, .ndjson or .parquet, then .gz or .zst where it is packed"
        raise SettingsError(
            f"{found.path}: its name does not tell what it holds; expected {suffixes}",
            "rename it, or set data.format in params.yaml to csv, tsv, text, jsonl or parquet",
        )
    seen = sniff_table(found, wanted, sample, text_columns(texts) if texts else ())
    if texts and (problem := text_problem(seen, texts)):
        problem = with_advice(problem, found, wanted, texts, sample)
        category = category_problem(seen, texts)
        raise SettingsError(f"{problem}\n{category}", settings=problem.settings) if category else problem
    check_texts(seen, wanted, texts, sample)
    return seen


def has_known_suffix(path: Path) -> bool:
    """Tell whether the file's name says that it holds rows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    inner = suffixes[:-1] if suffixes and suffixes[-1] in _COMPRESSIONS else suffixes
    return bool(inner) and inner[-1] in _FORMATS


def _such_as(folder: Path) -> str:
    """Return the corpora in `folder` as the end of a sentence."""
    names = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in _FORMATS)
    return f", such as {preview(names, 3)}" if names else ""


def _kind(path: Path, wanted: params.Data) -> tuple[str, str]:
    """Return format and compression as the file's name and data.format have it; the format is "" where neither does."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = _COMPRESSIONS.get(suffixes[-1], "none") if suffixes else "none"
    inner = suffixes[:-1] if compression != "none" else suffixes
    kind: str = wanted.format
    if kind == "auto":
        kind = _FORMATS.get(inner[-1], "") if inner else ""
        if not kind:
            _refuse_magic(path, _head(path, "none", 4096))
    if kind == "parquet" and compression != "none":
        raise UserError(f"{path}: Parquet is packed inside; unpack the file ({compression}) and name it .parquet")
    return kind, compression


def _head(path: Path, compression: str, size: int) -> bytes:
    """Return up to `size` bytes from the beginning of the unpacked file."""
    with encodings.opened(path, compression) as source:
        return io.BufferedReader(source, encodings.BLOCK).read(size)


def _refuse_magic(path: Path, head: bytes, allowed: bytes = b"\xff") -> None:
    """Raise UserError where `head` says that the file is no text."""
    for magic, what, mend in _MAGIC:
        if head.startswith(magic) and magic != allowed:
            raise UserError(f"{path}: is {what}, not what its name says; {mend}")
    if allowed == b"PAR1" and not head.startswith(b"PAR1"):
        what = "is empty" if not head else f"begins with {head[:4]!r}, and Parquet with b'PAR1'"
        raise UserError(f"{path}: is no Parquet file ({what}); save it as Parquet again or set data.format")
    if head.startswith(b"PK\x03\x04"):
        raise UserError(f"{path}: is {_zip_kind(path)}")
    start = head[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise UserError(
            f"{path}: is a web page (HTML), not what its name says; a download that asks for a login ends so: fetch "
            "the file itself"
        )
    if start.startswith(b"<?xml"):
        raise UserError(f"{path}: is XML, not what its name says; {_AS_CSV}")


def _zip_kind(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    if any(name.startswith("xl/") for name in names):
        return f"an Excel workbook (xlsx), not what its name says; {_AS_CSV}"
    if "content.xml" in names:
        return f"an OpenDocument file, not what its name says; {_AS_CSV}"
    return "a ZIP archive, not what its name says; unpack it and name the file inside"


# --- encoding


def _with_encoding(found: FileFormat, sample: bytes, wanted: params.Data) -> FileFormat:
    """Return `found` with the encoding to read; raises UserError where it is not the one asked for."""
    asked = wanted.encoding
    name = "auto" if asked == "auto" else encodings.plain_name(asked)
    if name != "auto" and not _is_of_text(name):
        raise UserError(
            f"params.yaml: data.encoding: found {asked}, which is no encoding of text; name one such as utf-8, cp1252"
        )
    mark = encodings.mark_of(sample)
    if mark is not None:
        family = mark.removesuffix("-le").removesuffix("-be")
        if name not in ("auto", mark, family):
            raise SettingsError(
                f"{found.path}: begins with the byte order mark of {mark.upper()}, but data.encoding is {asked}",
                f"set data.encoding: {family} in params.yaml",
                {"data.encoding": family},
            )
        found = replace(found, encoding=mark, bom=True, notes=(f"the file has the byte order mark of {mark.upper()}",))
        if name == "auto" and mark != "utf-8":
            found = replace(found, fixes=(f"data.encoding: auto: read as {mark}, as its byte order mark says",))
        return found
    wide = encodings.wide_encoding_of(sample[: SAMPLE // 4 * 4])
    if name in ("utf-16", "utf-32"):
        if wide is None or not wide.startswith(name):
            raise UserError(
                f"{found.path}: data.encoding is {asked}, but the file has no byte order mark and does not look like "
                f"it; set data.encoding to {name}-le or {name}-be if it is so, or to auto"
            )
        return replace(found, encoding=wide, notes=(f"no byte order mark; read as {wide}",))
    if wide is not None and name not in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        if name != "auto":
            raise SettingsError(
                f"{found.path}, line 1: holds NUL bytes, as {wide.upper()} does, but data.encoding is {asked}",
                f"set data.encoding: {wide} in params.yaml",
                {"data.encoding": wide},
            )
        return replace(
            found, encoding=wide, fixes=(f"data.encoding: auto: read as {wide}, as the places of its NULs say",)
        )
    if name == "auto":
        return _with_detected_encoding(found)
    if name != "utf-8" and _surely_utf8(sample):
        raise SettingsError(
            f"{found.path}: is UTF-8, but data.encoding is {asked}, which would garble it",
            "set data.encoding: utf-8 in params.yaml",
            {"data.encoding": "utf-8"},
        )
    return replace(found, encoding=name)


def _is_of_text(name: str) -> bool:
    """Return whether `name`, which Python knows, turns bytes to text, and files are written in it."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError):  # such as base64, which turns bytes to bytes
        return False
    return name.replace("_", "-") not in _NO_CHARSETS


def _surely_utf8(sample: bytes) -> bool:
    """Return whether `sample` holds some characters outside ASCII, all of them as UTF-8 writes them."""
    if sample.isascii():
        return False
    try:
        text = sample.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(sample):  # not just cut off
            return False
        text = sample[: error.start].decode("utf-8")
    return sum(character > "\x7f" for character in text) >= 3


def _with_detected_encoding(found: FileFormat) -> FileFormat:
    path = found.path
    if encodings.is_utf8(path, found.compression):
        return replace(found, encoding="utf-8")
    foreign = encodings.foreign_lines(path, found.compression)
    if foreign.line == 0 or b"\0" in foreign.sample:  # a NUL, or a character cut off at the end: said with its line
        return replace(found, encoding="utf-8")
    guess = encodings.detected(foreign)
    weighed = encodings.weighed(foreign, guess)
    if weighed.count:
        raise UserError(f"{path}, line {foreign.line}: {mixture(weighed, foreign)}")
    if guess.encoding is None:
        raise SettingsError(
            f"{path}, line {guess.line}: data.encoding: auto cannot tell the encoding",
            choices(guess),
            likeliest(guess),
        )
    name, reading = guess.readings[0]
    mend = (
        f"data.encoding: auto: read as {name}, a guess: line {guess.line} reads {reading!r}; "
        "where that is wrong, set data.encoding in params.yaml to the right name"
    )
    if weighed.by_chance:
        lines = ", ".join(map(str, weighed.by_chance))
        mend += f" (valid UTF-8 as well, but likelier {name}: line {lines})"
    return replace(found, encoding=name, fixes=(mend,))
