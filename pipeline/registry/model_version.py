"""The version of a model: a hash of its files, by which stages, registry and service name it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json")  # a model cannot be served without them
MODEL_YAML = "model.yaml"  # written by BentoML
VERSION_JSON = "version.json"  # written by the registry
DIGITS = 40  # of a version: 160 bits, against deliberate collisions
SHORT_DIGITS = 12  # shown to people; all the digits of a version in older releases


def content_version(folder: Path) -> str:
    """Return the version of the model in `folder`: 40 hex digits of a SHA-256 over its files and their names.

    Hidden files, which file managers leave behind, and what the store adds are no part of a model.
    """
    return version_of(file_hashes(folder))


def short(name: str) -> str:
    """Return a tag or a version with the 12 digits that people are shown, and may type."""
    model, colon, version = name.rpartition(":")
    return f"{model}{colon}{version[:SHORT_DIGITS]}"


def is_same_version(one: str, other: str) -> bool:
    """Return whether two tags or versions are of one model; either may have the 12 digits of an older release."""
    digits = [name.rpartition(":")[2] for name in (one, other)]
    return digits[0] == digits[1] or (
        SHORT_DIGITS in map(len, digits) and digits[0][:SHORT_DIGITS] == digits[1][:SHORT_DIGITS]
    )


def model_files(folder: Path) -> list[str]:
    """Return the names of a model's files, in the order in which the version covers them."""
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return [name.as_posix() for name in sorted(names) if name.as_posix() not in (MODEL_YAML, VERSION_JSON)]


def version_of(hashes: Mapping[str, str]) -> str:
    """Return the version of a model, given the SHA-256 of each of its files by name."""
    total = hashlib.sha256()
    for name in sorted(hashes, key=PurePosixPath):
        total.update(f"{name}\0{hashes[name]}\0".encode())
    return total.hexdigest()[:DIGITS]


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each of a model's files, by name."""
    return {name: sha256(folder / name) for name in model_files(folder)}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
