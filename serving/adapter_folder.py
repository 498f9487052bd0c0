"""Where the LoRA adapters of `service.adapters` are: another checkout's champion, a folder, or packed in a bento."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bentoml.exceptions import BentoMLException

from pipeline import paths
from pipeline.modeling.safety import ADAPTER as CONFIG
from pipeline.registry.model_version import short
from serving import model_folder, settings
from serving.model_folder import ModelFolder

PACKED = Path("models", "adapters")  # in a bento: NAME/VERSION/ with the files of an adapter

_OF_MODEL = paths.ADAPTER.name  # the folder in a model of this project that LoRA trained


def find(root: Path, name: str, source: str) -> ModelFolder:
    """Return the adapter called `name`; raises BentoMLException with a sentence where there is none.

    Args:
        root: The checkout, or the sources of a bento.
        name: What requests call it.
        source: As in params.yaml: a checkout, a folder with a model of this project, or one with peft's files.
    """
    if settings.is_bento(root):
        if os.environ.get("MODEL_DIR"):
            raise BentoMLException("it belongs to the model that is packed in this bento; unset MODEL_DIR")
        versions = sorted((root / PACKED / name).glob("*"))
        if len(versions) != 1:
            raise BentoMLException("it is not in this bento; build it again with `fresh pack`")
        return ModelFolder(versions[0], "packed in this bento", versions[0].name, adapter=versions[0])
    place = _place(root, source)
    if _is_checkout(place):
        return _champion(place)
    if (place / CONFIG).is_file():
        return ModelFolder(place, f"the adapter in {place}", adapter=place)
    if (place / _OF_MODEL / CONFIG).is_file():
        return ModelFolder(place, f"the model in {place}", adapter=place / _OF_MODEL)
    raise BentoMLException(
        f"{place} is neither a checkout nor a folder with {CONFIG} or {_OF_MODEL}/{CONFIG}; name one of these"
    )


def watched(root: Path, name: str, source: str) -> tuple[Path, ...]:
    """Return the files and folders that change where `find` may return something else."""
    if settings.is_bento(root):
        return (root / PACKED / name,)
    place = _place(root, source)
    return (place / model_folder.POINTER,) if _is_checkout(place) else (place, place / _OF_MODEL)


def problems(root: Path, sources: Mapping[str, str]) -> list[str]:
    """Return a sentence for each adapter that is not there."""
    found = []
    for name, source in sources.items():
        try:
            find(root, name, source)
        except (BentoMLException, OSError) as error:
            found.append(f"{name}: {error}")
    return found


def _place(root: Path, source: str) -> Path:
    return Path(os.path.normpath(root.absolute() / source))


def _is_checkout(place: Path) -> bool:
    return (place / paths.PARAMS).is_file()


def _champion(place: Path) -> ModelFolder:
    """Return the adapter of the champion of a checkout; raises BentoMLException where there is none."""
    champion = model_folder.champion(place)
    if champion is None:
        raise BentoMLException(f"{place} has no champion yet; promote one there with `fresh promote`")
    if not (champion.path / _OF_MODEL / CONFIG).is_file():
        raise BentoMLException(
            f"{place} has a champion, {short(champion.version or '')}, of which all weights were trained; set"
            " finetune.lora_rank to 8 there, train and promote, or serve it by itself"
        )
    return replace(
        champion, why=f"{champion.why} of {place}", follows=False, prompts=(), adapter=champion.path / _OF_MODEL
    )
