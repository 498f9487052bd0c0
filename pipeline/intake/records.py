"""Records of the corpus, in chunks, with the line at which each begins; and the text that a record gives."""

import csv
import json
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.look import LONGEST_FIELD, Look, clipped, dialect, lines, shown, unescaped_lines

ROWS = 50_000  # a chunk's records at most
CELLS = 1_000_000  # and its fields, each of which is an object of 50 bytes and more
BYTES = (
    12 << 20
)  # and its bytes, roughly, since a few chunks are in memory at once; a longer record is a chunk of its own
_LISTED = 10  # broken rows that an error shows


@dataclass(frozen=True)
class Chunk:
    """Some records of the corpus, in its order.

    `fields` has as many for each record as the look has columns. A broken one (only with data.broken_rows: quarantine)
    has blanks there, and in `broken`, under its position in the chunk, its fields as they stood (a line of JSON as one
    field).
    """

    rows: list[int] = field(default_factory=list)  # line at which each begins; in Parquet its ordinal; from 1
    fields: list[list[str]] = field(default_factory=list)
    broken: dict[int, list[str]] = field(default_factory=dict)
    bytes_read: int = 0  # of the file as it lies there, since its beginning


# The row, its fields as they were read, why they do not fit the columns ("" where they do), and the bytes read so far:
# of the unpacked file and of the file as it lies there.
Record = tuple[int, list[str], str, int, int]


def read(look: Look, wanted: params.Data) -> Iterator[Chunk]:
    """Yield the records of the corpus; each is in one chunk, once.

    Raises UserError: at once for what makes all that follows unsure (an unclosed quote, bytes outside the encoding, a
    NUL, damaged packing); after the last record, with `broken_rows: stop`, for the rows that do not fit the columns.
    """
    if look.format == "parquet":
        from pipeline.intake import columnar

        records = columnar.records(look)
    else:
        records = _json_records(look) if look.format == "jsonl" else _csv_records(look)
    problems: list[str] = []
    broken = count = start = 0
    chunk = Chunk()
    blank = [""] * len(look.columns)
    most = max(1, min(ROWS, CELLS // len(look.columns)))
    for row, fields, problem, unpacked, position in records:
        count += 1
        if problem:
            broken += 1
            if wanted.broken_rows == "stop":
                if broken <= _LISTED:
                    problems.append(problem)
                continue
            chunk.broken[len(chunk.rows)] = fields
            fields = blank.copy()
        if broken and wanted.broken_rows == "stop":
            continue  # only counting is left: nobody is to work on a file that will be refused
        chunk.rows.append(row)
        chunk.fields.append(fields)
        if len(chunk.rows) >= most or unpacked - start >= BYTES:
            yield Chunk(chunk.rows, chunk.fields, chunk.broken, position)
            chunk, start = Chunk(), unpacked
    if problems:
        raise UserError(_summary(look, problems, broken))
    if not count:
        raise UserError(f"{look.path}: there is no row below the header; expected one for each text")
    if chunk.rows:
        yield Chunk(chunk.rows, chunk.fields, chunk.broken, look.path.stat().st_size)


def _summary(look: Look, problems: Sequence[str], broken: int) -> str:
    """Return the error for broken rows: a sentence for one, a list for several."""
    go_on = "or set data.broken_rows: quarantine in params.yaml to go on without such rows"
    if broken == 1:
        return f"{look.path}, {problems[0]}, {go_on}"
    more = f"\n  and {broken - len(problems)} more" if broken > len(problems) else ""
    listed = "".join(f"\n  {problem}" for problem in problems)
    return f"{look.path}: {broken} rows do not fit the columns; mend them, {go_on}:{listed}{more}"


# --- CSV and TSV


def _csv_records(look: Look) -> Iterator[Record]:
    width = len(look.columns)
    with lines(look) as (source, text):
        reader = csv.reader(unescaped_lines(look, text), **dialect(look))
        line, skip = 1, look.header
        held: Record | None = None  # a broken row waits for the next one: the last is said to be cut off, perhaps
        try:
            for fields in reader:
                if held:
                    yield held
                    held = None
                if skip:
                    skip = False
                elif len(fields) == width:
                    yield line, fields, "", source.unpacked, source.position
                elif not fields:  # a blank line is a row as well, of blank fields
                    yield line, [""] * width, "", source.unpacked, source.position
                else:
                    problem = _ragged(look, line, reader.line_num, fields)
                    held = line, fields, problem, source.unpacked, source.position
                line = reader.line_num + 1
            if held:
                row, fields, problem = held[:3]
                end = " (the last row: the file may be cut off in it)" if len(fields) < width else ""
                yield row, fields, problem + end, source.unpacked, source.position
        except csv.Error as error:
            _raise_unreadable(look, line, reader.line_num, error)


def _ragged(look: Look, line: int, last_line: int, fields: Sequence[str]) -> str:
    """Return what is wrong with a record of too many or too few fields, and the mend."""
    what = f"{len(fields)} fields where the header has {len(look.columns)} ({', '.join(look.columns[:8])})"
    if not look.header:
        what = f"{len(fields)} fields where line 1 has {len(look.columns)}"
    if look.quote and any(
        value.lstrip().startswith(look.quote) and value[0] != look.quote for value in fields if value
    ):
        mend = f"take the space before the {look.quote}, which opens no quoted text there"
    elif len(look.columns) == 1:
        mend = (
            f"put texts that hold {shown(look.delimiter)} in quotes ({look.quote}), or, as there is one column only, "
        )
        mend += "set data.delimiter: auto"
    elif last_line > line:
        mend = f"it goes on to line {last_line}: close its quote where the text ends"
    elif not look.quote:
        mend = f"a text may not hold {shown(look.delimiter)} or a line break while data.quote is none"
    else:
        mend = f"put texts that hold {shown(look.delimiter)} or a line break in quotes ({look.quote})"
    return f"line {line}: {what}: {clipped(fields)}; {mend}"


def _raise_unreadable(look: Look, line: int, last_line: int, error: csv.Error) -> NoReturn:
    """Raise UserError for the record that begins at `line`, in which csv.reader stopped."""
    where = f"{look.path}, line {line}: the record that begins here cannot be read as CSV"
    if "field larger than field limit" in str(error):
        raise UserError(
            f"{where}: a field in it is longer than {LONGEST_FIELD:,} characters; a quote ({look.quote}) that opens in "
            "it is probably never closed"
        ) from None
    found = _excerpt(look, line, last_line)
    if look.quote and not look.escape and "\\" + look.quote in found:
        raise UserError(
            f"{where} (up to line {last_line}): quotes inside quotes are written as \\{look.quote} there "
            f'({found!r}); set data.escape: "\\\\" in params.yaml'
        ) from None
    if "unexpected end of data" in str(error):
        raise UserError(
            f"{where} (unexpected end of data): a quote ({look.quote}) that opens in it is not closed by the end of "
            f"the file, line {last_line} ({found!r}); close it, write a quote inside a quoted text twice, or set "
            "data.quote: none in params.yaml where quotes mean nothing"
        ) from None
    raise UserError(
        f"{where} ({error}, found on line {last_line}): {found!r}; a {look.quote} inside a quoted text must be written "
        "twice, and each opening one must be closed"
    ) from None


def _excerpt(look: Look, line: int, last_line: int) -> str:
    """Return the beginning of line `line`; of `last_line` where that holds an escaped quote."""
    first = ""
    with lines(look) as (_, text):
        for number, content in enumerate(text, start=1):
            if number == line:
                first = content
            if number >= line and look.quote and "\\" + look.quote in content:
                at = content.index("\\" + look.quote)
                return content[max(0, at - 30) : at + 30].strip()
            if number >= min(last_line, line + 1000):
                break
    return first.strip()[:60]


# --- JSON lines


def json_object(line: str) -> dict[str, str] | str:
    """Return the keys of a line's JSON object with their values as text, or what is wrong with the line.

    A string is its text, null is "", anything else stands as it does in the file. Half of a surrogate pair, which is
    no character and cannot be written, becomes U+FFFD and its escape: `�\\ud800`.
    """
    start = line.strip()
    if not start.startswith("{"):
        try:
            json.loads(start)
        except ValueError as error:
            return f"is no JSON ({error})"
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
        return f"has the key {twice!r} twice"
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


def writable(text: str) -> str:
    """Return `text` with each lone surrogate as U+FFFD and its escape, so that it shows, is refused, and is written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", lambda found: f"\ufffd\\u{ord(found[0]):04x}", text)
    return text


def _json_records(look: Look) -> Iterator[Record]:
    columns = look.columns
    known = frozenset(columns)
    with lines(look) as (source, text):
        for number, line in enumerate(text, start=1):
            if not line.strip():
                yield (number, [""] * len(columns), "", source.unpacked, source.position)
                continue
            row = json_object(line)
            if isinstance(row, str):
                raw = line.rstrip("\r\n")
                problem = f"line {number}: {row}: {clipped([raw])}; write one JSON object a line, each key once"
                yield (number, [raw], problem, source.unpacked, source.position)
                continue
            if not known.issuperset(row):
                raise RuntimeError(f"{look.path} changed while it was read: line {number} has a new key")
            values = [row.get(name, "") for name in columns]
            yield (number, values, "", source.unpacked, source.position)


# --- the text


def text_of(columns: Sequence[str], wanted: params.Validate) -> Callable[[list[str]], str]:
    """Return the function that gives a record's text: its column, or the template filled in.

    A text from a template is "" when any column it uses is blank. Raises UserError for a column that is not there.
    """
    if wanted.template == "none":
        at = _position(columns, wanted.column, "validate.column")
        return lambda fields: fields[at]
    parts = _parts(wanted.template)
    positions = [_position(columns, name, "validate.template") for _, name in parts if name is not None]
    if not positions:
        raise UserError(
            f"params.yaml: validate.template: found {wanted.template!r}, which names no column; write one in braces, "
            f"such as {{{columns[0]}}}, or none"
        )
    pieces = [literal for literal, name in parts if name is not None]
    end = "".join(literal for literal, name in parts if name is None)

    def rendered(fields: list[str]) -> str:
        values = [fields[position] for position in positions]
        if not all(value.strip() for value in values):
            return ""
        return "".join(piece + value for piece, value in zip(pieces, values, strict=True)) + end

    return rendered


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Return the template as pairs of a literal and the column after it, None at the end."""
    parts: list[tuple[str, str | None]] = []
    literal = ""
    try:
        for before, name, spec, conversion in string.Formatter().parse(template):
            literal += before
            if name is not None:
                # A colon or an exclamation mark belongs to the name here: nothing is formatted.
                full = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                parts.append((literal, full))
                literal = ""
    except ValueError as error:
        raise UserError(
            f"params.yaml: validate.template: found {template!r} ({error}); write columns in braces, "
            'such as "{question}\\n{answer}", and a brace itself twice'
        ) from None
    return [*parts, (literal, None)]


def _position(columns: Sequence[str], name: str, key: str) -> int:
    if name not in columns:
        raise UserError(f"params.yaml: {key}: there is no column {name!r}; there are {clipped(columns, most=50)}")
    return columns.index(name)


def check_columns(look: Look, wanted: params.Validate) -> None:
    """Raise UserError where the file lacks a column that `wanted` uses: what each holds, and what would serve."""
    template = wanted.template != "none"
    used = [name for _, name in _parts(wanted.template) if name is not None] if template else [wanted.column]
    missing = next((name for name in used if name not in look.columns), None)
    if missing is None:
        return
    kinds = {name: _kind(values) for name, values in _by_column(look)}
    texts = [name for name, kind in kinds.items() if kind.startswith("text")]
    longest_first = sorted(texts, key=lambda name: -int(kinds[name].split()[1]))
    listed = ", ".join(f"{name!r} ({kind})" for name, kind in list(kinds.items())[:50])
    near = next((name for name in look.columns if name.strip().casefold() == missing.strip().casefold()), None)
    if look.header and any(missing in row for row in look.sample):
        mend = f"a later row holds {missing!r}: if that one is the header, delete the lines before it"
    elif near is not None:
        mend = f"write {near!r} there, exactly as the header does"
    elif len(texts) == 1:
        mend = f"set validate.column: {json.dumps(texts[0], ensure_ascii=False)} in params.yaml"
    elif texts:
        joined = json.dumps("\n".join(f"{{{name}}}" for name in texts[:3]), ensure_ascii=False)
        mend = f"set validate.column in params.yaml to one of {clipped(longest_first)}, or validate.template: {joined}"
    else:
        joined = json.dumps(" ".join(f"{{{name}}}" for name in look.columns[:3]), ensure_ascii=False)
        mend = (
            "none of them holds text; add a column of texts, or make a text of several with validate.template in "
            f"params.yaml, such as {joined}"
        )
    if look.header and any(_names_no_column(name) for name in look.columns):
        mend += "; if line 1 is a row, set data.header: none"
    key = "validate.template" if template else "validate.column"
    line = ", line 1" if look.header else ""
    has = "header has" if look.header else "columns are"
    raise UserError(f"{look.path}{line}: there is no column {missing!r} ({key}); the {has} {listed}; {mend}")


def _by_column(look: Look) -> Iterator[tuple[str, list[str]]]:
    for position, name in enumerate(look.columns):
        yield name, [row[position] for row in look.sample if position < len(row)]


_NUMBER = re.compile(r"[-+]?[\d.,\s]*\d(e[-+]?\d+)?%?", re.IGNORECASE)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?")


def _kind(values: Sequence[str]) -> str:
    """Return what a column holds, judged by some of its fields."""
    given = [value.strip() for value in values if value.strip()]
    if not given:
        return "blank"
    if all(_DATE.fullmatch(value) for value in given):
        return "dates"
    if all(_NUMBER.fullmatch(value) for value in given):
        return "numbers"
    length = sum(map(len, given)) / len(given)
    if length >= 15 and sum(" " in value or not value.isascii() for value in given) > len(given) / 2:
        return f"text, {length:.0f} characters on average"
    return "short codes or words"


def _names_no_column(name: str) -> bool:
    """Return whether `name` looks like a field of a row rather than a column's name."""
    return len(name.split()) > 8 or not re.search(r"[^\W\d]", name)
