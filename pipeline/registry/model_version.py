"""The version of a model: a hash of its files, by which stages, registry and service name it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

NEEDED = ("config.json", "model.safetensors", "tokenizer.json")  # what a model cannot be served without
MODEL_YAML = "model.yaml"  # BentoML's
RECORD = "version.json"  # ours
DIGITS = 40  # of a version: 160 bits, so that nobody makes two models of one version
SHOWN = 12  # of them to people; and all that there were of a version in older releases


def content_version(folder: Path) -> str:
    """Return the version of the model in `folder`: 40 hex digits of a SHA-256 over its files and their names.

    What file managers leave behind (names that begin with a dot) and what the store adds is no part of a model.
    """
    return version_of(sums_of(folder))


def short(name: str) -> str:
    """Return a tag or a version as people are shown it, and may write it: with 12 of its digits."""
    model, colon, version = name.rpartition(":")
    return f"{model}{colon}{version[:SHOWN]}"


def is_same_version(one: str, other: str) -> bool:
    """Say whether two tags or versions are of one model, where one may be of an older release, with fewer digits."""
    digits = [name.rpartition(":")[2] for name in (one, other)]
    return digits[0] == digits[1] or (SHOWN in map(len, digits) and digits[0][:SHOWN] == digits[1][:SHOWN])


def model_files(folder: Path) -> list[str]:
    """Return the names of a model's files, in the order that its version goes by."""
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return [name.as_posix() for name in sorted(names) if name.as_posix() not in (MODEL_YAML, RECORD)]


def version_of(sums: Mapping[str, str]) -> str:
    """Return the version of a model whose files have these SHA-256 sums, by their names."""
    total = hashlib.sha256()
    for name in sorted(sums, key=PurePosixPath):
        total.update(f"{name}\0{sums[name]}\0".encode())
    return total.hexdigest()[:DIGITS]


def sums_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each of a model's files."""
    return {name: sha256(folder / name) for name in model_files(folder)}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
