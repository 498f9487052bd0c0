"""The text of a record: one column, or a template filled in from several."""

import string
from collections.abc import Callable, Sequence

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.file_format import preview


def text_builder(columns: Sequence[str], config: params.Validate) -> Callable[[list[str]], str]:
    """Return a function from a record's fields to its text: one column, the template filled in, or the task's columns.

    A text of several columns is "" when any column it uses is blank. Line ends stay as they are in the file; callers
    apply `normalize_newlines`. Raises UserError for a column that does not exist.
    """
    if config.columns.texts:
        return _joined([_position(columns, name, config.columns.key_of(name)) for name in config.columns.texts])
    if config.template == "none":
        at = _position(columns, config.column, "validate.column")
        return lambda fields: fields[at]
    parts = _parse_template(config.template)
    positions = [_position(columns, name, "validate.template") for _, name in parts if name is not None]
    if not positions:
        raise UserError(
            f"params.yaml: validate.template: found {config.template!r}, which names no column; write one in braces, "
            f"such as {{{columns[0]}}}, or none"
        )
    literals = [literal for literal, name in parts if name is not None]
    end = "".join(literal for literal, name in parts if name is None)

    def render(fields: list[str]) -> str:
        values = [fields[position] for position in positions]
        if not all(value.strip() for value in values):
            return ""
        return "".join(literal + value for literal, value in zip(literals, values, strict=True)) + end

    return render


def _joined(positions: Sequence[int]) -> Callable[[list[str]], str]:
    """Return a function from a record's fields to those at `positions`, a line each; "" where one is blank."""

    def join(fields: list[str]) -> str:
        values = [fields[position] for position in positions]
        return "\n".join(values) if all(value.strip() for value in values) else ""

    return join


def text_columns(config: params.Validate) -> list[str]:
    """Return the columns that make a text."""
    if config.columns.texts:
        return list(config.columns.texts)
    if config.template == "none":
        return [config.column]
    return [name for _, name in _parse_template(config.template) if name is not None]


def normalize_newlines(text: str) -> str:
    """Return `text` with LF for CR LF and CR, so that a model does not learn the line ends of Windows exports."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _parse_template(template: str) -> list[tuple[str, str | None]]:
    """Return the template as pairs of a literal and the column after it; the last pair has None."""
    if "\\n" in template:
        raise UserError(
            f"params.yaml: validate.template: found a backslash and an n ({template}) instead of a line break; "
            "write the template in double quotes"
        )
    parts: list[tuple[str, str | None]] = []
    literal = ""
    try:
        for before, name, spec, conversion in string.Formatter().parse(template):
            literal += before
            if name is not None:
                # Nothing is formatted here: a colon or an exclamation mark belongs to the column's name.
                column = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                parts.append((literal, column))
                literal = ""
    except ValueError as error:
        raise UserError(
            f"params.yaml: validate.template: found {template!r} ({error}); write columns in braces, "
            'such as "{question}\\n{answer}", and double a literal brace'
        ) from None
    return [*parts, (literal, None)]


def _position(columns: Sequence[str], name: str, key: str) -> int:
    if name not in columns:
        raise UserError(f"params.yaml: {key}: there is no column {name!r}; there are {preview(columns, most=50)}")
    return columns.index(name)
