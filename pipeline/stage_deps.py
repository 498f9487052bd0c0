"""Derives the code dependencies of each stage in `dvc.yaml` from its imports, so that a code change reruns the stage.

`python -m pipeline.stage_deps` exits with 1 if `dvc.yaml` lists other files; `--write` corrects it. Dependencies are
all modules of the project that a stage imports, transitively and inside functions too, or names in a string, and the
data files under `pipeline/`, such as templates, whose names appear in a string of those modules.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.command import NO, UserError, arg_parser, echo, run
from pipeline.tasks.registry import NAMES

DVC = Path("dvc.yaml")
_TASKS = "pipeline/tasks/"
# Every stage imports these, and none changes what a stage writes: dvc.yaml itself tracks the keys that params.py reads
# and the paths that paths.py names. As dependencies they would retrain the model for a reworded message.
NEUTRAL = frozenset(
    f"pipeline/{name}.py"
    for name in ("command", "param_rules", "param_types", "params", "paths", "workspace", "yaml_file")
)


def code_of(module: str, root: Path = Path()) -> set[str]:
    """Return the files, relative to `root`, that `module` depends on, itself included, without the neutral ones."""
    return files_of(module, root, leaves=NEUTRAL) - NEUTRAL


def files_of(
    module: str, root: Path = Path(), *, leaves: frozenset[str] = frozenset(), at_import_only: bool = False
) -> set[str]:
    """Return the files, relative to `root`, that `module` depends on, itself included.

    Args:
        module: Its dotted name.
        root: The repository's root.
        leaves: Files whose own imports do not count.
        at_import_only: Whether imports inside functions do not count.
    """
    waiting, files = [_file_of(module, root)], set[Path]()
    while waiting:
        path = waiting.pop()
        if path is None or path in files:
            continue
        files.add(path)
        if path.suffix == ".py" and path.as_posix() not in leaves:
            nodes = list(_executed(_parse(path, root), at_import_only))
            waiting += [_file_of(name, root) for name in _imported(nodes, root)]
            waiting += [data for node in nodes for data in _data_files(node, root)]
    return {path.as_posix() for path in files}


def imported_modules(path: Path, root: Path = Path()) -> set[str]:
    """Return the project's modules that a file imports, inside functions too, with the packages around them."""
    return set(_imported(_executed(_parse(path, root)), root))


def _parse(path: Path, root: Path) -> ast.Module:
    return ast.parse((root / path).read_text(encoding="utf-8"))


def _imported(nodes: Iterable[ast.AST], root: Path) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and str(node.value).startswith("pipeline."):
            names = [str(node.value)]  # of a registry whose modules are imported by name
        else:
            continue
        yield from (parent for name in names for parent in _parents(name) if _file_of(parent, root))


def _file_of(module: str, root: Path) -> Path | None:
    """Return the file of a module of the project, None for other modules."""
    path = Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if (root / file).is_file()), None)


def _parents(name: str) -> list[str]:
    """Return the names of a module and of the packages around it, which Python imports first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _executed(node: ast.AST, at_import_only: bool = False) -> Iterator[ast.AST]:
    """Yield all nodes except docstrings and what stands under `if TYPE_CHECKING`, which never runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from _executed(other, at_import_only)
            continue
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if at_import_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield child
        yield from _executed(child, at_import_only)


def _data_files(node: ast.AST, root: Path) -> list[Path]:
    """Return the data files under `pipeline/` that a string names."""
    name = node.value if isinstance(node, ast.Constant) else None
    if not isinstance(name, str) or "." not in name.strip(".") or len(name) > 100 or set(name) & set("/\n*"):
        return []
    files = (root / "pipeline").rglob(name)
    return [path.relative_to(root) for path in files if path.is_file() and path.suffix != ".py"]


def deps_of(stage: str, declared: list[str], root: Path = Path()) -> list[str]:
    """Return the dependencies a stage should declare: those declared that are not code, and all of its code."""
    return sorted({*(path for path in declared if not path.startswith("pipeline/")), *_folded(stage, root)})


def _folded(stage: str, root: Path) -> set[str]:
    """Return the code of a stage; a folder replaces its files where the stage depends on all of them.

    Of the tasks a stage depends on the one in use alone, which DVC fills in.
    """
    code = code_of(f"pipeline.{stage}", root)
    if any(path.startswith(_TASKS) for path in code):
        code = code - {f"{_TASKS}{name}.py" for name in NAMES} | {f"{_TASKS}${{task}}.py"}
    for folder in sorted(path for path in (root / "pipeline").iterdir() if path.is_dir()):
        files = {path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file()}
        files = {file for file in files if "__pycache__" not in file}
        if len(files) > 1 and files <= code:
            code = code - files | {folder.relative_to(root).as_posix()}
    return code


def main() -> None:
    """Compare, and with `--write` correct."""
    parser = arg_parser(no="dvc.yaml lists other files")
    parser.add_argument("--write", action="store_true", help="correct dvc.yaml")
    write = parser.parse_args().write
    if not DVC.exists():
        raise UserError(f"{DVC} is not here; run the command from the repository's root")
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 120
    yaml.preserve_quotes = True
    content = yaml.load(DVC)
    differs = False
    for name, stage in content["stages"].items():
        correct = deps_of(name, stage["deps"])
        for sign, changed in (("-", set(stage["deps"]) - set(correct)), ("+", set(correct) - set(stage["deps"]))):
            for path in sorted(changed):
                echo(f"{name}: {sign} {path}")
                differs = True
        if sorted(stage["deps"]) != correct:
            stage["deps"] = correct
    if differs and write:
        yaml.dump(content, DVC)
    elif differs:
        sys.exit(NO)


if __name__ == "__main__":
    run(main)
