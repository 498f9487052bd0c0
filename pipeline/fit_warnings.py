"""The record of how the base fits the corpus, and what `tokenize` warned of, for those who repeat its warnings."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline import params, paths


def write(figures: Mapping[str, Any], warnings: Mapping[str, str], config: params.Params) -> None:
    """Write the figures, the warnings, and the settings that they are about."""
    content = {**figures, "warnings": warnings, "settings": _settings(config)}
    paths.BASE_FIT.parent.mkdir(parents=True, exist_ok=True)
    paths.BASE_FIT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(config: params.Params | None = None) -> dict[str, str]:
    """Return the warnings, by what they are about; none where the stage has not run.

    With `config`, those of other settings do not count either: params.yaml may have changed since.
    """
    try:
        content = json.loads(paths.BASE_FIT.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # DVC may be replacing it
        return {}
    if config and content.get("settings") != _settings(config):
        return {}
    warnings: dict[str, str] = content.get("warnings", {})
    return warnings


def _settings(config: params.Params) -> dict[str, Any]:
    return {"base": config.base, "corpus": config.data.path, "tokenize": config.tokenize.model_dump()}
