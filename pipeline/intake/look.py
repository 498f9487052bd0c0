"""The look at the raw bytes before any parser: what the file is, and what about it would make a parser guess."""

import csv
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

from pipeline import params
from pipeline.command import UserError
from pipeline.intake import encodings
from pipeline.intake.encodings import MARKS, NulError

# A longer field is taken for a quote that was never closed; csv.reader holds 4 bytes for each character of a field.
LONGEST_FIELD = 1 << 27
csv.field_size_limit(LONGEST_FIELD)

RESERVED = ("row", "reasons")  # the columns that quarantine.csv puts before the file's own
_SAMPLE = 1 << 20  # bytes
_SAMPLE_ROWS = 1000
DELIMITERS = (",", ";", "\t", "|")
NO_DELIMITER = "\x1f"  # ASCII's own separator of fields, for a file of one column; no text holds it
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_NO_CHARSETS = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape")  # Python's, but of no file
_AS_CSV = "open it in the program that made it and save it as CSV in UTF-8"
_YAML_WORDS = ("false", "n", "no", "null", "off", "on", "true", "y", "yes")
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


@dataclass(frozen=True)
class Look:
    """What the raw bytes are.

    `columns` are the names of the fields; `sample` holds the first rows for whom wants to describe them. `mends` has a
    sentence for each thing that was mended because params.yaml allows it, `notes` one for each thing to know although
    nothing was changed. Of Parquet, encoding, line ends and what follows them mean nothing and are "". Line ends,
    notes and `delimiter: auto` go by the first mebibyte.
    """

    path: Path
    format: str  # csv, tsv, jsonl or parquet
    compression: str  # none, gzip or zstd
    encoding: str = ""  # Python's name, with the byte order: utf-8, utf-16-le, cp1252
    bom: bool = False
    line_ends: str = ""  # LF, CRLF, CR or mixed; "" where there is one line
    delimiter: str = ""
    quote: str = ""  # one character or none
    escape: str = ""  # one character or none
    header: bool = False  # whether the first record names the columns
    columns: tuple[str, ...] = ()
    sample: tuple[tuple[str, ...], ...] = ()
    mends: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Dialect(TypedDict):
    """The arguments of csv.reader."""

    delimiter: str
    quotechar: str | None
    quoting: Literal[0, 3]  # csv.QUOTE_MINIMAL or csv.QUOTE_NONE
    escapechar: str | None
    strict: bool


class SettingsError(UserError):
    """A mistake that settings in params.yaml mend; `settings` has them by their full keys."""

    def __init__(self, sentence: str, settings: dict[str, str]) -> None:
        """Say `sentence`, which names `settings`."""
        super().__init__(sentence)
        self.settings = settings


def look(path: Path, wanted: params.Data, texts: params.Validate | None = None) -> Look:
    """Return what the bytes of `path` are, read as `wanted` says; raises UserError for what makes them no table.

    Where settings mend that, the error names all that the file needs; those of `texts` only where these are given.
    """
    try:
        return _look(path, wanted)
    except SettingsError as error:
        raise UserError(f"{error}{_further(path, wanted, texts, error.settings)}") from None


def _further(path: Path, wanted: params.Data, texts: params.Validate | None, settings: dict[str, str]) -> str:
    """Return the end of a sentence: what the file needs besides `settings`."""
    from pipeline.intake.records import check_columns

    made, fresh = dict(settings), settings
    while fresh:
        try:
            data = {key.removeprefix("data."): value for key, value in made.items() if key.startswith("data.")}
            found = _look(path, wanted.model_copy(update=data))
            if texts is None:
                break
            check_columns(found, texts)
            break
        except SettingsError as another:
            fresh = {key: value for key, value in another.settings.items() if key not in made}
            made |= fresh
        except UserError:  # said when these settings are made
            break
    further = {key: value for key, value in made.items() if key not in settings}
    return f"; the file also needs {written(further)}" if further else ""


def written(settings: dict[str, str]) -> str:
    """Return `settings` as they are written in params.yaml, for a sentence."""
    values = {
        key: value if _is_plain(value) else json.dumps(value, ensure_ascii=False) for key, value in settings.items()
    }
    return " and ".join(f"{key}: {value}" for key, value in values.items())


def _is_plain(value: str) -> bool:
    """Return whether `value` needs no quotes in YAML."""
    return value not in _YAML_WORDS and re.fullmatch(r"[a-z][a-z\d]*([-_][a-z\d]+)*", value) is not None


def _look(path: Path, wanted: params.Data) -> Look:
    if path.is_dir():
        raise UserError(f"params.yaml: data.path: {str(path)!r} is a folder; name the file in it that holds the texts")
    if not path.is_file():
        raise UserError(f"params.yaml: data.path: there is no file {str(path)!r}; put the CSV there or name another")
    kind, compression = _kind(path, wanted)
    head = _head(path, "none", 4096)
    packed = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}.get(compression, b"")
    if head and not head.startswith(packed):
        _refuse_magic(path, head)
        raise UserError(f"{path}: is named as packed with {compression} but is not; take {path.suffix} from its name")
    if kind == "parquet":
        from pipeline.intake import columnar

        _refuse_magic(path, head, allowed=b"PAR1")
        return columnar.look(path)
    sample = _head(path, compression, _SAMPLE + 4)
    if not sample:
        raise UserError(f"{path}: the file is empty; expected a header line and a row for each text")
    _refuse_magic(path, sample)
    found = _with_encoding(Look(path, kind, compression), sample, wanted)
    return _look_at_json(found) if kind == "jsonl" else _look_at_table(found, wanted)


def _kind(path: Path, wanted: params.Data) -> tuple[str, str]:
    """Return format and compression as the file's name and data.format have it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = _COMPRESSIONS.get(suffixes[-1], "none") if suffixes else "none"
    inner = suffixes[:-1] if compression != "none" else suffixes
    kind: str = wanted.format
    if kind == "auto":
        kind_by_name = _FORMATS.get(inner[-1]) if inner else None
        if kind_by_name is None:
            head = _head(path, "none", 4096)
            _refuse_magic(path, head)
            raise UserError(
                f"{path}: its name does not tell what it holds; expected .csv, .tsv, .jsonl, .ndjson or .parquet, then "
                ".gz or .zst where it is packed: rename it, or set data.format in params.yaml to csv, tsv, jsonl or "
                "parquet"
            )
        kind = kind_by_name
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


def _with_encoding(found: Look, sample: bytes, wanted: params.Data) -> Look:
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
                f"{found.path}: begins with the byte order mark of {mark.upper()}, but data.encoding is {asked}; set "
                f"data.encoding: {family} in params.yaml",
                {"data.encoding": family},
            )
        found = replace(found, encoding=mark, bom=True, notes=(f"the file has the byte order mark of {mark.upper()}",))
        if name == "auto" and mark != "utf-8":
            found = replace(found, mends=(f"data.encoding: auto: read as {mark}, as its byte order mark says",))
        return found
    wide = encodings.wide_encoding_of(sample[: _SAMPLE // 4 * 4])
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
                f"{found.path}, line 1: holds NUL bytes, as {wide.upper()} does, but data.encoding is {asked}; set "
                f"data.encoding: {wide} in params.yaml",
                {"data.encoding": wide},
            )
        return replace(
            found, encoding=wide, mends=(f"data.encoding: auto: read as {wide}, as the places of its NULs say",)
        )
    if name == "auto":
        return _with_detected_encoding(found)
    if name != "utf-8" and _surely_utf8(sample):
        raise SettingsError(
            f"{found.path}: is UTF-8, but data.encoding is {asked}, which would garble it; set data.encoding: utf-8 in "
            "params.yaml",
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


def _with_detected_encoding(found: Look) -> Look:
    path = found.path
    if encodings.is_utf8(path, found.compression):
        return replace(found, encoding="utf-8")
    foreign = encodings.foreign_lines(path, found.compression)
    if foreign.line == 0 or b"\0" in foreign.sample:  # a NUL, or a character cut off at the end: said with its line
        return replace(found, encoding="utf-8")
    guess = encodings.detected(foreign)
    if foreign.utf8:
        like = f", like {guess.readings[0][0]}" if guess.readings else ""
        raise UserError(
            f"{path}, line {foreign.line}: mixes encodings: {foreign.not_utf8} lines are not UTF-8{like}, and "
            f"{foreign.utf8} are (the first is line {foreign.first_utf8}); save all of it in UTF-8"
        )
    if guess.encoding is None:
        raise SettingsError(
            f"{path}, line {guess.line}: data.encoding: auto cannot tell the encoding; {_choices(guess)}",
            _likeliest(guess),
        )
    name, reading = guess.readings[0]
    mend = (
        f"data.encoding: auto: read as {name}, a guess: line {guess.line} reads {reading!r}; "
        "where that is wrong, set data.encoding in params.yaml to the right name"
    )
    return replace(found, encoding=name, mends=(mend,))


def _choices(guess: encodings.Detected) -> str:
    readings = "; ".join(f"{name} reads {reading!r}" for name, reading in guess.readings)
    return f"name it in data.encoding in params.yaml ({readings or 'no known one fits'})"


def _likeliest(guess: encodings.Detected) -> dict[str, str]:
    return {"data.encoding": guess.readings[0][0]} if guess.readings else {}


def undecodable(found: Look) -> UserError:
    """Return the error for a file that holds bytes outside its encoding, or a NUL, with the line and the mend."""
    skip = len(MARKS[found.encoding]) if found.bom else 0
    fault = encodings.first_fault(found.path, found.compression, found.encoding, skip)
    if fault is None:
        raise RuntimeError(f"{found.path} changed while it was read")
    line, data, before = fault
    where = f"{found.path}, line {line}: "
    if data == b"\0":
        place = f"holds a NUL byte after {before!r}" if before else "begins with a NUL byte"
        return UserError(
            f"{where}{place}; remove it (tr -d '\\000' < FILE > NEW takes out all of them), or save the file as CSV in "
            "UTF-8 where it was made"
        )
    at = f"{where}holds bytes that are not {found.encoding.upper()} ({data.hex(' ')} after {before!r}); "
    if found.encoding != "utf-8":
        return UserError(
            f"{at}save the whole file in one encoding, or set data.encoding in params.yaml to the right name"
        )
    if found.mends or found.bom:
        return UserError(f"{at}the rest up to there is UTF-8: save that line in UTF-8 too")
    foreign = encodings.foreign_lines(found.path, found.compression)
    guess = encodings.detected(foreign)
    if foreign.utf8:
        like = f" (it looks like {guess.readings[0][0]}: {guess.readings[0][1]!r})" if guess.readings else ""
        return UserError(
            f"{at}the file mixes encodings: {foreign.not_utf8} lines are not UTF-8{like}, {foreign.utf8} are; "
            "save all of it in UTF-8"
        )
    if guess.encoding is None:
        return SettingsError(f"{at}save the file as CSV in UTF-8, or {_choices(guess)}", _likeliest(guess))
    name, reading = guess.readings[0]
    return SettingsError(
        f"{at}the file looks like {name}, in which line {guess.line} reads {reading!r}: set data.encoding: {name} in "
        "params.yaml, or save the file as CSV in UTF-8",
        {"data.encoding": name},
    )


# --- lines


@contextmanager
def lines(found: Look) -> Iterator[tuple["encodings.Counting", Iterator[str]]]:
    """Open the file and yield its source of bytes and its lines, ends kept; their text is checked as they come.

    Raises UserError with line and mend for bytes outside the encoding, NULs and damaged packing.
    """
    utf8 = found.encoding == "utf-8"  # a NUL byte is then a NUL, so that blocks of bytes can be searched for it
    try:
        with encodings.opened(found.path, found.compression, refuse_nul=utf8) as source:
            buffer = io.BufferedReader(source, encodings.BLOCK)
            if found.bom:
                buffer.read(len(MARKS[found.encoding]))
            text = io.TextIOWrapper(buffer, encoding=found.encoding, errors="strict", newline="")
            yield source, text if utf8 else _without_nul(text)
    except (UnicodeError, NulError):
        raise undecodable(found) from None


def _without_nul(text: Iterator[str]) -> Iterator[str]:
    for line in text:
        if "\0" in line:
            raise NulError
        yield line


# --- CSV and TSV


def _look_at_table(found: Look, wanted: params.Data) -> Look:
    """Return `found` with delimiter, header and sample; raises UserError for what the first rows show."""
    path = found.path
    quote = "" if wanted.quote == "none" else wanted.quote
    escape = "" if wanted.escape == "none" else wanted.escape
    found = replace(found, quote=quote, escape=escape)
    _check_dialect(found, wanted)
    sample, whole = sample_lines(found)
    if whole and not any(line.strip() for line in sample):
        what = "holds blank lines only" if sample else "the file is empty"
        raise UserError(f"{path}: {what}; expected a header line and a row for each text")
    if sample[0].lower().startswith("sep=") and len(sample[0].rstrip()) == 5:
        raise UserError(
            f"{path}, line 1: holds Excel's own {sample[0].strip()!r}; delete the line and set data.delimiter: "
            f"{json.dumps(sample[0][4])} in params.yaml"
        )
    if sample[0].lstrip().startswith('{"') and _is_json(sample[0]):
        raise SettingsError(
            f"{path}, line 1: holds JSON; name the file .jsonl or set data.format: jsonl in params.yaml",
            {"data.format": "jsonl"},
        )
    if re.match(r"\s*(\{|\[|\[\s*\{\s*\"[^\"]*\":.*)\s*$", sample[0]):
        command = "jq -c '.[]'" if sample[0].lstrip().startswith("[") else "jq -c ."
        raise UserError(
            f"{path}, line 1: holds JSON, and not an object on each line; {command} FILE > NEW.jsonl makes such lines"
        )
    if wanted.header == "first" and not sample[0].strip():
        raise UserError(f"{path}, line 1: is blank where the header should be; delete the blank lines before it")
    found = _with_delimiter(found, sample, whole, wanted)
    records, ends = _records(found, sample, whole)
    found = replace(found, line_ends=_line_ends(ends), header=wanted.header == "first")
    if found.line_ends == "mixed":
        found = replace(found, notes=(*found.notes, "line ends are mixed: each of LF, CRLF and CR ends a row"))
    elif found.line_ends == "CR" and sample[1:2] == ["\r\n"]:
        found = replace(found, notes=(*found.notes, "lines end with CR CR LF, which makes every other one blank"))
    elif found.line_ends == "CR":
        found = replace(found, notes=(*found.notes, "lines end with CR alone, as on old Macs"))
    if not found.header:
        width = len(records[0]) if records else 1
        columns = tuple(f"column_{number}" for number in range(1, max(1, width) + 1))
        mend = f"data.header: none: the columns are called {columns[0]} to {columns[-1]}"
        return replace(found, columns=columns, sample=_rows(records), mends=(*found.mends, mend))
    header = records[0] if records else [""]
    if whole and len(records) == 1 and any("\n" in name or "\r" in name for name in header):
        raise UserError(
            f"{path}, line 1: the header goes on to the end of the file, so a quote ({found.quote}) that opens in it "
            "is never closed; close it"
        )
    found = replace(found, columns=tuple(header), sample=_rows(records[1:]))
    _check_header(found)
    if whole and len(records) == 1:
        raise UserError(
            f"{path}: there is no row below the header ({clipped(header)}); expected one for each text: add them"
        )
    data = _like_data(header)
    if data is not None:
        note = f"the header names a column {data!r}; if line 1 is a row, set data.header: none in params.yaml"
        found = replace(found, notes=(*found.notes, note))
    return found


def sample_lines(found: Look) -> tuple[list[str], bool]:
    """Return the lines of the first mebibyte (without one that goes on beyond it), and whether that is all."""
    sample: list[str] = []
    size = 0
    with lines(found) as (_, text):
        for line in text:
            size += len(line)
            if size > _SAMPLE:
                return sample or [line], False
            sample.append(line)
    return sample, True


def dialect(found: Look, *, strict: bool = True) -> Dialect:
    """Return the arguments that make csv.reader read as `found` says."""
    return Dialect(
        delimiter=found.delimiter,
        quotechar=found.quote or None,
        quoting=csv.QUOTE_MINIMAL if found.quote else csv.QUOTE_NONE,
        escapechar=found.escape or None,
        strict=strict,
    )


def unescaped_lines(found: Look, text: Iterator[str]) -> Iterator[str]:
    """Return `text` with each escape character that escapes nothing doubled, so that csv.reader keeps it.

    csv.reader would drop the backslash of `C:\\new`. An escape counts before a quote, a delimiter, a line break and
    itself.
    """
    if not found.escape:
        return text
    escape, special = found.escape, {found.escape, found.delimiter, found.quote, "\r", "\n"} - {""}
    pairs = re.compile(re.escape(escape) + "(.?)", re.DOTALL)

    def kept(pair: re.Match[str]) -> str:
        return pair[0] if pair[1] in special else escape + escape + pair[1]

    return (pairs.sub(kept, line) if escape in line else line for line in text)


def _records(found: Look, sample: Sequence[str], whole: bool) -> tuple[list[list[str]], Counter[str]]:
    """Return the first records as csv.reader has them without being strict, and how their last lines end.

    Blank lines are none of them.
    """
    records: list[list[str]] = []
    ends: Counter[str] = Counter()
    reader = csv.reader(unescaped_lines(found, iter(sample)), **dialect(found, strict=False))
    for fields in reader:
        if not whole and reader.line_num == len(sample) and records:
            break  # it may go on beyond the sample
        last = sample[reader.line_num - 1]
        if len(fields) < 2 and not last.strip():
            continue
        records.append(fields)
        ends["CRLF" if last.endswith("\r\n") else {"\n": "LF", "\r": "CR"}.get(last[-1:], "")] += 1
        if len(records) > _SAMPLE_ROWS:
            break
    del ends[""]
    return records, ends


def _line_ends(ends: Counter[str]) -> str:
    return next(iter(ends)) if len(ends) == 1 else "mixed" if ends else ""


def _rows(records: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(fields) for fields in records[:100])


def _with_delimiter(found: Look, sample: Sequence[str], whole: bool, wanted: params.Data) -> Look:
    """Return `found` with its delimiter; raises UserError where another one, or none for sure, fits the file."""
    asked = "\t" if found.format == "tsv" else wanted.delimiter
    fitting = {
        delimiter: fields
        for delimiter in dict.fromkeys((*DELIMITERS, *(asked if asked != "auto" else "")))
        if (fields := fields_a_row(replace(found, delimiter=delimiter), sample, whole)) > 1
    }
    if asked != "auto":
        others = [delimiter for delimiter in fitting if delimiter != asked]
        if asked not in fitting and len(others) == 1:
            settings = separated_by(others[0], found)
            raise SettingsError(
                f"{found.path}, line 1: the fields are separated by {shown(others[0])} ({fitting[others[0]]} on each "
                f"row), not by {shown(asked)}; set {written(settings)} in params.yaml",
                settings,
            )
        return replace(found, delimiter=asked)
    if len(fitting) > 1:
        seen = " and ".join(f"{shown(delimiter)} ({fields} fields)" for delimiter, fields in fitting.items())
        raise UserError(
            f"{found.path}: data.delimiter: auto cannot tell, since {seen} fit every row; set data.delimiter in "
            "params.yaml to one of them"
        )
    if fitting:
        delimiter, fields = next(iter(fitting.items()))
        mend = f"data.delimiter: auto: read as separated by {shown(delimiter)}, {fields} fields on each row"
        return replace(found, delimiter=delimiter, mends=(*found.mends, mend))
    first = next(csv.reader(sample[:1], quotechar=found.quote or None, delimiter=NO_DELIMITER), [""])[0]
    if any(delimiter in first for delimiter in DELIMITERS):
        raise UserError(
            f"{found.path}: data.delimiter: auto cannot tell what separates the fields of {clipped([first])}: none of "
            "comma, semicolon, tab and bar gives every row as many; set data.delimiter in params.yaml"
        )
    mend = "data.delimiter: auto: read as one column, since line 1 holds no comma, semicolon, tab or bar"
    return replace(found, delimiter=NO_DELIMITER, mends=(*found.mends, mend))


def separated_by(delimiter: str, found: Look) -> dict[str, str]:
    """Return the settings with which `found` is read as separated by `delimiter`."""
    return (
        {"data.format": "csv"} | {"data.delimiter": delimiter}
        if found.format == "tsv"
        else {"data.delimiter": delimiter}
    )


def fields_a_row(found: Look, sample: Sequence[str], whole: bool, share: float = 0.9) -> int:
    """Return the number of fields that the first row and a `share` of all have, 0 where these are fewer."""
    if found.delimiter in (found.quote, found.escape):
        return 0
    try:
        records, _ = _records(found, sample, whole)
    except csv.Error:
        return 0
    counts = [len(fields) for fields in records if fields]
    if not counts or counts.count(counts[0]) < share * len(counts):
        return 0
    return counts[0]


def _check_dialect(found: Look, wanted: params.Data) -> None:
    """Raise UserError where two of the marks between and in fields are the same, or end lines."""
    delimiter = "\t" if found.format == "tsv" else wanted.delimiter
    marks = {"data.delimiter": delimiter, "data.quote": found.quote, "data.escape": found.escape}
    for key, mark in marks.items():
        if mark in ("\r", "\n"):
            raise UserError(f"params.yaml: {key}: found a line break, which ends rows; name another character")
    for key, other in (("delimiter", "quote"), ("delimiter", "escape"), ("escape", "quote")):
        if marks[f"data.{key}"] and marks[f"data.{key}"] == marks[f"data.{other}"]:
            hint = "; a quote written twice needs no escape: set data.escape: none" if key == "escape" else ""
            raise UserError(
                f"params.yaml: data.{key} and data.{other} are both {marks[f'data.{key}']!r}; name two different "
                f"characters{hint}"
            )


def _check_header(found: Look) -> None:
    """Raise UserError unless each column has a name of its own."""
    from pipeline.intake.records import headerless

    names, where = found.columns, f"{found.path}, line 1: "
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        count = names.count(twice[0])
        what = f"names {twice[0]!r} more than once" if twice[0] else f"leaves {count} columns without a name"
        settings = headerless(found)
        if settings:
            raise SettingsError(
                f"{where}the header {what}, and looks like a row; set {written(settings)} in params.yaml", settings
            )
        raise UserError(
            f"{where}the header {what}; give each column its own name, delete what stands before the header, or set "
            "data.header: none in params.yaml if there is none"
        )
    check_reserved(found, where)


def check_reserved(found: Look, where: str) -> None:
    """Raise UserError where a column is called as one that the quarantine puts before the file's own."""
    reserved = [name for name in found.columns if name in RESERVED]
    if reserved:
        raise UserError(f"{where}the column name {reserved[0]!r} is used by quarantine.csv; rename it")


def _like_data(header: Sequence[str]) -> str | None:
    """Return a name of `header` that looks like a field of a row: blank, a number, prose."""
    for name in header:
        if not name.strip() or re.fullmatch(r"[-+\d.,:/% ]+", name) or len(name.split()) > 12:
            return name if len(name) <= 60 else name[:59] + "…"
    return None


# --- JSON lines


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _look_at_json(found: Look) -> Look:
    """Return `found` with the union of all objects' keys, in the order in which they first come."""
    from pipeline.intake import records

    keys: dict[str, None] = {}
    sample: list[dict[str, str]] = []
    ends: Counter[str] = Counter()
    first, first_line = "", 0
    with lines(found) as (_, text):
        for number, line in enumerate(text, start=1):
            if not first:
                first, first_line = line.strip(), number
            if len(sample) < 100:
                ends["CRLF" if line.endswith("\r\n") else {"\n": "LF", "\r": "CR"}.get(line[-1:], "")] += 1
            row = records.json_object(line)
            if isinstance(row, dict):
                keys.update(dict.fromkeys(row))
                if len(sample) < 100:
                    sample.append(row)
    where = f"{found.path}, line {first_line}: "
    if first.startswith("["):
        raise UserError(
            f"{where}holds a JSON array; JSON lines have an object on each line: "
            "jq -c '.[]' FILE > NEW.jsonl makes them"
        )
    if first.startswith("{") and _goes_on(found, first):
        raise UserError(
            f"{where}holds a JSON object that goes on over several lines; JSON lines have an object on each line: "
            "jq -c . FILE > NEW.jsonl makes them"
        )
    if not first:
        raise UserError(f"{found.path}: holds blank lines only; expected a JSON object on each line")
    if not keys:
        raise _no_objects(found, first, where)
    del ends[""]
    found = replace(
        found,
        columns=tuple(keys),
        sample=tuple(tuple(row.get(key, "") for key in keys) for row in sample),
        line_ends=_line_ends(ends),
    )
    check_reserved(found, f"{found.path}: ")
    return found


def _goes_on(found: Look, first: str) -> bool:
    """Return whether the JSON object that begins with the line `first` ends on a later one."""
    if _is_json(first):
        return False
    sample, _ = sample_lines(found)
    try:
        json.JSONDecoder().raw_decode("".join(sample).lstrip())
    except (ValueError, RecursionError):
        return first == "{"
    return True


def _no_objects(found: Look, first: str, where: str) -> UserError:
    """Return the error for JSON lines none of which has an object to read, `first` being the first."""
    from pipeline.intake import records

    problem = records.json_object(first)
    if first.startswith("{") and isinstance(problem, str):
        return UserError(f"{where}{problem}: {clipped([first])}; no line holds a JSON object that can be read")
    sample, whole = sample_lines(found)
    table = replace(found, format="csv", quote='"')
    fitting = [mark for mark in DELIMITERS if fields_a_row(replace(table, delimiter=mark), sample, whole) > 1]
    if not fitting:
        return UserError(f'{where}no line holds a JSON object such as {{"text": "…"}}; found {clipped([first])}')
    settings = {"data.format": "csv"} | ({"data.delimiter": fitting[0]} if fitting[0] != "," else {})
    return SettingsError(
        f"{where}holds no JSON but looks like CSV ({clipped([first])}); name the file .csv or set {written(settings)} "
        "in params.yaml",
        settings,
    )


# --- words


def shown(delimiter: str) -> str:
    """Return how a delimiter is called in a sentence."""
    return f"{_NAMES[delimiter]} ({json.dumps(delimiter)})" if delimiter in _NAMES else json.dumps(delimiter)


def clipped(fields: Sequence[str], most: int = 6, width: int = 40) -> str:
    """Return `fields` for a sentence: quoted, the long and the many of them cut short."""
    quoted = [repr(field if len(field) <= width else field[: width - 1] + "…") for field in fields[:most]]
    return ", ".join(quoted) + (f" and {len(fields) - most} more" if len(fields) > most else "")
