"""The git revision that a candidate was made from; its manifest names it, so that it can be made again."""

import os
import subprocess
from pathlib import Path, PurePosixPath

from pipeline import params

# What a candidate hangs on, as git sees it; the corpus and the base besides, wherever they are.
SOURCES = ("constraints.txt", "data", "dvc.yaml", "params.yaml", "pipeline", "starter")
# Tells the stages the revision in which a retraining recorded what they are about to read (`flows.runtime.provenance`).
RECORDED = "RETRAIN_REVISION"


def git_revision() -> str | None:
    """Return the last commit that touched what a candidate hangs on, "+changes" behind it if that was edited since.

    Not HEAD, which would change with the commit of `dvc.lock` itself. In a retraining it is the revision that this
    recorded, edits and all. None outside a git repository.
    """
    if recorded := os.environ.get(RECORDED):
        return recorded
    wanted = sources(params.load())
    try:
        commit = _git("log", "-1", "--format=%H", "--", *wanted)
        edited = _git("status", "--porcelain", "--", *wanted)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if edited else commit or None


def sources(wanted: params.Params) -> list[str]:
    """Return the paths below the project's root that a candidate hangs on, there or not, `.dvc` files among them."""
    inputs = [PurePosixPath(path) for path in (wanted.data.path, wanted.base) if is_inside(path)]
    followed = [f"{part}.dvc" for path in inputs for part in (path, *path.parents) if part.name]
    return list(dict.fromkeys([*SOURCES, *map(str, inputs), *followed]))


def is_inside(path: str) -> bool:
    """Tell whether the path lies in the project by its letters: another machine's checkout has it too then."""
    return not Path(path).is_absolute() and os.path.normpath(path).partition(os.sep)[0] not in ("", ".", "..")


def followed(folder: Path) -> set[str]:
    """Return the names, directly in `folder`, of files that git or DVC follows; none where there is no git."""
    in_dvc = {path.stem for path in folder.glob("*.dvc")}
    command = ["git", "--no-optional-locks", "ls-files", "-z"]
    try:
        listed = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout  # noqa: S603
    except (FileNotFoundError, subprocess.CalledProcessError):
        return in_dvc
    return in_dvc | {name for name in map(os.fsdecode, listed.split(b"\0")) if name and "/" not in name}


def _git(*arguments: str) -> str:
    command = ["git", "--literal-pathspecs", "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
