"""Error messages for files whose bytes do not fit the encoding: the line, the likely encoding, and the fix."""

from pipeline.command import UserError
from pipeline.intake import encodings
from pipeline.intake.file_format import FileFormat, SettingsError


def undecodable_error(file_format: FileFormat) -> UserError:
    """Return the error for a file that holds bytes outside its encoding, or a NUL."""
    path, encoding = file_format.path, file_format.encoding
    skip = len(encodings.BYTE_ORDER_MARKS[encoding]) if file_format.bom else 0
    fault = encodings.first_undecodable(path, file_format.compression, encoding, skip)
    if fault is None:
        raise RuntimeError(f"{path} changed while it was read")
    line, data, before = fault
    where = f"{path}, line {line}: "
    if data == b"\0":
        place = f"holds a NUL byte after {before!r}" if before else "begins with a NUL byte"
        return UserError(
            f"{where}{place}; remove it (tr -d '\\000' < FILE > NEW removes all of them), or export the file again as "
            "CSV in UTF-8"
        )
    what = f"{where}holds bytes that are not {encoding.upper()} ({data.hex(' ')} after {before!r})"
    if encoding != "utf-8":
        return UserError(
            f"{what}; save the whole file in one encoding, or set data.encoding in params.yaml to the right name"
        )
    if file_format.fixes or file_format.bom:
        return UserError(f"{what}; everything before it is UTF-8: save that line in UTF-8 too")
    return _not_utf8_error(file_format, what)


def _not_utf8_error(file_format: FileFormat, what: str) -> UserError:
    """Return the error for a file read as UTF-8, as the default is, that is in another encoding, or in two."""
    lines = encodings.scan_non_ascii_lines(file_format.path, file_format.compression)
    guess = encodings.detect_encoding(lines)
    evidence = encodings.weigh_evidence(lines, guess)
    if evidence.count:
        return UserError(f"{what}; the file {describe_mixture(evidence, lines)}")
    if guess.encoding is None:
        return SettingsError(
            what, f"save the file as CSV in UTF-8, or {describe_candidates(guess)}", likeliest_setting(guess)
        )
    encoding, reading = guess.readings[0]
    return SettingsError(
        what,
        f"the file looks like {encoding}, in which line {guess.line} reads {reading!r}: set data.encoding: {encoding} "
        "in params.yaml, or save the file as CSV in UTF-8",
        {"data.encoding": encoding},
    )


def describe_candidates(guess: encodings.Detected) -> str:
    """Return the possible encodings for a sentence, each with how a line reads in it."""
    readings = "; ".join(f"{encoding} reads {reading!r}" for encoding, reading in guess.readings)
    return f"name it in data.encoding in params.yaml ({readings or 'no known one fits'})"


def likeliest_setting(guess: encodings.Detected) -> dict[str, str]:
    """Return the setting for the likeliest encoding; empty if no known one fits."""
    return {"data.encoding": guess.readings[0][0]} if guess.readings else {}


def describe_mixture(evidence: encodings.EncodingEvidence, lines: encodings.NonAsciiLines) -> str:
    """Return the end of a sentence about a file in two encodings: the best one, and the lines that contradict it."""
    (line, text, garbled), *others = evidence.contradicting
    total = lines.utf8 + lines.not_utf8
    if evidence.best == "utf-8":
        matching = lines.utf8
        contradicting = f"line {line}" + (f", which may be meant as {text!r}" if text else "")
        fix = "save that line in UTF-8 too" if evidence.count == 1 else "save all of it in UTF-8"
    else:
        matching = total - evidence.count
        contradicting = f"line {line}, which is UTF-8 ({text!r}) and would read {garbled!r}"
        contradicting += f" (likewise line {', '.join(str(other) for other, *_ in others)})" if others else ""
        fix = f"save all of it in one encoding, and name that in data.encoding ({evidence.best} or utf-8)"
    contradict = "1 line contradicts it:" if evidence.count == 1 else f"{evidence.count:,} lines contradict it, first"
    return (
        f"mixes encodings: of {total:,} lines outside ASCII {matching:,} are {evidence.best}, the best match; "
        f"{contradict} {contradicting}; {fix}"
    )
