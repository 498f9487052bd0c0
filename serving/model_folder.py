"""Which model is served: the first of MODEL_DIR, the bento's own, the registry's champion, `dvc repro`'s candidate."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bentoml.exceptions import BentoMLException

from pipeline import paths
from pipeline.command import UserError
from pipeline.modeling.safety import unsafe
from pipeline.registry.model_version import REQUIRED_FILES, content_version, short
from pipeline.registry.store import Registry

POINTER = paths.REGISTRY / "champion.json"

_MANIFEST = paths.MANIFEST.name


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model in it, and the sentence that says which one it is and why it was taken."""

    path: Path
    why: str
    version: str | None = None  # of what should lie there: the registry's word, which the files are held to
    follows: bool = False  # whether a promotion replaces it while the service runs


version = content_version  # of the model in a folder


def find(root: Path) -> ModelFolder:
    """Return the model to serve from `root`, service.py's folder; raises BentoMLException with one sentence."""
    needed: tuple[str, ...] = (*REQUIRED_FILES, _MANIFEST)
    if named := os.environ.get("MODEL_DIR"):
        folder = ModelFolder(Path(named).absolute(), "named by the environment variable MODEL_DIR")
        mend = "set MODEL_DIR to a folder with a model in it, or unset it"
        needed = REQUIRED_FILES  # a model from the hub has no manifest
    elif root.name == "src" and (root.parent / "bento.yaml").is_file():
        folder = ModelFolder(root / paths.CANDIDATE, "packed in this bento")
        mend = "build the bento again with `bentoml build`"
    elif champion := _champion(root):
        folder = champion
        mend = "go back to the one before with `python -m pipeline.registry rollback --why ...`"
    else:
        folder = ModelFolder(root / paths.CANDIDATE, "the candidate of the last `dvc repro`", follows=True)
        mend = "make one with `dvc repro`, or set MODEL_DIR to a folder with a model in it"
    if problem := _problem(folder.path, needed):
        raise BentoMLException(f"no model to serve: {folder.path} ({folder.why}) {problem}; {mend}")
    return folder


def _champion(root: Path) -> ModelFolder | None:
    """Return the registry's champion, None when nothing was promoted; a damaged one is an error, and never replaced."""
    registry = Registry(root)
    try:
        champion = registry.champion()
        since = registry.since(champion.tag) if champion else ""
    except UserError as error:
        raise BentoMLException(f"no model to serve: {error}") from None
    if champion is None:
        return None
    why = f"the champion {short(champion.tag)} since {since}"
    return ModelFolder(champion.folder, why, champion.version, follows=True)


def comparison_models(root: Path, names: Sequence[str]) -> dict[str, ModelFolder]:
    """Return those of the other models, `base` and `previous`, that are there to be compared with the served one."""
    found = {"base": ModelFolder(root / paths.BASE, "the base that the candidate was trained from")}
    try:
        previous = Registry(root).get("previous")
        found["previous"] = ModelFolder(
            previous.folder, f"the champion before, {short(previous.tag)}", previous.version
        )
    except UserError:
        pass  # there is none, or none that is whole
    return {
        name: folder for name, folder in found.items() if name in names and not _problem(folder.path, REQUIRED_FILES)
    }


def pointer_target(root: Path) -> tuple[str | None, Path | None]:
    """Return the version that the champion's pointer names, whole or not, and its folder; None where unreadable."""
    try:
        tag = str(json.loads((root / POINTER).read_text(encoding="utf-8"))["to"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    try:
        folder = Registry(root).get(tag).folder
    except UserError:
        folder = None
    return tag.partition(":")[2], folder


StatFingerprint = tuple[tuple[str, int, int, int], ...]


def stat_fingerprint(path: Path) -> StatFingerprint:
    """Return what changes when a file, or a file in a folder, is replaced or written to; empty when there is none.

    Names, inodes, sizes and times: nothing is read, so it may be asked every second.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    try:
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def check_packed(root: Path) -> None:
    """Raise BentoMLException unless the model in `root`, the sources in a bento just built, is there and whole."""
    folder = root / paths.CANDIDATE
    links = [file.name for file in sorted(folder.rglob("*")) if file.is_symlink()]
    if links:
        raise BentoMLException(
            f"{paths.CANDIDATE}: {', '.join(links)}: a link would dangle in the bento; put the files themselves there "
            "with `dvc config cache.type copy` and `dvc checkout --relink`"
        )
    if problem := _problem(folder, (*REQUIRED_FILES, _MANIFEST)):
        raise BentoMLException(f"no model to pack: {paths.CANDIDATE} {problem}; make one with `dvc repro`")


def data_hash(folder: Path) -> str | None:
    """Return the hash of the data that the model was trained on; None when the folder does not say."""
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        return None
    data: str | None = json.loads(manifest.read_text(encoding="utf-8")).get("data")
    return data


def _problem(folder: Path, needed: tuple[str, ...]) -> str:
    """Return why `folder` cannot be served, as the end of a sentence; empty when it can."""
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    missing = [name for name in needed if not (folder / name).is_file()]
    return f"lacks {', '.join(missing)}" if missing else unsafe(folder)
