"""Which model is served: the first of MODEL_DIR, the packed one, the registry's champion, `dvc repro`'s candidate."""

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
from serving.settings import is_bento

POINTER = paths.REGISTRY / "champion.json"

_MANIFEST = paths.MANIFEST.name


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model in it, and which one it is."""

    path: Path
    why: str  # why it is served, as a clause
    version: str | None = None  # the version that the registry recorded, which the files must have
    follows: bool = False  # whether a promotion replaces it while the service runs


version = content_version  # of the model in a folder


def find(root: Path) -> ModelFolder:
    """Return the model to serve from `root`, service.py's folder; raises BentoMLException with one sentence."""
    needed: tuple[str, ...] = (*REQUIRED_FILES, _MANIFEST)
    if named := os.environ.get("MODEL_DIR"):
        folder = ModelFolder(Path(named).absolute(), "named by the environment variable MODEL_DIR")
        fix = "set MODEL_DIR to a folder with a model in it, or unset it"
        needed = REQUIRED_FILES  # a model from the hub has no manifest
    elif is_bento(root):
        folder = ModelFolder(root / paths.CANDIDATE, "packed in this bento")
        fix = "build the bento again with `bentoml build`"
    elif champion := _champion(root):
        folder = champion
        fix = "roll back to the previous one with `fresh registry rollback --why ...`"
    else:
        folder = ModelFolder(root / paths.CANDIDATE, "the candidate of the last `dvc repro`", follows=True)
        fix = "make one with `dvc repro`, or set MODEL_DIR to a folder with a model in it"
    if reason := _unusable_reason(folder.path, needed):
        raise BentoMLException(f"no model to serve: {folder.path} ({folder.why}) {reason}; {fix}")
    return folder


def _champion(root: Path) -> ModelFolder | None:
    """Return the registry's champion, None when nothing was promoted; a damaged one is an error, never skipped."""
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
    """Return the models out of `base` and `previous` that exist, to compare with the served one."""
    folders = {"base": ModelFolder(root / paths.BASE, "the base that the candidate was trained from")}
    try:
        previous = Registry(root).get("previous")
        why = f"the previous champion, {short(previous.tag)}"
        folders["previous"] = ModelFolder(previous.folder, why, previous.version)
    except UserError:
        pass  # there is none, or it is damaged
    usable = {name: folder for name, folder in folders.items() if not _unusable_reason(folder.path, REQUIRED_FILES)}
    return {name: folder for name, folder in usable.items() if name in names}


def pointer_target(root: Path) -> tuple[str | None, Path | None]:
    """Return the version that the champion's pointer names, damaged or not, and its folder; None where unreadable."""
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
    """Return what changes when a file, or a file in a folder, is replaced or written to; empty when it is missing.

    Names, inodes, sizes and times: no file is read, so it is cheap enough for every second.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    try:
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def check_packed(root: Path) -> None:
    """Raise BentoMLException unless the model in `root`, the sources of a new bento, is complete."""
    folder = root / paths.CANDIDATE
    links = [file.name for file in sorted(folder.rglob("*")) if file.is_symlink()]
    if links:
        raise BentoMLException(
            f"{paths.CANDIDATE}: {', '.join(links)}: links would dangle in the bento; replace them by files "
            "with `dvc config cache.type copy` and `dvc checkout --relink`"
        )
    if reason := _unusable_reason(folder, (*REQUIRED_FILES, _MANIFEST)):
        raise BentoMLException(f"no model to pack: {paths.CANDIDATE} {reason}; make one with `dvc repro`")


def data_hash(folder: Path) -> str | None:
    """Return the hash of the data that the model was trained on; None where the folder has no manifest."""
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        return None
    data: str | None = json.loads(manifest.read_text(encoding="utf-8")).get("data")
    return data


def _unusable_reason(folder: Path, needed: tuple[str, ...]) -> str:
    """Return why `folder` cannot be served, as the end of a sentence; empty when it can be."""
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    missing = [name for name in needed if not (folder / name).is_file()]
    return f"lacks {', '.join(missing)}" if missing else unsafe(folder)
