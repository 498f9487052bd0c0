"""Bases out of the registry: versions in BentoML's model store, of this project or of another one on this machine."""

import re
from pathlib import Path

from pipeline.command import UserError
from pipeline.registry import bentoml_store, versions
from pipeline.registry.model_version import SHORT_DIGITS

PREFIX = "registry:"
_NAME = re.compile(rf"([a-z0-9][a-z0-9_.-]{{0,62}}):([0-9a-f]{{{SHORT_DIGITS},}})")


def folder_of(base: str) -> Path:
    """Return the folder of the version `registry:NAME:VERSION`; its beginning is enough, every byte is checked.

    Raises UserError where there is none, more than one, or it is damaged.
    """
    parts = _NAME.fullmatch(base.removeprefix(PREFIX))
    if not parts:
        raise UserError(
            f"params.yaml: base: found {base!r}; expected {PREFIX}NAME:VERSION with at least {SHORT_DIGITS} digits of"
            f" the version, as `fresh registry list` shows it, such as {PREFIX}text-encoder:0123456789ab"
        )
    name, digits = parts.groups()
    store = bentoml_store.models(name)
    found = sorted(folder.name for folder in store.glob(f"{digits}*") if folder.is_dir())
    if len(found) != 1:
        what = f"{len(found)} versions begin" if found else "no version begins"
        raise UserError(
            f"params.yaml: base: in {store} {what} with {digits}; `fresh registry list` in the project that made it"
            " shows its versions"
        )
    tag = f"{name}:{found[0]}"
    try:
        versions.check(tag, thorough=True)
    except versions.DamagedVersion as error:
        raise UserError(f"params.yaml: base: {error}") from None
    return bentoml_store.version_folder(tag)
