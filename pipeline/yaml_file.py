"""Reads a YAML file of settings; whatever is wrong with it is one sentence with the line."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.reader import ReaderError

from pipeline.command import UserError
from pipeline.param_types import clipped

_MAX_DEPTH = 20  # levels; params.yaml has 4
_MAX_NUMBER = 2**63 - 1  # the largest that other programs and libraries hold in an integer


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        UserError: The file is missing, no regular file, not UTF-8, not YAML or nested too deep.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait forever
        raise UserError(f"{path} is no regular file; put the params.yaml that came with the project there")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is not here; run the command from the repository's root") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        content = raw.splitlines()[line - 1].decode("utf-8", "replace").strip()
        raise UserError(
            f"{path} is not readable as YAML: line {line} is not UTF-8: {clipped(content)}; save it as UTF-8"
        ) from None
    yaml = YAML(typ="safe")
    yaml.Constructor = _Constructor
    try:
        _check_depth(path, text)
        return yaml.load(text)
    except YAMLError as error:
        raise UserError(f"{path} is not readable as YAML: {_describe(error, text)}") from None


def _check_depth(path: Path, text: str) -> None:
    """Raise UserError for YAML nested so deep that constructing its values would crash the interpreter."""
    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            line = event.start_mark.line + 1
            raise UserError(f"{path}, line {line}: is nested more than {_MAX_DEPTH} levels deep; the settings have 4")


class _Constructor(SafeConstructor):
    """Constructs Python values; whatever exception a value raises becomes a YAMLError with its line."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return the value of `node`; raises YAMLError for values such as `2024-13-45` or `!!int x`."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError) as error:
            problem = f"cannot read {clipped(node.value)} ({error})"
            raise ConstructorError(problem=problem, problem_mark=node.start_mark) from None
        if type(value) is int and abs(value) > _MAX_NUMBER:
            problem = f"the number {clipped(node.value)} is beyond {_MAX_NUMBER}"
            raise ConstructorError(problem=problem, problem_mark=node.start_mark)
        return value


def _describe(error: YAMLError, text: str) -> str:
    """Return the problem and the lines it spans, quoted from `text`."""
    if isinstance(error, ReaderError):
        before = text.encode()[: error.position]  # counted in bytes by libyaml
        return f"line {before.count(10) + 1} holds the control character {chr(error.character)!r}; delete it"
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    lines = text.splitlines()
    marks = [mark for mark in (error.problem_mark, error.context_mark) if mark is not None and mark.line < len(lines)]
    quoted = [
        f"line {number}: {clipped(lines[number - 1])}" for number in dict.fromkeys(mark.line + 1 for mark in marks)
    ]
    problem = " ".join(str(error.problem).split())
    return f"{problem} {error.context or ''}".strip() + (f" ({', from '.join(quoted)})" if quoted else "")
