"""Stand-ins for models, and registries of them; imports nothing slow, for processes that start often."""

import json
from pathlib import Path

from pipeline.registry.model_version import REQUIRED_FILES
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version

NAME = "text-generator"


def make_model(content: str, folder: Path = Path("models/candidate")) -> Path:
    """Write what stands for a model into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*REQUIRED_FILES, "manifest.json"):
        (folder / name).write_text(json.dumps({"content": content, "of": name}), encoding="utf-8")
    return folder


def add(registry: Registry, content: str, folder: Path = Path("models/candidate")) -> Version:
    return registry.add(make_model(content, folder), {"data": content}, {"candidate": {"perplexity": 9.4}})


def promote(registry: Registry, content: str, folder: Path = Path("models/candidate")) -> Version:
    champion = registry.champion()
    version = add(registry, content, folder)
    expected = champion.tag if champion else None
    registry.move(version, expected=expected, action="promote", why=content, figures={"perplexity": 9})
    return version


def champion_label(registry: Registry) -> str:
    """Return which model is the champion."""
    champion = registry.champion()
    assert champion is not None
    return champion.labels["data"]


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
