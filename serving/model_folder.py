"""Which model is served: the first of MODEL_DIR, the packed one, the registry's champion, `dvc repro`'s candidate.

The candidate is served only if the verdict allows it or `service.serve_candidate` does.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bentoml.exceptions import BentoMLException

from pipeline import paths
from pipeline.command import UserError
from pipeline.modeling.safety import unsafe
from pipeline.registry.model_version import REQUIRED_FILES, content_version, short
from pipeline.registry.store import Registry
from serving import model_record, model_verdict
from serving.model_verdict import NOT_JUDGED, ModelVerdict
from serving.settings import is_bento

POINTER = paths.REGISTRY / "champion.json"

_MANIFEST = paths.MANIFEST.name
_NEEDED = (*REQUIRED_FILES, _MANIFEST)  # files of a model that this project made
_REASONS = 2  # of a refusal that are repeated; the report has all

# Why the model in a folder is none of the project's task, as the end of a sentence; empty where it is one.
UnsuitableReason = Callable[[Path], str]


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model in it, and which one it is."""

    path: Path
    why: str  # why it is served, as a clause
    version: str | None = None  # the version that the registry recorded, which the files must have
    follows: bool = False  # whether a promotion replaces it while the service runs
    verdict: ModelVerdict = NOT_JUDGED
    prompts: tuple[str, ...] = ()  # of its corpus, for the playground; of versions of the registry alone
    adapter: Path | None = None  # the folder of the LoRA adapter that is served on top of another model

    @property
    def merged(self) -> Path | None:
        """The model that has the adapter in its weights, which was judged; None where there is the adapter alone."""
        return None if self.path == self.adapter else self.path


class NothingToServe(BentoMLException):
    """There is no champion, and no candidate that may be served; the text says so in one sentence."""


class CandidateWithheld(NothingToServe):
    """There is a candidate, but no verdict that lets it be served."""


version = content_version  # of the model in a folder


def find(root: Path, unsuitable: UnsuitableReason, *, serve_candidate: bool) -> ModelFolder:
    """Return the model to serve from `root`, service.py's folder.

    Args:
        root: The checkout, or the sources of a bento.
        unsuitable: Says which models are none of the project's task.
        serve_candidate: Whether a candidate is served whatever its verdict, see `service.serve_candidate`.

    Raises:
        NothingToServe: There is no champion yet, and no candidate that may be served.
        BentoMLException: The model cannot be served. Both say what to do in one sentence.
    """
    if named := os.environ.get("MODEL_DIR"):
        folder = ModelFolder(Path(named).absolute(), "named by the environment variable MODEL_DIR")
        # A model from the hub has no manifest.
        reason = _unusable_reason(folder.path, REQUIRED_FILES, unsuitable)
        _refuse(folder, reason, "set MODEL_DIR to a folder with a model in it, or unset it")
        return replace(folder, verdict=model_verdict.of_candidate(root, lambda: _version(folder.path)))
    if is_bento(root):
        folder = ModelFolder(root / paths.CANDIDATE, "packed in this bento")
        reason = _unusable_reason(folder.path, REQUIRED_FILES, unsuitable)  # a base has no manifest
        _refuse(folder, reason, "build the bento again with `bentoml build`")
        metadata = model_record.packed_metadata(folder.path)
        verdict = model_verdict.of_packed(root, metadata, lambda: _version(folder.path))
        return replace(folder, verdict=verdict, prompts=model_record.prompts(metadata))
    if served := champion(root):
        fix = "roll back to the previous one with `fresh registry rollback --why ...`"
        _refuse(served, _unusable_reason(served.path, _NEEDED, unsuitable), fix)
        return served
    folder = candidate(root, unsuitable)
    if not (serve_candidate or folder.verdict.lets_serve):
        raise CandidateWithheld(_withheld(folder))
    return folder


def candidate(root: Path, unsuitable: UnsuitableReason) -> ModelFolder:
    """Return the candidate of the last `dvc repro`, whatever its verdict; raises NothingToServe."""
    folder = ModelFolder(root / paths.CANDIDATE, "the candidate of the last `dvc repro`", follows=True)
    if reason := _unusable_reason(folder.path, _NEEDED, unsuitable):
        raise NothingToServe(
            f"no model to serve: {folder.path} ({folder.why}) {reason}; make one with `dvc repro`, or set MODEL_DIR to"
            " a folder with a model in it"
        )
    return replace(folder, verdict=model_verdict.of_candidate(root, lambda: _version(folder.path)))


def _withheld(folder: ModelFolder) -> str:
    """Return why the candidate is not served and what to do, as a sentence."""
    ask = "set `service.serve_candidate: true` in params.yaml and start the service again to serve it all the same"
    name, verdict = short(_version(folder.path)), folder.verdict
    if verdict.outcome == "not judged":
        return (
            f"no model to serve: there is no champion, and the candidate {name} has no verdict yet; promote it with"
            f" `fresh promote`, or {ask}"
        )
    reasons = " ".join(verdict.reasons[:_REASONS]).removesuffix(".")
    return (
        f"no model to serve: there is no champion, and the verdict refused the candidate {name} ({reasons}; see"
        f" {paths.REPORT}); train a better one and promote it with `fresh promote`, promote this one with"
        f' `fresh promote --force "WHY"`, or {ask}'
    )


def _version(folder: Path) -> str:
    """Return the version of the model in `folder`, which is hashed again only where a file changed."""
    return _version_at(folder, stat_fingerprint(folder))


@functools.lru_cache(maxsize=4)
def _version_at(folder: Path, _fingerprint: "StatFingerprint") -> str:
    return content_version(folder)


def _refuse(folder: ModelFolder, reason: str, fix: str) -> None:
    """Raise BentoMLException where there is a reason."""
    if reason:
        raise BentoMLException(f"no model to serve: {folder.path} ({folder.why}) {reason}; {fix}")


def champion(root: Path) -> ModelFolder | None:
    """Return the registry's champion, None when nothing was promoted; a damaged one is an error, never skipped."""
    registry = Registry(root)
    try:
        promoted = registry.champion()
        if promoted is None:
            return None
        since, verdict = registry.since(promoted.tag), model_verdict.of_champion(registry, promoted)
    except UserError as error:
        raise BentoMLException(f"no model to serve: {error}") from None
    why = f"the champion {short(promoted.tag)} since {since}"
    prompts = model_record.prompts(promoted.metadata)
    return ModelFolder(promoted.folder, why, promoted.version, follows=True, verdict=verdict, prompts=prompts)


def comparison_models(root: Path, names: Sequence[str], unsuitable: UnsuitableReason) -> dict[str, ModelFolder]:
    """Return the models out of `base` and `previous` that exist, to compare with the served one."""
    folders = {"base": ModelFolder(root / paths.BASE, "the base that the candidate was trained from")}
    try:
        previous = Registry(root).get("previous")
        why = f"the previous champion, {short(previous.tag)}"
        folders["previous"] = ModelFolder(previous.folder, why, previous.version)
    except UserError:
        pass  # there is none, or it is damaged
    return {
        name: folder
        for name, folder in folders.items()
        if name in names and not _unusable_reason(folder.path, REQUIRED_FILES, unsuitable)
    }


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


def check_packed(root: Path, unsuitable: UnsuitableReason, model: Path = paths.CANDIDATE) -> None:
    """Raise BentoMLException unless a model in `root` is complete and of its task, and so can be packed."""
    folder = root / model
    links = [file.name for file in sorted(folder.rglob("*")) if file.is_symlink()]
    if links:
        raise BentoMLException(
            f"{model}: {', '.join(links)}: links would dangle in the bento; replace them by files "
            "with `dvc config cache.type copy` and `dvc checkout --relink`"
        )
    if reason := _unusable_reason(folder, REQUIRED_FILES, unsuitable):
        raise BentoMLException(f"no model to pack: {model} {reason}; make one with `dvc repro`")


def data_hash(folder: Path) -> str | None:
    """Return the hash of the data that the model was trained on; None where the folder has no manifest."""
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        return None
    data: str | None = json.loads(manifest.read_text(encoding="utf-8")).get("data")
    return data


def _unusable_reason(folder: Path, needed: tuple[str, ...], unsuitable: UnsuitableReason) -> str:
    """Return why `folder` cannot be served, as the end of a sentence; empty when it can be."""
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    missing = [name for name in needed if not (folder / name).is_file()]
    return f"lacks {', '.join(missing)}" if missing else unsafe(folder) or unsuitable(folder)
