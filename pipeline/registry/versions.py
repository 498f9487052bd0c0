"""The versions in BentoML's model store, and the checks of their files.

Each version has a version.json: labels, metadata, and the size and SHA-256 of every file, under a checksum of its own.
Small files are hashed at each check, large ones only at a thorough one, before a move and by `verify`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from pipeline import storage
from pipeline.command import UserError
from pipeline.registry import bentoml_store
from pipeline.registry.model_version import (
    DIGITS,
    MODEL_YAML,
    SHORT_DIGITS,
    VERSION_JSON,
    model_files,
    sha256,
    short,
    version_of,
)

QUICK_HASH_BYTES = 1_000_000  # files up to this size are hashed at every check
TAG = re.compile(rf"[a-z0-9][a-z0-9_.-]{{0,62}}:([0-9a-f]{{{SHORT_DIGITS}}}|[0-9a-f]{{{DIGITS}}})")


class DamagedVersion(UserError):  # noqa: N818 - a state of the version, not a defect
    """A version is missing or damaged; the text says so in one sentence."""


@dataclass(frozen=True)
class Version:
    """A model in the store."""

    tag: str  # name:version
    version: str  # see `content_version`; in full, though the tags of older releases are abbreviated
    folder: Path
    created: str  # when it came into the store: UTC, ISO 8601, seconds
    labels: dict[str, str]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class StoredFile:
    """What version.json says of a file."""

    size: Annotated[int, Field(strict=True)]
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "StoredFile":
        """Measure a file."""
        return cls(path.stat().st_size, sha256(path))


@dataclass(frozen=True)
class Record:
    """The content of version.json."""

    created: str
    registry: str  # id of the project that added the version; in older releases the path of its registry
    labels: dict[str, str]
    metadata: dict[str, Any]
    files: dict[str, StoredFile]  # by name, model.yaml among them

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each of the model's files."""
        return {name: file.sha256 for name, file in self.files.items() if name != MODEL_YAML}

    @property
    def version(self) -> str:
        """The model's version in full."""
        return version_of(self.hashes)


_RECORD = TypeAdapter(Record)


def write_record(folder: Path, record: Record) -> None:
    """Write the version.json of a version that is being made in `folder`."""
    content = {"sha256": _checksum(asdict(record)), "record": asdict(record)}
    (folder / VERSION_JSON).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _checksum(record: object) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_record(tag: str) -> Record:
    """Return the record of a version; raises DamagedVersion where there is none, or it is not as it was written."""
    if not TAG.fullmatch(tag):
        raise DamagedVersion(f"{tag!r} is not the tag of a version")
    folder = bentoml_store.version_folder(tag)
    if not folder.is_dir():
        raise DamagedVersion(f"{tag} is not in the store: {folder} is missing")
    path = folder / VERSION_JSON
    try:
        content = storage.read_json(path)
        if content["sha256"] != _checksum(content["record"]):
            raise ValueError("the checksum differs")
        record = _RECORD.validate_python(content["record"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise DamagedVersion(f"{tag} is damaged: {path} is missing or not as it was written") from None
    digits = tag.partition(":")[2]
    if not record.version.startswith(digits):
        raise DamagedVersion(f"{tag} is damaged: {folder} holds another version")
    return record


def load(tag: str) -> Version:
    """Return a version by its record, with its files unchecked; raises DamagedVersion."""
    record = read_record(tag)
    folder = bentoml_store.version_folder(tag)
    return Version(tag, record.version, folder, record.created, record.labels, record.metadata)


def find(tag: str) -> Version | None:
    """Return a version by its record, with its files unchecked; None where the record is missing or damaged."""
    try:
        return load(tag)
    except DamagedVersion:
        return None


def check(tag: str, thorough: bool) -> None:
    """Compare a version's files with its record, with `thorough` every byte; raises DamagedVersion at the first one."""
    record = read_record(tag)
    folder = bentoml_store.version_folder(tag)
    for name, file in record.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise DamagedVersion(f"{tag} is damaged: {path} is missing")
        if (size := path.stat().st_size) != file.size:
            raise DamagedVersion(f"{tag} is damaged: {path} has {size:,} bytes, but {file.size:,} were added")
        if (thorough or size < QUICK_HASH_BYTES) and sha256(path) != file.sha256:
            raise DamagedVersion(f"{tag} is damaged: {path} does not hold what was added")
    if more := sorted(set(model_files(folder)) - set(record.files)):
        raise DamagedVersion(f"{tag} is damaged: {folder / more[0]} was not added with it")


def find_record(tag: str) -> Record | None:
    """Return the record of a version; None where it is missing or damaged."""
    try:
        return read_record(tag)
    except DamagedVersion:
        return None


def is_whole(tag: str) -> bool:
    """Return whether every byte of a version is as it was added."""
    try:
        check(tag, thorough=True)
    except DamagedVersion:
        return False
    return True


def tag_of(name: str, hashes: Mapping[str, str]) -> str:
    """Return the tag of the model with these files: abbreviated where an older release added the same model."""
    tag = f"{name}:{version_of(hashes)}"
    record = find_record(short(tag))
    return short(tag) if record and record.hashes == hashes else tag
