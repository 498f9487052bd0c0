"""JSON Lines: the objects as rows, and the union of their keys as columns."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from pipeline.command import UserError
from pipeline.intake.file_format import (
    SAMPLE,
    FileFormat,
    SettingsError,
    check_reserved,
    check_width,
    line_end_of,
    line_ends_of,
    preview,
)
from pipeline.intake.records import DOS_END_OF_FILE, BlankLines, Problem, Record, dos_end_of_file
from pipeline.intake.text_lines import open_lines, read_sample

_SAMPLE_ROWS = 100


def sniff_json_lines(file_format: FileFormat) -> FileFormat:
    """Return `file_format` with the union of all objects' keys as columns, in the order of their first appearance."""
    path = file_format.path
    keys: dict[str, None] = {}
    sample: list[dict[str, str]] = []
    size = 0  # of the sample, in characters
    ends: Counter[str] = Counter()
    first, first_line = "", 0
    with open_lines(file_format) as (_, lines):
        for number, line in enumerate(lines, start=1):
            if not first:
                first, first_line = line.strip(), number
            if len(sample) < _SAMPLE_ROWS:
                ends[line_end_of(line)] += 1
            row = parse_object(line)
            if isinstance(row, dict):
                keys.update(dict.fromkeys(row))
                check_width(len(keys), f"{path}, line {number}: with the keys of this object ")
                if len(sample) < _SAMPLE_ROWS and size < SAMPLE:
                    sample.append(row)
                    size += len(line)
    _check_first_line(file_format, first, first_line)
    if not keys:
        raise _no_objects_error(first, f"{path}, line {first_line}: ")
    check_reserved(list(keys), f"{path}: ")
    return replace(
        file_format,
        columns=tuple(keys),
        sample=tuple(tuple(row.get(key, "") for key in keys) for row in sample),
        line_ends=line_ends_of(ends),
    )


def json_records(file_format: FileFormat, blank: BlankLines) -> Iterator[Record]:
    """Yield the object on each line as a record; blank lines are counted in `blank`."""
    columns = file_format.columns
    known = frozenset(columns)
    with open_lines(file_format) as (source, lines):
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                blank.count += 1
                continue
            row = parse_object(line)
            if isinstance(row, str):
                content = line.rstrip("\r\n")
                what = f"line {number}: {row}: {preview([content])}"
                problem = Problem(what, "write one JSON object per line, with each key once")
                if content == DOS_END_OF_FILE:
                    problem = dos_end_of_file(number)
                yield Record(number, [content], problem, source.unpacked, source.position)
                continue
            if not known.issuperset(row):
                raise RuntimeError(f"{file_format.path} changed while it was read: line {number} has a new key")
            values = [row.get(name, "") for name in columns]
            yield Record(number, values, None, source.unpacked, source.position)


def parse_object(line: str) -> dict[str, str] | str:
    """Return the keys of a line's JSON object with their values as text, or what is wrong with the line.

    A string becomes its text, null "", and any other value stays as it is written in the file. Half of a surrogate pair
    cannot be written in UTF-8 and becomes U+FFFD and its escape (`�\\ud800`), and so does a NUL.
    """
    start = line.strip()
    if not start.startswith("{"):
        try:
            json.loads(start)
        except ValueError as error:
            return f"is not JSON ({error})"
        except RecursionError:
            return "is nested too deep"
        return "is not a JSON object"
    try:
        pairs: list[tuple[str, object]] = _DECODER.decode(start)
        if any(isinstance(value, list) for _, value in pairs):
            pairs = _pairs_with_source(start)
    except ValueError as error:
        return f"is not JSON ({error})"
    except RecursionError:
        return "is nested too deep"
    row = {key: value if isinstance(value, str) else _WORDS[value] for key, value in pairs}  # type: ignore[index]
    if len(row) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        return f"the key {json.dumps(twice, ensure_ascii=False)} appears twice"
    if "\\u" in start:
        row = {writable(key): writable(value) for key, value in row.items()}
    return row


def _keep_pairs(pairs: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return pairs


# Numbers stay as they are written; an object becomes a list of pairs, so that no key is lost.
_DECODER = json.JSONDecoder(object_pairs_hook=_keep_pairs, parse_float=str, parse_int=str, parse_constant=str)
_WORDS = {None: "", True: "true", False: "false"}
_SPACE = re.compile(r"[ \t\r\n]*")
_UNWRITABLE = re.compile("[\ud800-\udfff\0]")


def _pairs_with_source(text: str) -> list[tuple[str, object]]:
    """Return the pairs of the object that `text` is, with lists and objects as they are written there."""
    pairs: list[tuple[str, object]] = []
    end = _after_space(text, 1)
    while text[end] != "}":
        key, end = _DECODER.raw_decode(text, _after_space(text, end))
        start = _after_space(text, _after_space(text, end) + 1)  # after the colon
        value, end = _DECODER.raw_decode(text, start)
        pairs.append((key, text[start:end] if isinstance(value, list) else value))
        end = _after_space(text, end)
        end += text[end] == ","
    return pairs


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # the pattern matches anything


def writable(text: str) -> str:
    """Return `text` with each lone surrogate and each NUL as U+FFFD and its escape.

    In this form it can be written, is visible, and breaks the rule `encoding_damage`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        if "\0" not in text:
            return text
    return _UNWRITABLE.sub(lambda match: f"\ufffd\\u{ord(match[0]):04x}", text)


def is_json_object(line: str) -> bool:
    """Return whether `line` is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _check_first_line(file_format: FileFormat, first: str, number: int) -> None:
    """Raise UserError if the first line that is not blank shows that the file is JSON, but not JSON Lines."""
    where = f"{file_format.path}, line {number}: "
    if first.startswith("["):
        raise UserError(
            f"{where}holds a JSON array; JSON Lines needs one object per line: convert it with "
            "jq -c '.[]' FILE > NEW.jsonl"
        )
    if first.startswith("{") and _spans_lines(file_format, first):
        raise UserError(
            f"{where}holds a JSON object that goes on over several lines; JSON Lines needs one object per line: "
            "convert it with jq -c . FILE > NEW.jsonl"
        )
    if not first:
        raise UserError(f"{file_format.path}: holds blank lines only; expected a JSON object on each line")


def _spans_lines(file_format: FileFormat, first: str) -> bool:
    """Return whether the JSON object that begins with the line `first` ends on a later line."""
    if is_json_object(first):
        return False
    sample = read_sample(file_format).lines
    try:
        json.JSONDecoder().raw_decode("".join(sample).lstrip())
    except (ValueError, RecursionError):
        return first == "{"
    return True


def _no_objects_error(first: str, where: str) -> UserError:
    """Return the error for a file without a JSON object; `first` is its first line."""
    problem = parse_object(first)
    if first.startswith("{") and isinstance(problem, str):
        return UserError(f"{where}{problem}: {preview([first])}; no line holds a JSON object that can be read")
    return SettingsError(f'{where}no line holds a JSON object such as {{"text": "…"}}; found {preview([first])}')
