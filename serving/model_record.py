"""What the registry recorded with a version and the service reads, in the store or packed in a bento."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.registry.model_version import VERSION_JSON


def packed_metadata(folder: Path) -> Mapping[str, Any]:
    """Return the metadata of the version that was packed in `folder`; empty for a candidate, which is no version."""
    try:
        metadata = storage.read_json(folder / VERSION_JSON)["record"]["metadata"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return metadata if isinstance(metadata, Mapping) else {}


def prompts(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the prompts of the version's corpus; versions of older releases have none."""
    recorded = metadata.get("prompts")
    return tuple(filter(None, map(str, recorded))) if isinstance(recorded, list) else ()
