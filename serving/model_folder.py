"""Which model is served: the first of MODEL_DIR, the bento's own, the registry's champion, `dvc repro`'s candidate."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from bentoml.exceptions import BentoMLException

from pipeline import paths
from pipeline.command import UserError
from pipeline.registry import NEEDED, Registry, content_version

_MANIFEST = paths.MANIFEST.name


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model in it, and the sentence that says which one it is and why it was taken."""

    path: Path
    why: str


version = content_version  # of the model in a folder


def find(root: Path) -> ModelFolder:
    """Return the model to serve from `root`, service.py's folder; raises BentoMLException with one sentence."""
    needed: tuple[str, ...] = (*NEEDED, _MANIFEST)
    if named := os.environ.get("MODEL_DIR"):
        folder = ModelFolder(Path(named).absolute(), "named by the environment variable MODEL_DIR")
        mend = "set MODEL_DIR to a folder with a model in it, or unset it"
        needed = NEEDED  # a model from the hub has no manifest
    elif root.name == "src" and (root.parent / "bento.yaml").is_file():
        folder = ModelFolder(root / paths.CANDIDATE, "packed in this bento")
        mend = "build the bento again with `bentoml build`"
    elif champion := _champion(root):
        folder = champion
        mend = "go back to the one before with `python -m pipeline.registry rollback --why ...`"
    else:
        folder = ModelFolder(root / paths.CANDIDATE, "the candidate of the last `dvc repro`")
        mend = "make one with `dvc repro`, or set MODEL_DIR to a folder with a model in it"
    if missing := _missing(folder.path, needed):
        raise BentoMLException(f"no model to serve: {folder.path} ({folder.why}) {missing}; {mend}")
    return folder


def _champion(root: Path) -> ModelFolder | None:
    """Return the registry's champion, None when nothing was promoted; a damaged one is an error, and never replaced."""
    registry = Registry(root)
    try:
        champion = registry.champion()
        since = registry.since(champion.tag) if champion else ""
    except UserError as error:
        raise BentoMLException(f"no model to serve: {error}") from None
    return ModelFolder(champion.folder, f"the champion {champion.tag} since {since}") if champion else None


def check_packed(root: Path) -> None:
    """Raise BentoMLException unless the model in `root`, the sources in a bento just built, is there and whole."""
    folder = root / paths.CANDIDATE
    links = [file.name for file in sorted(folder.rglob("*")) if file.is_symlink()]
    if links:
        raise BentoMLException(
            f"{paths.CANDIDATE}: {', '.join(links)}: a link would dangle in the bento; put the files themselves there "
            "with `dvc config cache.type copy` and `dvc checkout --relink`"
        )
    if missing := _missing(folder, (*NEEDED, _MANIFEST)):
        raise BentoMLException(f"no model to pack: {paths.CANDIDATE} {missing}; make one with `dvc repro`")


def data_hash(folder: Path) -> str | None:
    """Return the hash of the data that the model was trained on; None when the folder does not say."""
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        return None
    data: str | None = json.loads(manifest.read_text(encoding="utf-8")).get("data")
    return data


def _missing(folder: Path, needed: tuple[str, ...]) -> str:
    """Return what `folder` lacks, as the end of a sentence; empty when it is whole."""
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    missing = [name for name in needed if not (folder / name).is_file()]
    return f"lacks {', '.join(missing)}" if missing else ""
