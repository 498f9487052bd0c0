"""Records of the corpus, in chunks, with the line at which each begins; and the text that a record gives."""

import csv
import json
import re
import shlex
import string
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, NoReturn

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.look import (
    DELIMITERS,
    LONGEST_FIELD,
    NO_DELIMITER,
    Look,
    SettingsError,
    clipped,
    dialect,
    fields_a_row,
    lines,
    sample_lines,
    separated_by,
    shown,
    unescaped_lines,
    written,
)

ROWS = 50_000  # a chunk's records at most
CELLS = 1_000_000  # and its fields, each of which is an object of 50 bytes and more
BYTES = 12 << 20  # and its bytes, roughly: a few chunks are in memory at once; a longer record is one of its own
_LISTED = 10  # broken rows that an error shows
_NEARLY_ALL = 0.8  # of the rows; where so many are broken, what is wrong is how the file is read
_END_OF_DOS = "\x1a"


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
    blank_lines: int = 0  # before its last record or, in the last chunk, behind it; see `read`


class Problem(NamedTuple):
    """Why a record does not fit the columns."""

    what: str  # with its line
    mend: str


@dataclass
class Blank:
    """How many lines were no rows so far."""

    lines: int = 0


# The row, its fields as they were read, why they do not fit the columns (None where they do), and the bytes read so
# far: of the unpacked file and of the file as it lies there.
Record = tuple[int, list[str], Problem | None, int, int]


def read(look: Look, wanted: params.Data) -> Iterator[Chunk]:
    """Yield the records of the corpus; each is in one chunk, once.

    A line of white space alone is no record, and neither are rows of nothing but delimiters at the end of the file,
    which are Excel's; `Chunk.blank_lines` counts both.

    Raises UserError: at once for what makes all that follows unsure (an unclosed quote, bytes outside the encoding, a
    NUL, damaged packing); after the last record, with `broken_rows: stop`, for the rows that do not fit the columns.
    """
    blank = Blank()
    if look.format == "parquet":
        from pipeline.intake import columnar

        records = columnar.records(look)
    else:
        records = _json_records(look, blank) if look.format == "jsonl" else _csv_records(look, blank)
    problems: list[Problem] = []
    broken = count = start = before = told = read_before = 0
    chunk = Chunk()
    nothing = [""] * len(look.columns)
    most = max(1, min(ROWS, CELLS // len(look.columns)))
    for row, fields, problem, unpacked, position in records:
        # A full chunk waits for the next record, so that blank lines at the end have a chunk to be counted in.
        if chunk.rows and (len(chunk.rows) >= most or before - start >= BYTES):
            yield replace(chunk, bytes_read=read_before, blank_lines=blank.lines - told)
            chunk, start, told = Chunk(), before, blank.lines
        before, read_before = unpacked, position
        count += 1
        if problem:
            broken += 1
            if wanted.broken_rows == "stop":
                if broken <= _LISTED:
                    problems.append(problem)
                continue
            chunk.broken[len(chunk.rows)] = fields
            fields = nothing.copy()
        if broken and wanted.broken_rows == "stop":
            continue  # only counting is left: nobody is to work on a file that will be refused
        chunk.rows.append(row)
        chunk.fields.append(fields)
    if problems:
        raise UserError(_summary(look, problems, broken, count))
    if not count:
        raise UserError(f"{look.path}: there is no row below the header; expected one for each text: add them")
    if chunk.rows:
        yield replace(chunk, bytes_read=look.path.stat().st_size, blank_lines=blank.lines - told)


def _summary(look: Look, problems: Sequence[Problem], broken: int, count: int) -> str:
    """Return the error for broken rows: a sentence for one, a list for several, each mend said once."""
    cause, go_on = "", ", or set data.broken_rows: quarantine in params.yaml to go on without such rows"
    if broken >= _NEARLY_ALL * count:
        cause, go_on = _cause(look), ""
    if broken == 1:
        return f"{look.path}, {problems[0].what}; {cause or problems[0].mend}{go_on}"
    by_mend: dict[str, list[str]] = {}
    for problem in problems:
        by_mend.setdefault(cause or problem.mend, []).append(problem.what)
    mend = "mend them" if len(by_mend) > 1 else next(iter(by_mend))
    listed = ""
    for group, whats in by_mend.items():
        listed += "".join(f"\n  {what}" for what in whats) + (f"\n    {group}" if len(by_mend) > 1 else "")
    more = f"\n  and {broken - len(problems)} more" if broken > len(problems) else ""
    rows = f"none of the {count} rows fits" if broken == count else f"{broken} of {count} rows do not fit"
    return f"{look.path}: {rows} the columns; {mend}{go_on}:{listed}{more}"


def _cause(look: Look) -> str:
    """Return the mend for a file nearly all rows of which are broken: settings with which they fit, "" for none."""
    if look.format == "jsonl":
        return ""
    sample, whole = sample_lines(look)
    width = len(look.columns)
    trials = [(replace(look, quote=mark), {"data.quote": mark or "none"}) for mark in ("'", '"', "")]
    trials.append((replace(look, escape="\\"), {"data.escape": "\\"}))
    trials += [(replace(look, delimiter=mark), separated_by(mark, look)) for mark in DELIMITERS]
    for tried, settings in trials:
        fields = fields_a_row(tried, sample, whole, share=0.6) if tried != look else 0
        if fields > 1 and (fields == width or tried.delimiter != look.delimiter):
            return f"set {written(settings)} in params.yaml, with which most rows have {fields} fields"
    return ""


# --- CSV and TSV


def _csv_records(look: Look, blank: Blank) -> Iterator[Record]:
    width = len(look.columns)
    last_line = [""]
    empty = array("q"), array("q")  # lines, and their numbers of fields: rows of delimiters that may be the last ones
    with lines(look) as (source, text):
        reader = csv.reader(unescaped_lines(look, _remembered(text, last_line)), **dialect(look))
        next_line, skip = 1, look.header
        held: Record | None = None  # a broken row waits for the next one: the last is said to be cut off, perhaps

        def waiting() -> Iterator[Record]:
            if held:
                yield held
            for at, count in zip(*empty, strict=True):
                fields = [""] * count
                problem = None if count == width else _ragged(look, at, at, fields)
                yield at, fields, problem, source.unpacked, source.position

        try:
            for fields in reader:
                line, next_line = next_line, reader.line_num + 1
                if skip:
                    skip = False
                    continue
                if not (fields and fields[-1] and not fields[-1].isspace()) and reader.line_num == line:
                    if len(fields) < 2 and not last_line[0].strip():
                        blank.lines += 1
                        continue
                    if not any(fields) and not last_line[0].replace(look.delimiter, "").strip("\r\n"):
                        empty[0].append(line)
                        empty[1].append(len(fields))
                        continue
                if held or empty[0]:
                    yield from waiting()
                    held, empty = None, (array("q"), array("q"))
                if len(fields) == width:
                    yield line, fields, None, source.unpacked, source.position
                else:
                    problem = _ragged(look, line, reader.line_num, fields)
                    held = line, fields, problem, source.unpacked, source.position
            blank.lines += len(empty[0])
            if held:
                line, fields, why = held[:3]
                if why and len(fields) < width and fields != [_END_OF_DOS]:
                    why = why._replace(what=f"{why.what} (the last row: the file may be cut off in it)")
                yield line, fields, why, source.unpacked, source.position
        except csv.Error as error:
            _raise_unreadable(look, next_line, reader.line_num, error)


def _remembered(text: Iterator[str], last: list[str]) -> Iterator[str]:
    """Return `text`, with the line that was read last in `last`."""
    for line in text:
        last[0] = line
        yield line


def _ragged(look: Look, line: int, last_line: int, fields: Sequence[str]) -> Problem:
    """Return what is wrong with a record of too many or too few fields, and the mend."""
    if fields == [_END_OF_DOS]:
        return Problem(f"line {line}: holds only the mark with which DOS ends a file (^Z, 0x1a)", "remove it")
    what = f"{len(fields)} fields where the header has {len(look.columns)} ({', '.join(look.columns[:8])})"
    if not look.header:
        what = f"{len(fields)} fields where line 1 has {len(look.columns)}"
    what = f"line {line}: {what}: {clipped(fields)}"
    delimiter = shown(look.delimiter)
    if look.quote and any(
        value.lstrip().startswith(look.quote) and value[0] != look.quote for value in fields if value
    ):
        return Problem(what, f"take the space before the {look.quote}, which opens no quoted text there")
    if len(look.columns) == 1 and look.format == "csv":
        quotes = f"put texts that hold {delimiter} in quotes ({look.quote}), or, " if look.quote else ""
        return Problem(what, f"{quotes}as there is one column only, set data.delimiter: auto")
    if look.header and len(fields) == len(look.columns) + 1 and not fields[-1]:
        return Problem(what, f"end the header with {delimiter} as well, or take it from the end of the rows")
    if last_line > line:
        return Problem(f"{what} (it goes on to line {last_line})", "close its quote where the text ends")
    if not look.quote:
        quotes = "put texts that hold {} or a line break in quotes (\") and set data.quote: '\"'"
        return Problem(what, quotes.format(delimiter))
    return Problem(what, f"put texts that hold {delimiter} or a line break in quotes ({look.quote})")


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
    settings = _without_quotes(look)
    bare = f"; or set {written(settings)} in params.yaml, since no text seems to be quoted" if settings else ""
    raise UserError(
        f"{where} ({error}, found on line {last_line}): {found!r}; a {look.quote} inside a quoted text must be written "
        f"twice, and each opening one must be closed{bare}"
    ) from None


def _without_quotes(look: Look) -> dict[str, str]:
    """Return the settings with which quotes mean nothing; none where a text is quoted or rows would not fit then."""
    sample, whole = sample_lines(look)
    quote, delimiter = re.escape(look.quote), re.escape(look.delimiter)
    quoted = f"(?:^|{delimiter}){quote}(?:[^{quote}]|{quote}{quote})*{quote}(?:{delimiter}|\\r?$)"
    if re.search(quoted, "".join(sample), re.MULTILINE):
        return {}
    settings = {"data.quote": "none"}
    if len(look.columns) == 1 and look.format == "csv" and look.delimiter != NO_DELIMITER:
        return settings | {"data.delimiter": "auto"}
    fits = fields_a_row(replace(look, quote=""), sample, whole) == len(look.columns)
    return settings if fits else {}


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
    no character and cannot be written, becomes U+FFFD and its escape: `�\\ud800`; and so does a NUL.
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


def _json_records(look: Look, blank: Blank) -> Iterator[Record]:
    columns = look.columns
    known = frozenset(columns)
    with lines(look) as (source, text):
        for number, line in enumerate(text, start=1):
            if not line.strip():
                blank.lines += 1
                continue
            row = json_object(line)
            if isinstance(row, str):
                raw = line.rstrip("\r\n")
                problem = Problem(
                    f"line {number}: {row}: {clipped([raw])}", "write one JSON object a line, each key once"
                )
                if raw == _END_OF_DOS:
                    problem = _ragged(look, number, number, [raw])
                yield (number, [raw], problem, source.unpacked, source.position)
                continue
            if not known.issuperset(row):
                raise RuntimeError(f"{look.path} changed while it was read: line {number} has a new key")
            values = [row.get(name, "") for name in columns]
            yield (number, values, None, source.unpacked, source.position)


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
    if "\\n" in template:
        raise UserError(
            f"params.yaml: validate.template: found a backslash and an n ({template}) where a line break is meant; "
            "write the template in double quotes"
        )
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
    """Raise UserError where the file lacks a column that `wanted` uses: what each holds, and what would serve.

    So too where the category's column is the texts' own. A line for each problem.
    """
    problems = []
    for check in (_check_text, _check_category):
        try:
            check(look, wanted)
        except SettingsError as error:
            problems.append(error)
    if problems:
        settings = {key: value for problem in problems for key, value in problem.settings.items()}
        raise SettingsError("\n".join(map(str, problems)), settings)


def _text_columns(wanted: params.Validate) -> list[str]:
    """Return the columns that make a text."""
    if wanted.template == "none":
        return [wanted.column]
    return [name for _, name in _parts(wanted.template) if name is not None]


def _check_text(look: Look, wanted: params.Validate) -> None:
    template = wanted.template != "none"
    missing = next((name for name in _text_columns(wanted) if name not in look.columns), None)
    if missing is None:
        return
    kinds = {name: _kind(values) for name, values in _by_column(look)}
    longest_first = _longest_first(kinds)
    texts = [name for name in kinds if name in longest_first]
    settings = {} if template else headerless(look)
    nested = [name for name, kind in kinds.items() if kind.startswith("JSON")]
    near = _near(missing, look)
    if look.header and any(missing in row for row in look.sample):
        settings = {}
        mend = f"a later row holds {missing!r}: if that one is the header, delete the lines before it"
    elif near is not None:
        settings = {} if template else {"validate.column": near}
        mend = f"write {near!r} there, exactly as the header does"
    elif settings:
        raise SettingsError(
            f"{look.path}, line 1: looks like a row, not like a header ({clipped(look.columns)}); set "
            f"{written(settings)} in params.yaml, or write a line with the columns' names above it",
            settings,
        )
    elif len(texts) == 1 and not template:
        settings = {"validate.column": texts[0]}
        mend = f"set {written(settings)} in params.yaml"
    elif texts:
        joined = json.dumps("\n".join(f"{{{name}}}" for name in texts[:3]), ensure_ascii=False)
        mend = f"set validate.column in params.yaml to one of {clipped(longest_first)}, or validate.template: {joined}"
    elif nested:
        mend = _unnested(look, nested[0])
    else:
        joined = json.dumps(" ".join(f"{{{name}}}" for name in look.columns[:3]), ensure_ascii=False)
        mend = (
            "none of them holds text; add a column of texts, or make a text of several with validate.template in "
            f"params.yaml, such as {joined}"
        )
    if look.header and look.format in ("csv", "tsv") and any(map(_names_no_column, look.columns)):
        mend += "; if line 1 is a row, set data.header: none"
    key = "validate.template" if template else "validate.column"
    raise SettingsError(f"{_is_not_there(missing, key, look, kinds)}; {mend}", settings)


def _check_category(look: Look, wanted: params.Validate) -> None:
    name = wanted.category
    if name == "none":
        return
    if {name} == set(_text_columns(wanted)):
        raise SettingsError(
            f"params.yaml: validate.category: found {name!r}, the column that holds the texts; name another one, whose "
            "values group the rows, or none",
            {},
        )
    if name in look.columns:
        return
    kinds = {name: _kind(values) for name, values in _by_column(look)}
    near = _near(name, look)
    settings: dict[str, str] = {}
    if near is not None:
        settings, mend = {"validate.category": near}, f"write {near!r} there, exactly as the header does"
    elif headerless(look):
        mend = f"if line 1 is a row, they are column_1 to column_{len(look.columns)} with data.header: none: name one"
    else:
        mend = "set validate.category in params.yaml to one whose values group the rows, or none"
    raise SettingsError(f"{_is_not_there(name, 'validate.category', look, kinds)}; {mend}", settings)


def _near(missing: str, look: Look) -> str | None:
    """Return the column that is called so but for case and white space."""
    return next((name for name in look.columns if name.strip().casefold() == missing.strip().casefold()), None)


def _is_not_there(missing: str, key: str, look: Look, kinds: dict[str, str]) -> str:
    """Return the beginning of a sentence: that the column `key` names is not there, and which are."""
    listed = ", ".join(f"{name!r} ({kind})" for name, kind in list(kinds.items())[:50])
    line = ", line 1" if look.header else ""
    has = "header has" if look.header else "columns are"
    return f"{look.path}{line}: there is no column {missing!r} ({key}); the {has} {listed}"


def headerless(look: Look) -> dict[str, str]:
    """Return the settings for a file whose first line is a row, with the column of the longest texts, else none."""
    names = [name for name in look.columns if name.strip()]
    numbered = names == [str(number) for number in range(len(names))]  # as pandas calls columns that have no names
    if not look.header or look.format not in ("csv", "tsv") or numbered or not any(map(_names_no_column, names)):
        return {}
    settings = {"data.header": "none"}
    rows = [look.columns, *look.sample]
    columns = tuple(f"column_{number}" for number in range(1, len(look.columns) + 1))
    ragged = sum(len(row) != len(columns) for row in rows) > 0.1 * len(rows)
    if ragged and look.format == "csv" and not any("\t" in value for row in rows for value in row):
        return settings | {"data.delimiter": "\t", "validate.column": columns[0]}  # lines of prose, each a text
    kinds = {name: _kind(values) for name, values in _by_column(replace(look, columns=columns, sample=tuple(rows)))}
    texts = _longest_first(kinds)
    return settings | {"validate.column": texts[0]} if texts else {}


def _longest_first(kinds: dict[str, str]) -> list[str]:
    """Return the columns of texts, those of the longest ones first."""
    texts = [name for name, kind in kinds.items() if kind.startswith("text")]
    return sorted(texts, key=lambda name: -int(kinds[name].split()[1]))


def _unnested(look: Look, name: str) -> str:
    """Return how to get texts out of the JSON that the column `name` holds."""
    wanted = f"{name!r} holds {_kind(dict(_by_column(look))[name])}, not texts; "
    values = [json.loads(value) for value in dict(_by_column(look))[name] if value.strip()]
    inner = [item for value in values for item in (value if isinstance(value, list) else [value])]
    lengths: dict[str, int] = {}
    for key, text in ((key, text) for item in inner if isinstance(item, dict) for key, text in item.items()):
        lengths[key] = lengths.get(key, 0) + (len(text) if isinstance(text, str) else 0)
    column = max(lengths, key=lambda key: lengths[key], default="")
    if look.format != "jsonl" or not lengths.get(column):
        return f"{wanted}write the texts in them into a column of their own"
    path = f".{name}" if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else f".[{json.dumps(name)}]"
    path += "[]" * isinstance(values[0], list)
    return (
        f"{wanted}make a row of each object in them with jq -c {shlex.quote(path)} FILE > NEW.jsonl, then set "
        f"{written({'validate.column': column})} in params.yaml"
    )


def _by_column(look: Look) -> Iterator[tuple[str, list[str]]]:
    for position, name in enumerate(look.columns):
        yield name, [row[position] for row in look.sample if position < len(row)]


_OPENING = "{["  # of JSON objects and lists
_NUMBER = re.compile(r"[-+]?[\d.,\s]*\d(e[-+]?\d+)?%?", re.IGNORECASE)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?")


def _kind(values: Sequence[str]) -> str:
    """Return what a column holds, judged by some of its fields."""
    given = [value.strip() for value in values if value.strip()]
    if not given:
        return "blank"
    if all(value[0] in _OPENING and _is_json(value) for value in given):
        return "JSON objects" if given[0][0] == _OPENING[0] else "JSON lists"
    if all(_DATE.fullmatch(value) for value in given):
        return "dates"
    if all(_NUMBER.fullmatch(value) for value in given):
        return "numbers"
    length = sum(map(len, given)) / len(given)
    if length >= 15 and sum(" " in value or not value.isascii() for value in given) > len(given) / 2:
        return f"text, {length:.0f} characters on average"
    return "short codes or words"


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def _names_no_column(name: str) -> bool:
    """Return whether `name` looks like a field of a row rather than a column's name, which can be a question."""
    words, end = len(name.split()), name.strip().rstrip("\"'”»")[-1:]
    prose = (words > 8 and end not in ("?", ":")) or (words > 3 and end in (".", "!", "…"))
    return prose or bool(name.strip() and not re.search(r"[^\W\d]", name))
