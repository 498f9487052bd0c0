"""Registries of older releases, whose versions had 12 digits."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from pipeline.command import UserError
from pipeline.registry import versions
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from tests.conftest import Workspace
from tests.pipeline.registry.models import NAME, add, champion_label, flip_bit, promote


def downgrade(registry: Registry, models: Path) -> None:
    """Rewrite a registry and its store as releases with versions of 12 digits wrote them."""
    for version in registry.versions():
        digits = version.version[:12]
        record = json.loads((version.folder / "version.json").read_text(encoding="utf-8"))["record"]
        described = version.folder / "model.yaml"
        described.write_text(described.read_text(encoding="utf-8").replace(version.version, digits), encoding="utf-8")
        file = {"size": described.stat().st_size, "sha256": hashlib.sha256(described.read_bytes()).hexdigest()}
        record |= {"registry": str(Path("registry").resolve()), "files": record["files"] | {"model.yaml": file}}
        checksum = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        content = json.dumps({"sha256": checksum, "record": record})
        (version.folder / "version.json").write_text(content, encoding="utf-8")
        version.folder.rename(version.folder.with_name(digits))
        for path in (Path("registry/history.jsonl"), Path("registry/champion.json"), models / NAME / "latest"):
            if path.exists():
                path.write_text(path.read_text(encoding="utf-8").replace(version.version, digits), encoding="utf-8")
    Path("registry/id").unlink()
    users = models.parent / ".registry" / "users"
    shutil.rmtree(users)
    users.mkdir()
    folder = str(Path("registry").resolve())
    (users / hashlib.sha256(folder.encode()).hexdigest()[:12]).write_text(folder, encoding="utf-8")


def test_a_registry_of_an_older_release_still_works(registry: Registry, workspace: Workspace, models: Path) -> None:
    old, new, never = promote(registry, "old"), promote(registry, "new"), add(registry, "never promoted")
    downgrade(registry, models)
    workspace.set(registry__keep=1)
    registry = Registry()
    now = registry.champion()
    assert now is not None
    assert (now.tag, now.version) == (short(new.tag), new.version)
    assert {version.version for version in registry.versions()} == {old.version, new.version, never.version}
    for name in (new.tag, short(new.tag), new.version, short(new.version), new.version[:6], "champion"):
        assert registry.get(name) == now
    assert add(registry, "new") == now  # the same content is one version
    registry.rollback(None, "complaints")
    assert champion_label(registry) == "old"
    entry = registry.rolled_back(new.version)
    assert entry is not None
    assert entry.why == "complaints"
    newest = promote(registry, "newest")
    assert newest.tag == f"{NAME}:{newest.version}"
    assert sorted(registry.prune()) == sorted([short(old.tag), short(new.tag), short(never.tag)])
    assert registry.versions() == [newest]
    assert [path.name for path in (models.parent / ".registry" / "users").iterdir()] == [
        Path("registry/id").read_text(encoding="utf-8").strip()
    ]


def test_a_damaged_version_of_an_older_release_is_refused_and_restored(registry: Registry, models: Path) -> None:
    new = promote(registry, "new")
    downgrade(registry, models)
    flip_bit(new.folder.with_name(short(new.version)) / "model.safetensors")
    with pytest.raises(UserError, match="does not hold what was added"):
        registry.champion()
    assert add(registry, "new").tag == short(new.tag)
    registry.verify("champion")


def test_versions_that_share_12_digits_are_kept_apart(
    registry: Registry, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two folders can be made to collide in the 48 bits of an older release's version."""
    old = promote(registry, "old")
    downgrade(registry, models)
    version_of = versions.version_of
    monkeypatch.setattr(versions, "version_of", lambda sums: old.version[:12] + version_of(sums)[12:])
    other = promote(registry, "other")
    assert other.tag != short(old.tag)
    assert registry.get("previous").tag == short(old.tag)
    with pytest.raises(UserError, match="write one more digit"):
        registry.get(other.version[:11])
