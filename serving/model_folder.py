"""Which model is served: the first of MODEL_DIR, the model packed in the bento, the candidate of `dvc repro`."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from bentoml.exceptions import BentoMLException

from pipeline import paths

_NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
_MANIFEST = paths.MANIFEST.name


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model in it, and the sentence that says which one it is and why it was taken."""

    path: Path
    why: str


def find(root: Path) -> ModelFolder:
    """Return the model to serve from `root`, service.py's folder; raises BentoMLException with one sentence."""
    needed: tuple[str, ...] = (*_NEEDED, _MANIFEST)
    if named := os.environ.get("MODEL_DIR"):
        folder = ModelFolder(Path(named).absolute(), "named by the environment variable MODEL_DIR")
        mend = "set MODEL_DIR to a folder with a model in it, or unset it"
        needed = _NEEDED  # a model from the hub has no manifest
    elif root.name == "src" and (root.parent / "bento.yaml").is_file():
        folder = ModelFolder(root / paths.CANDIDATE, "packed in this bento")
        mend = "build the bento again with `bentoml build`"
    else:
        folder = ModelFolder(root / paths.CANDIDATE, "the candidate of the last `dvc repro`")
        mend = "make one with `dvc repro`, or set MODEL_DIR to a folder with a model in it"
    if missing := _missing(folder.path, needed):
        raise BentoMLException(f"no model to serve: {folder.path} ({folder.why}) {missing}; {mend}")
    return folder


def check_packed(root: Path) -> None:
    """Raise BentoMLException unless the model in `root`, the sources in a bento just built, is there and whole."""
    folder = root / paths.CANDIDATE
    links = [file.name for file in sorted(folder.rglob("*")) if file.is_symlink()]
    if links:
        raise BentoMLException(
            f"{paths.CANDIDATE}: {', '.join(links)}: a link would dangle in the bento; put the files themselves there "
            "with `dvc config cache.type copy` and `dvc checkout --relink`"
        )
    if missing := _missing(folder, (*_NEEDED, _MANIFEST)):
        raise BentoMLException(f"no model to pack: {paths.CANDIDATE} {missing}; make one with `dvc repro`")


def version(folder: Path) -> str:
    """Return the model's content-addressed version: 12 hex digits of a SHA-256 over its files and their names."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not file.name.startswith("."):  # what file managers leave behind is no part of a model
            with file.open("rb") as content:
                total.update(f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()[:12]


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
