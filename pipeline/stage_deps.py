"""The code that each stage of `dvc.yaml` runs, derived from its imports, so that no change of it leaves stale results.

`python -m pipeline.stage_deps` exits with 1 where `dvc.yaml` lists other files, `--write` puts the right ones there.
Counted is every import of a module of the project, directly or through others, inside functions too, and every file
beside the code, such as a template, whose name a module has in a string.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.command import NO, UserError, arg_parser, echo, run

DVC = Path("dvc.yaml")
# Every stage imports these, and none of them can change what a stage writes: what params.py reads and paths.py names is
# in dvc.yaml itself, key by key and path by path. As dependencies they would make a new message train the model again.
NEUTRAL = frozenset(
    f"pipeline/{name}.py" for name in ("command", "param_types", "params", "paths", "workspace", "yaml_file")
)


def code_of(module: str, root: Path = Path()) -> set[str]:
    """Return the files of the project, relative to `root`, that hold what `module` runs; without the neutral ones."""
    return files_of(module, root, leaves=NEUTRAL) - NEUTRAL


def files_of(
    module: str, root: Path = Path(), *, leaves: frozenset[str] = frozenset(), at_import_only: bool = False
) -> set[str]:
    """Return the files of the project, relative to `root`, that `module` imports, directly or through others.

    The imports of `leaves` are not followed. With `at_import_only`, imports inside functions do not count.
    """
    waiting, found = [Path(*module.split(".")).with_suffix(".py")], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".py" and path.as_posix() not in leaves:
            waiting += _used(path, root, at_import_only)
    return {path.as_posix() for path in found}


def _used(path: Path, root: Path, at_import_only: bool) -> Iterator[Path]:
    """Yield the project's files that one module imports, or names in a string."""
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    for node in _run(tree, at_import_only):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield from _data(node.value, root)
            continue
        else:
            continue
        for name in names:
            for parent in _parents(name):
                file = Path(*parent.split("."))
                yield from (one for one in (file.with_suffix(".py"), file / "__init__.py") if (root / one).is_file())


def _parents(name: str) -> list[str]:
    """Return a module's name and those of the packages around it, which Python imports first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _run(node: ast.AST, at_import_only: bool) -> Iterator[ast.AST]:
    """Yield all nodes but docstrings and those under `if TYPE_CHECKING`, which never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from _run(other, at_import_only)
            continue
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if at_import_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield child
        yield from _run(child, at_import_only)


def _data(name: str, root: Path) -> list[Path]:
    """Return the files beside the code that have this name."""
    if "/" in name or "\n" in name or "*" in name or len(name) > 100:
        return []
    found = (root / "pipeline").rglob(name) if name.strip(".") else ()
    return [path.relative_to(root) for path in found if path.is_file() and path.suffix != ".py"]


def deps_of(stage: str, declared: list[str], root: Path = Path()) -> list[str]:
    """Return the dependencies that a stage should have: those declared that are no code, and all of its code."""
    return sorted({*(path for path in declared if not path.startswith("pipeline/")), *_folded(stage, root)})


def _folded(stage: str, root: Path) -> set[str]:
    """Return the code of a stage, with one folder for all of the files in it, where all of them are code of it."""
    found = code_of(f"pipeline.{stage}", root)
    for folder in sorted(path for path in (root / "pipeline").iterdir() if path.is_dir()):
        files = {path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file()}
        files = {file for file in files if "__pycache__" not in file}
        if len(files) > 1 and files <= found:
            found = found - files | {folder.relative_to(root).as_posix()}
    return found


def main() -> None:
    """Compare, and with `--write` correct."""
    parser = arg_parser(no="dvc.yaml lists other files")
    parser.add_argument("--write", action="store_true", help="correct dvc.yaml")
    is_to_write = parser.parse_args().write
    if not DVC.exists():
        raise UserError(f"{DVC} is not here; run the command from the repository's root")
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 120
    yaml.preserve_quotes = True
    content = yaml.load(DVC)
    differs = False
    for name, stage in content["stages"].items():
        right = deps_of(name, stage["deps"])
        for sign, changed in (("-", set(stage["deps"]) - set(right)), ("+", set(right) - set(stage["deps"]))):
            for path in sorted(changed):
                echo(f"{name}: {sign} {path}")
                differs = True
        if sorted(stage["deps"]) != right:
            stage["deps"] = right
    if differs and is_to_write:
        yaml.dump(content, DVC)
    elif differs:
        sys.exit(NO)


if __name__ == "__main__":
    run(main)
