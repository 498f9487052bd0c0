"""Whether the file has the columns that the settings name, and which settings would do if it does not."""

import json
import re
import shlex

from pipeline import params
from pipeline.intake.column_kinds import column_kinds, is_header, kind_of, longest_texts, sampled_columns
from pipeline.intake.file_format import FileFormat, SettingsError, format_settings, preview
from pipeline.intake.text_builder import text_columns


def check_columns(file_format: FileFormat, config: params.Validate) -> None:
    """Raise UserError if a column that `config` names does not exist, or the category is the text's own column.

    The message has a line for each problem, with what each column holds and which one would do.
    """
    possible = (text_problem(file_format, config), category_problem(file_format, config))
    problems = [problem for problem in possible if problem] + task_problems(file_format, config)
    if problems:
        settings = {key: value for problem in problems for key, value in problem.settings.items()}
        raise SettingsError("\n".join(map(str, problems)), settings=settings)


def text_problem(file_format: FileFormat, config: params.Validate) -> SettingsError | None:
    """Return the error for a text column that does not exist, or None; the task's columns have `task_problems`."""
    if config.columns.texts:
        return None
    missing = next((name for name in text_columns(config) if name not in file_format.columns), None)
    if missing is None:
        return None
    if near_name(missing, file_format) is None and not _is_in_a_later_row(file_format, missing):
        line = file_format.header_line
        if _header_looks_like_a_row(file_format):
            return SettingsError(
                f"{file_format.path}, line {line}: looks like a row, not like a header "
                f"({preview(file_format.columns)})",
                "write a line with the columns' names above it",
            )
    kinds = column_kinds(file_format)
    template = config.template != "none"
    fix, settings = _fix_for_text(file_format, missing, kinds, template=template)
    key = "validate.template" if template else "validate.column"
    return SettingsError(_no_such_column(missing, key, file_format, kinds), fix, settings)


def _fix_for_text(
    file_format: FileFormat, missing: str, kinds: dict[str, str], *, template: bool
) -> tuple[str, dict[str, str]]:
    """Return what to do about the missing text column, and the settings that do it."""
    near = near_name(missing, file_format)
    if near is None and _is_in_a_later_row(file_format, missing):
        return f"a later row holds {missing!r}: if that one is the header, delete the lines before it", {}
    if near is not None:
        return f"write {near!r} there, exactly as the header does", {} if template else {"validate.column": near}
    longest_first = longest_texts(kinds)
    texts = [name for name in kinds if name in longest_first]
    if len(texts) == 1 and not template:
        settings = {"validate.column": texts[0]}
        return f"set {format_settings(settings)} in params.yaml", settings
    if texts:
        example = json.dumps("\n".join(f"{{{name}}}" for name in texts[:3]), ensure_ascii=False)
        columns = preview(longest_first)
        return f"set validate.column in params.yaml to one of {columns}, or validate.template: {example}", {}
    nested = next((name for name, kind in kinds.items() if kind.startswith("JSON")), None)
    if nested is not None:
        return _fix_for_nested(file_format, nested), {}
    example = json.dumps(" ".join(f"{{{name}}}" for name in file_format.columns[:3]), ensure_ascii=False)
    return (
        "none of them holds text; add a column of texts, or make a text of several with validate.template in "
        f"params.yaml, such as {example}"
    ), {}


def category_problem(file_format: FileFormat, config: params.Validate) -> SettingsError | None:
    """Return the error for a category column that does not exist or is the text's own column, or None."""
    name = config.category
    if name == "none":
        return None
    if {name} == set(text_columns(config)):
        return SettingsError(
            f"params.yaml: validate.category: found {name!r}, the column that holds the texts",
            "name another one, whose values group the rows, or none",
        )
    if name in file_format.columns:
        return None
    near = near_name(name, file_format)
    settings: dict[str, str] = {}
    if near is not None:
        settings, fix = {"validate.category": near}, f"write {near!r} there, exactly as the header does"
    elif _header_looks_like_a_row(file_format):
        last = f"column_{len(file_format.columns)}"
        fix = f"if line 1 is a row, they are column_1 to {last} with data.header: none: name one"
    else:
        fix = "set validate.category in params.yaml to one whose values group the rows, or none"
    what = _no_such_column(name, "validate.category", file_format, column_kinds(file_format))
    return SettingsError(what, fix, settings)


def task_problems(file_format: FileFormat, config: params.Validate) -> list[SettingsError]:
    """Return an error for each column that the task needs and that does not exist."""
    problems = []
    for column in config.columns.kept:
        if column.source in file_format.columns:
            continue
        near = near_name(column.source, file_format)
        settings = {} if near is None else {column.key: near}
        fix = f"write {near!r} there, exactly as the header does" if near else f"name the column with the {column.name}"
        what = _no_such_column(column.source, column.key, file_format, column_kinds(file_format))
        problems.append(SettingsError(what, fix, settings))
    return problems


def near_name(missing: str, file_format: FileFormat) -> str | None:
    """Return the column whose name differs from `missing` only in case and white space."""
    folded = missing.strip().casefold()
    return next((name for name in file_format.columns if name.strip().casefold() == folded), None)


def _is_in_a_later_row(file_format: FileFormat, name: str) -> bool:
    """Return whether a later row holds `name`, and the rows from there on have as many fields as that row."""
    if not file_format.header:
        return False
    at = next((at for at, row in enumerate(file_format.sample) if name in row), None)
    if at is None:
        return False
    rows = file_format.sample[at:]
    return sum(len(row) == len(rows[0]) for row in rows) >= 0.9 * len(rows)


def _header_looks_like_a_row(file_format: FileFormat) -> bool:
    is_csv = file_format.format in ("csv", "tsv")
    return file_format.header and is_csv and not is_header(file_format.columns, file_format.sample)


def _no_such_column(missing: str, key: str, file_format: FileFormat, kinds: dict[str, str]) -> str:
    """Return the beginning of a sentence: the column that `key` names does not exist, and which do."""
    listed = ", ".join(f"{name!r} ({kind})" for name, kind in list(kinds.items())[:50])
    line = f", line {file_format.header_line}" if file_format.header else ""
    has = "header has" if file_format.header else "columns are"
    return f"{file_format.path}{line}: there is no column {missing!r} ({key}); the {has} {listed}"


def _fix_for_nested(file_format: FileFormat, name: str) -> str:
    """Return how to get texts out of the JSON that the column `name` holds."""
    cells = dict(sampled_columns(file_format))[name]
    what = f"{name!r} holds {kind_of(cells)}, not texts; "
    values = [json.loads(cell) for cell in cells if cell.strip()]
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    lengths: dict[str, int] = {}
    for key, text in ((key, text) for item in items if isinstance(item, dict) for key, text in item.items()):
        lengths[key] = lengths.get(key, 0) + (len(text) if isinstance(text, str) else 0)
    column = max(lengths, key=lambda key: lengths[key], default="")
    if file_format.format != "jsonl" or not lengths.get(column):
        return f"{what}write the texts in them into a column of their own"
    path = f".{name}" if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else f".[{json.dumps(name)}]"
    path += "[]" * isinstance(values[0], list)
    return (
        f"{what}make a row of each object in them with jq -c {shlex.quote(path)} FILE > NEW.jsonl, then set "
        f"{format_settings({'validate.column': column})} in params.yaml"
    )
