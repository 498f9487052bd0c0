"""The text that a row gives, and whether the file has the columns that the settings name."""

import json
import re
import shlex
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.file_format import FileFormat, SettingsError, preview, written


def text_builder(columns: Sequence[str], wanted: params.Validate) -> Callable[[list[str]], str]:
    """Return a function from a record's fields to its text: one column, or the template filled in.

    A text from a template is "" when any column it uses is blank. Line ends stay as they are in the file; callers
    apply `normalize_newlines`. Raises UserError for a column that does not exist.
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


def normalize_newlines(text: str) -> str:
    """Return `text` with LF for CR LF and CR, so that a model does not learn the line ends of Windows exports."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


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
        raise UserError(f"params.yaml: {key}: there is no column {name!r}; there are {preview(columns, most=50)}")
    return columns.index(name)


def check_columns(look: FileFormat, wanted: params.Validate) -> None:
    """Raise UserError where the file lacks a column that `wanted` uses: what each holds, and what would serve.

    So too where the category's column is the texts' own. A line for each problem.
    """
    problems = [problem for problem in (text_problem(look, wanted), category_problem(look, wanted)) if problem]
    if problems:
        settings = {key: value for problem in problems for key, value in problem.settings.items()}
        raise SettingsError("\n".join(map(str, problems)), settings=settings)


def text_columns(wanted: params.Validate) -> list[str]:
    """Return the columns that make a text."""
    if wanted.template == "none":
        return [wanted.column]
    return [name for _, name in _parts(wanted.template) if name is not None]


def text_problem(look: FileFormat, wanted: params.Validate) -> SettingsError | None:
    """Return the error for a column of the texts that is not there, None where all are."""
    template = wanted.template != "none"
    missing = next((name for name in text_columns(wanted) if name not in look.columns), None)
    if missing is None:
        return None
    kinds = kinds_of(look)
    longest_first = longest_texts(kinds)
    texts = [name for name in kinds if name in longest_first]
    settings: dict[str, str] = {}
    nested = [name for name, kind in kinds.items() if kind.startswith("JSON")]
    near = near_name(missing, look)
    if look.header and near is None and _is_a_later_row(look, missing):
        mend = f"a later row holds {missing!r}: if that one is the header, delete the lines before it"
    elif near is not None:
        settings = {} if template else {"validate.column": near}
        mend = f"write {near!r} there, exactly as the header does"
    elif look.header and look.format in ("csv", "tsv") and not is_header(look.columns, look.sample):
        return SettingsError(
            f"{look.path}, line {look.header_line}: looks like a row, not like a header ({preview(look.columns)})",
            "write a line with the columns' names above it",
        )
    elif len(texts) == 1 and not template:
        settings = {"validate.column": texts[0]}
        mend = f"set {written(settings)} in params.yaml"
    elif texts:
        joined = json.dumps("\n".join(f"{{{name}}}" for name in texts[:3]), ensure_ascii=False)
        mend = f"set validate.column in params.yaml to one of {preview(longest_first)}, or validate.template: {joined}"
    elif nested:
        mend = _unnested(look, nested[0])
    else:
        joined = json.dumps(" ".join(f"{{{name}}}" for name in look.columns[:3]), ensure_ascii=False)
        mend = (
            "none of them holds text; add a column of texts, or make a text of several with validate.template in "
            f"params.yaml, such as {joined}"
        )
    key = "validate.template" if template else "validate.column"
    return SettingsError(_is_not_there(missing, key, look, kinds), mend, settings)


def _is_a_later_row(look: FileFormat, name: str) -> bool:
    """Return whether a later row holds `name` and the rows from there on have as many fields as it."""
    at = next((at for at, row in enumerate(look.sample) if name in row), None)
    if at is None:
        return False
    rows = look.sample[at:]
    return sum(len(row) == len(rows[0]) for row in rows) >= 0.9 * len(rows)


def category_problem(look: FileFormat, wanted: params.Validate) -> SettingsError | None:
    """Return the error for a category's column that is not there, or is the texts' own; None where all is well."""
    name = wanted.category
    if name == "none":
        return None
    if {name} == set(text_columns(wanted)):
        return SettingsError(
            f"params.yaml: validate.category: found {name!r}, the column that holds the texts",
            "name another one, whose values group the rows, or none",
        )
    if name in look.columns:
        return None
    near = near_name(name, look)
    settings: dict[str, str] = {}
    if near is not None:
        settings, mend = {"validate.category": near}, f"write {near!r} there, exactly as the header does"
    elif look.header and look.format in ("csv", "tsv") and not is_header(look.columns, look.sample):
        mend = f"if line 1 is a row, they are column_1 to column_{len(look.columns)} with data.header: none: name one"
    else:
        mend = "set validate.category in params.yaml to one whose values group the rows, or none"
    return SettingsError(_is_not_there(name, "validate.category", look, kinds_of(look)), mend, settings)


def near_name(missing: str, look: FileFormat) -> str | None:
    """Return the column that is called so but for case and white space."""
    return next((name for name in look.columns if name.strip().casefold() == missing.strip().casefold()), None)


def _is_not_there(missing: str, key: str, look: FileFormat, kinds: dict[str, str]) -> str:
    """Return the beginning of a sentence: that the column `key` names is not there, and which are."""
    listed = ", ".join(f"{name!r} ({kind})" for name, kind in list(kinds.items())[:50])
    line = f", line {look.header_line}" if look.header else ""
    has = "header has" if look.header else "columns are"
    return f"{look.path}{line}: there is no column {missing!r} ({key}); the {has} {listed}"


def is_header(first: Sequence[str], rows: Sequence[Sequence[str]], names: Collection[str] = ()) -> bool:
    """Return whether `first`, the record above `rows`, names the columns, as it does where it holds all of `names`.

    A row is told by its prose, by a number where a name should be, and by values that come again below it.
    """
    if names and set(names) <= set(first):
        return True
    given = [name for name in first if name.strip()]
    if not given or len(set(first)) < len(first):
        return False
    if given == [str(number) for number in range(len(given))]:  # as pandas calls columns that have no names
        return True
    if any(map(_names_no_column, given)):
        return False
    rows = [row for row in rows if tuple(row) != tuple(first)]  # a header may come again, as in joined files
    return not any(_is_a_value(name, [row[at] for row in rows if at < len(row)]) for at, name in enumerate(first))


def _is_a_value(name: str, values: Sequence[str]) -> bool:
    """Return whether `name` looks like one of the `values` below it: it comes again, or is prose as they are."""
    if name.strip() and name in values:
        return True
    words = len(name.split())
    return words > 3 and kind_of(values).startswith("text") and 2 * words >= min(len(value.split()) for value in values)


def longest_texts(kinds: Mapping[str, str]) -> list[str]:
    """Return the columns of texts, those of the longest ones first; `kinds` is what `kinds_of` returns."""
    texts = [name for name, kind in kinds.items() if kind.startswith("text")]
    return sorted(texts, key=lambda name: -int(kinds[name].split()[1]))


def kinds_of(look: FileFormat) -> dict[str, str]:
    """Return what each column holds, by its first rows."""
    return {name: kind_of(values) for name, values in _by_column(look)}


def _unnested(look: FileFormat, name: str) -> str:
    """Return how to get texts out of the JSON that the column `name` holds."""
    wanted = f"{name!r} holds {kind_of(dict(_by_column(look))[name])}, not texts; "
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


def _by_column(look: FileFormat) -> Iterator[tuple[str, list[str]]]:
    for position, name in enumerate(look.columns):
        yield name, [row[position] for row in look.sample if position < len(row)]


_OPENING = "{["  # of JSON objects and lists
_NUMBER = re.compile(r"[-+]?[\d.,\s]*\d(e[-+]?\d+)?%?", re.IGNORECASE)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?")


def kind_of(values: Sequence[str]) -> str:
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
