"""BentoML's model store on disk: where models lie, their model.yaml and the file `latest`.

The pipeline's only module with BentoML's private names, each with a test in tests/pipeline/registry/test_bentoml_store.
BentoML itself takes seconds to import, so only writing a model.yaml does that.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.registry.model_version import MODEL_YAML


def home() -> Path:
    """Return BentoML's home by BentoML's own rules; read anew at each call, so that the storage may be remounted."""
    folder = os.environ.get("BENTOML_HOME", "~/bentoml")
    while (expanded := os.path.expanduser(os.path.expandvars(folder))) != folder:  # noqa: PTH111 - not a path yet
        folder = expanded
    return Path(folder).absolute()


def models(name: str) -> Path:
    """Return the folder of all versions of the model `name`."""
    return home() / "models" / name


def version_folder(tag: str) -> Path:
    """Return the folder of the version `name:version`, whether it exists or not."""
    name, _, version = tag.partition(":")
    return models(name) / version


def write_model_yaml(folder: Path, tag: str, labels: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """Write the model.yaml that `bentoml.models.create` would write; return its creation time in ISO 8601.

    `bentoml.models.create` itself puts a model into the store before it can be synced to disk.
    """
    from bentoml._internal.models.model import ModelContext, ModelInfo
    from bentoml._internal.tag import Tag

    info = ModelInfo(
        tag=Tag.from_str(tag),
        module="",
        api_version="v1",
        signatures={},
        labels=dict(labels),
        options={},
        metadata=_without_none(metadata),
        context=ModelContext(framework_name="transformers", framework_versions={}),
    )
    with (folder / MODEL_YAML).open("w", encoding="utf-8") as file:
        info.dump(file)
    created: datetime = info.creation_time
    return created.isoformat(timespec="seconds")


def _without_none(value: Any) -> Any:
    """Return a copy without None, which BentoML's metadata cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_none(part) for part in value if part is not None]
    return value


def set_latest(tag: str) -> None:
    """Make `name:latest` mean `tag`."""
    folder = version_folder(tag)
    latest = folder.parent / "latest"
    if not latest.is_file() or latest.read_text(encoding="utf-8") != folder.name:
        storage.write_atomic(latest, folder.name)


def repair_latest(name: str) -> None:
    """Make `name:latest` mean the newest version, whoever added it, where the version it names is gone."""
    folder = models(name)
    latest = folder / "latest"
    if latest.is_file() and (folder / latest.read_text(encoding="utf-8").strip()).is_dir():
        return
    left = sorted(folder.glob(f"*/{MODEL_YAML}"), key=lambda path: path.stat().st_mtime_ns)
    if left:
        storage.write_atomic(latest, left[-1].parent.name)
    elif folder.is_dir():
        latest.unlink(missing_ok=True)
