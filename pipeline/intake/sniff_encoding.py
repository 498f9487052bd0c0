"""Which encoding to read a file in: data.encoding, checked against the bytes, or detected from them."""

from dataclasses import replace

from pipeline import params
from pipeline.command import UserError
from pipeline.intake import encodings
from pipeline.intake.encoding_errors import describe_candidates, describe_mixture, likeliest_setting
from pipeline.intake.file_format import SAMPLE, FileFormat, SettingsError

# Python's codecs that turn bytes to text, but that no file is written in.
_NOT_FOR_FILES = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape")


def with_encoding(file_format: FileFormat, sample: bytes, data: params.Data) -> FileFormat:
    """Return `file_format` with its encoding; raises UserError if `sample` contradicts data.encoding."""
    encoding = data.encoding if data.encoding == "auto" else encodings.canonical_name(data.encoding)
    if encoding != "auto" and not _is_text_encoding(encoding):
        raise UserError(
            f"params.yaml: data.encoding: found {data.encoding}, which is not an encoding of text; name one such as "
            "utf-8, cp1252"
        )
    mark = encodings.encoding_of_mark(sample)
    if mark is not None:
        return _with_byte_order_mark(file_format, mark, data)
    wide = encodings.detect_utf16_or_32(sample[: SAMPLE // 4 * 4])
    if encoding in ("utf-16", "utf-32"):
        return _with_unmarked_wide(file_format, encoding, wide, data)
    if wide is not None and encoding not in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        if encoding != "auto":
            raise _wrong_setting(
                file_format,
                f", line 1: holds NUL bytes, as {wide.upper()} does, but data.encoding is {data.encoding}",
                wide,
            )
        fix = f"data.encoding: auto: read as {wide}, detected by the positions of its NUL bytes"
        return replace(file_format, encoding=wide, fixes=(fix,))
    if encoding == "auto":
        return _with_detected_encoding(file_format)
    if encoding != "utf-8" and _is_surely_utf8(sample):
        raise _wrong_setting(
            file_format, f": is UTF-8, but data.encoding is {data.encoding}, which would garble it", "utf-8"
        )
    return replace(file_format, encoding=encoding)


def _wrong_setting(file_format: FileFormat, what: str, encoding: str) -> SettingsError:
    """Return the error for a file that must be read in `encoding`."""
    return SettingsError(
        f"{file_format.path}{what}", f"set data.encoding: {encoding} in params.yaml", {"data.encoding": encoding}
    )


def _with_byte_order_mark(file_format: FileFormat, mark: str, data: params.Data) -> FileFormat:
    """Return `file_format` with the encoding `mark` of its byte order mark."""
    family = mark.removesuffix("-le").removesuffix("-be")
    encoding = data.encoding if data.encoding == "auto" else encodings.canonical_name(data.encoding)
    if encoding not in ("auto", mark, family):
        raise _wrong_setting(
            file_format,
            f": begins with the byte order mark of {mark.upper()}, but data.encoding is {data.encoding}",
            family,
        )
    notes = (f"the file has the byte order mark of {mark.upper()}",)
    file_format = replace(file_format, encoding=mark, bom=True, notes=notes)
    if encoding == "auto" and mark != "utf-8":
        fix = f"data.encoding: auto: read as {mark}, by its byte order mark"
        return replace(file_format, fixes=(fix,))
    return file_format


def _with_unmarked_wide(file_format: FileFormat, encoding: str, wide: str | None, data: params.Data) -> FileFormat:
    """Return `file_format` as UTF-16 or UTF-32 without a byte order mark, with the byte order that was detected."""
    if wide is None or not wide.startswith(encoding):
        raise UserError(
            f"{file_format.path}: data.encoding is {data.encoding}, but the file has no byte order mark and does not "
            f"look like it; set data.encoding to {encoding}-le or {encoding}-be if it is, or to auto"
        )
    return replace(file_format, encoding=wide, notes=(f"no byte order mark; read as {wide}",))


def _is_text_encoding(name: str) -> bool:
    """Return whether `name`, which Python knows, turns bytes to text and is used in files."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError):  # such as base64, which turns bytes to bytes
        return False
    return name.replace("_", "-") not in _NOT_FOR_FILES


def _is_surely_utf8(sample: bytes) -> bool:
    """Return whether `sample` is UTF-8 and holds some characters outside ASCII."""
    if sample.isascii():
        return False
    try:
        text = sample.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(sample):  # not just a character that the sample cuts
            return False
        text = sample[: error.start].decode("utf-8")
    return sum(character > "\x7f" for character in text) >= 3


def _with_detected_encoding(file_format: FileFormat) -> FileFormat:
    """Return `file_format` with the encoding detected over the whole file."""
    path = file_format.path
    if encodings.is_utf8(path, file_format.compression):
        return replace(file_format, encoding="utf-8")
    lines = encodings.scan_non_ascii_lines(path, file_format.compression)
    if lines.line == 0 or b"\0" in lines.sample:
        # A NUL, or a character that the end of the file cuts: reading it as UTF-8 reports the line.
        return replace(file_format, encoding="utf-8")
    guess = encodings.detect_encoding(lines)
    evidence = encodings.weigh_evidence(lines, guess)
    if evidence.count:
        raise UserError(f"{path}, line {lines.line}: {describe_mixture(evidence, lines)}")
    if guess.encoding is None:
        raise SettingsError(
            f"{path}, line {guess.line}: data.encoding: auto cannot tell the encoding",
            describe_candidates(guess),
            likeliest_setting(guess),
        )
    encoding, reading = guess.readings[0]
    fix = (
        f"data.encoding: auto: read as {encoding}, a guess: line {guess.line} reads {reading!r}; "
        "if that is wrong, set data.encoding in params.yaml to the right name"
    )
    if evidence.utf8_by_chance:
        numbers = ", ".join(map(str, evidence.utf8_by_chance))
        fix += f" (valid UTF-8 as well, but likelier {encoding}: line {numbers})"
    return replace(file_format, encoding=encoding, fixes=(fix,))
