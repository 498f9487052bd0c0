"""JSON lines: their objects as rows, and what the file's columns are."""

import json
import re
from collections import Counter
from dataclasses import replace

from pipeline.command import UserError
from pipeline.intake.file_format import (
    SAMPLE,
    FileFormat,
    SettingsError,
    check_reserved,
    check_width,
    lines,
    preview,
    sample_lines,
)


def json_object(line: str) -> dict[str, str] | str:
    """Return the keys of a line's JSON object with their values as text, or what is wrong with the line.

    A string is its text, null is "", anything else stands as it does in the file. Half of a surrogate pair, which is
    no character and cannot be written, becomes U+FFFD and its escape: `�\\ud800`; and so does a NUL.
    """
    start = line.strip()
    if not start.startswith("{"):
        try:
            json.loads(start)
        except ValueError as error:
            return f"is no JSON ({error})"
        except RecursionError:
            return "is nested too deep"
        return "is no JSON object"
    try:
        pairs: list[tuple[str, object]] = _PLAIN.decode(start)
        if any(isinstance(value, list) for _, value in pairs):
            pairs = _with_sources(start)
    except ValueError as error:
        return f"is no JSON ({error})"
    except RecursionError:
        return "is nested too deep"
    row = {key: value if isinstance(value, str) else _WORDS[value] for key, value in pairs}  # type: ignore[index]
    if len(row) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        return f"the key {json.dumps(twice, ensure_ascii=False)} stands twice"
    if "\\u" in start:
        row = {writable(key): writable(value) for key, value in row.items()}
    return row


def _pairs(pairs: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return pairs


# Numbers stay as they are written; an object is a list of pairs, so that no key is lost.
_PLAIN = json.JSONDecoder(object_pairs_hook=_pairs, parse_float=str, parse_int=str, parse_constant=str)
_WORDS = {None: "", True: "true", False: "false"}
_SPACE = re.compile(r"[ \t\r\n]*")


def _with_sources(text: str) -> list[tuple[str, object]]:
    """Return the pairs of the object that `text` is, with lists and objects as they are written there."""
    pairs: list[tuple[str, object]] = []
    end = _after_space(text, 1)
    while text[end] != "}":
        key, end = _PLAIN.raw_decode(text, _after_space(text, end))
        start = _after_space(text, _after_space(text, end) + 1)  # beyond the colon
        value, end = _PLAIN.raw_decode(text, start)
        pairs.append((key, text[start:end] if isinstance(value, list) else value))
        end = _after_space(text, end)
        end += text[end] == ","
    return pairs


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # the pattern matches anything


_UNWRITABLE = re.compile("[\ud800-\udfff\0]")


def writable(text: str) -> str:
    """Return `text` with each lone surrogate and each NUL as U+FFFD and its escape.

    So it shows, is refused, and can be written.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        if "\0" not in text:
            return text
    return _UNWRITABLE.sub(lambda found: f"\ufffd\\u{ord(found[0]):04x}", text)


def is_json(line: str) -> bool:
    """Return whether `line` is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def sniff_json_lines(found: FileFormat) -> FileFormat:
    """Return `found` with the union of all objects' keys, in the order in which they first come."""
    keys: dict[str, None] = {}
    sample: list[dict[str, str]] = []
    size = 0  # of the sample, in characters
    ends: Counter[str] = Counter()
    first, first_line = "", 0
    with lines(found) as (_, text):
        for number, line in enumerate(text, start=1):
            if not first:
                first, first_line = line.strip(), number
            if len(sample) < 100:
                ends["CRLF" if line.endswith("\r\n") else {"\n": "LF", "\r": "CR"}.get(line[-1:], "")] += 1
            row = json_object(line)
            if isinstance(row, dict):
                keys.update(dict.fromkeys(row))
                check_width(f"{found.path}, line {number}: with the keys of this object ", len(keys))
                if len(sample) < 100 and size < SAMPLE:
                    sample.append(row)
                    size += len(line)
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
        raise _no_objects(first, where)
    del ends[""]
    found = replace(
        found,
        columns=tuple(keys),
        sample=tuple(tuple(row.get(key, "") for key in keys) for row in sample),
        line_ends=next(iter(ends)) if len(ends) == 1 else "mixed" if ends else "",
    )
    check_reserved(found, f"{found.path}: ")
    return found


def _goes_on(found: FileFormat, first: str) -> bool:
    """Return whether the JSON object that begins with the line `first` ends on a later one."""
    if is_json(first):
        return False
    sample = sample_lines(found).lines
    try:
        json.JSONDecoder().raw_decode("".join(sample).lstrip())
    except (ValueError, RecursionError):
        return first == "{"
    return True


def _no_objects(first: str, where: str) -> UserError:
    """Return the error for JSON lines none of which has an object to read, `first` being the first."""
    problem = json_object(first)
    if first.startswith("{") and isinstance(problem, str):
        return UserError(f"{where}{problem}: {preview([first])}; no line holds a JSON object that can be read")
    return SettingsError(f'{where}no line holds a JSON object such as {{"text": "…"}}; found {preview([first])}')
