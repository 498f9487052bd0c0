"""The git revision that a candidate is made from; its manifest names it, so that it can be rebuilt."""

import os
import subprocess
from pathlib import Path, PurePosixPath

from pipeline import params

# What a candidate depends on, apart from the corpus and the base.
SOURCES = ("constraints.txt", "data", "dvc.yaml", "params.yaml", "pipeline", "starter")
# The revision in which a retraining recorded the inputs of its stages, see `flows.runtime.provenance`.
RECORDED = "RETRAIN_REVISION"


def git_revision() -> str | None:
    """Return the last commit that changed a dependency of a candidate, with "+changes" if one was edited since.

    HEAD would not do: it changes with the commit of `dvc.lock` itself. In a retraining this is the revision that
    recorded its inputs, edits included. None outside a git repository.
    """
    if recorded := os.environ.get(RECORDED):
        return recorded
    files = sources(params.load())
    try:
        commit = _git("log", "-1", "--format=%H", "--", *files)
        edited = _git("status", "--porcelain", "--", *files)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if edited else commit or None


def sources(config: params.Params) -> list[str]:
    """Return the paths inside the project that a candidate depends on, existing or not, `.dvc` files included."""
    inputs = [PurePosixPath(path) for path in (config.data.path, config.base) if is_inside(path)]
    dvc_files = [f"{part}.dvc" for path in inputs for part in (path, *path.parents) if part.name]
    return list(dict.fromkeys([*SOURCES, *map(str, inputs), *dvc_files]))


def is_inside(path: str) -> bool:
    """Return whether a path, as written, lies inside the project, so that other checkouts have it too."""
    return not Path(path).is_absolute() and os.path.normpath(path).partition(os.sep)[0] not in ("", ".", "..")


def followed(folder: Path) -> set[str]:
    """Return the names of files directly in `folder` that git or DVC tracks."""
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
