"""The registry: rollbacks, names and deletion."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bentoml._internal.models import ModelStore

from pipeline.command import UserError
from pipeline.registry.store import Registry
from tests.conftest import ROOT, Workspace
from tests.pipeline.registry.models import NAME, add, champion_label, promote


def test_each_rollback_goes_back_by_one_champion(registry: Registry) -> None:
    for content in "abc":
        promote(registry, content)
    registry.rollback(None, "complaints")
    assert champion_label(registry) == "b"
    registry.rollback(None, "more complaints")
    assert champion_label(registry) == "a"
    with pytest.raises(UserError, match="there is no champion before"):
        registry.rollback(None, "even more")
    promote(registry, "d")
    registry.rollback(None, "again")
    assert champion_label(registry) == "a"
    entry = registry.history()[-1]
    assert (entry.action, entry.why) == ("rollback", "again")


def test_a_rollback_goes_to_any_named_version(registry: Registry) -> None:
    versions = {content: promote(registry, content) for content in "abc"}
    registry.rollback(versions["a"].version[:6], "far back")
    assert champion_label(registry) == "a"
    registry.rollback(versions["c"].tag, "and forward")
    assert champion_label(registry) == "c"
    assert registry.get("previous") == versions["a"]
    with pytest.raises(UserError, match="is the champion; name another"):
        registry.rollback("champion", "why not")


def test_a_rollback_without_a_champion_is_refused(registry: Registry) -> None:
    with pytest.raises(UserError, match="there is no champion yet"):
        registry.rollback(None, "why")


def test_a_version_stays_rolled_back_until_it_is_champion_again(registry: Registry) -> None:
    old, new = promote(registry, "old"), promote(registry, "new")
    assert registry.rolled_back(new.version) is None
    entry = registry.rollback(None, "complaints")
    assert registry.rolled_back(new.version) == registry.rolled_back(new.tag) == entry
    assert registry.rolled_back(old.version) is None
    promote(registry, "third")
    registry.refuse(new.version, "it was rolled back", {})
    assert registry.rolled_back(new.version) == entry
    registry.move(
        new, expected=registry.get("champion").tag, action="force", why="the complaints were about something else"
    )
    assert registry.rolled_back(new.version) is None


def test_a_version_resolves_from_tag_digits_prefix_champion_and_previous(registry: Registry) -> None:
    old, new = promote(registry, "old"), promote(registry, "new")
    for name in (old.tag, old.version, old.version[:8], "previous"):
        assert registry.get(name) == old
    assert registry.get("champion") == new
    with pytest.raises(
        UserError, match=f"no version 'zebra' in this registry; expected champion, .*{old.tag}, {new.tag}"
    ):
        registry.get("zebra")
    with pytest.raises(UserError, match="no version ''"):
        registry.get("")


def test_an_ambiguous_prefix_is_refused(registry: Registry) -> None:
    seen: dict[str, str] = {}
    for number in range(17):  # 17 versions cannot begin with 16 different digits
        version = promote(registry, str(number)).version
        if version[0] in seen:
            break
        seen[version[0]] = version
    with pytest.raises(UserError, match=f"'{version[0]}' is the beginning of .*, .*; write one more digit"):
        registry.get(version[0])


def test_the_champion_and_recent_champions_are_never_deleted(
    registry: Registry, workspace: Workspace, models: Path
) -> None:
    workspace.set(registry__keep=2)
    registry = Registry()
    a, b, c = (promote(registry, content) for content in "abc")
    with pytest.raises(UserError, match=f"{c.tag} is the champion and is never deleted"):
        registry.delete("champion")
    with pytest.raises(UserError, match=rf"{b.tag} is among the last 2 champions \(registry\.keep in params\.yaml\)"):
        registry.delete(b.version)
    registry.delete(a.version)
    assert registry.versions() == [b, c]
    assert not a.folder.exists()
    assert (registry.history()[-1].action, registry.history()[-1].from_, registry.history()[-1].why) == (
        "delete",
        a.tag,
        "requested",
    )
    with pytest.raises(UserError, match=f"{a.tag} was deleted at"):
        registry.get(a.version)
    assert len(ModelStore(models).list()) == 2


def test_prune_deletes_all_others_and_keeps_latest_valid(
    registry: Registry, workspace: Workspace, models: Path
) -> None:
    workspace.set(registry__keep=2)
    registry = Registry()
    a, b, c = (promote(registry, content) for content in "abc")
    never = add(registry, "added, and then its promotion was killed")
    assert ModelStore(models).get(NAME).info.version == never.version
    assert registry.prune() == [a.tag, never.tag]
    assert registry.versions() == [b, c]
    assert (models / NAME / "latest").read_text(encoding="utf-8") == c.version
    assert registry.prune() == []
    assert registry.get("previous") == b
    assert promote(registry, "a").tag == a.tag  # what was deleted may come again
    assert registry.versions()[-1].tag == a.tag


def test_a_rollback_skips_deleted_versions(registry: Registry, workspace: Workspace) -> None:
    workspace.set(registry__keep=1)
    registry = Registry()
    for content in "abac":
        promote(registry, content)
    registry.delete("previous")
    assert registry.get("previous").labels == {"data": "b"}


def test_projects_that_share_a_store_do_not_affect_each_other(
    registry: Registry, workspace: Workspace, tmp_path: Path
) -> None:
    workspace.set(registry__keep=1)
    other_root = tmp_path / "other"
    other_root.mkdir()
    shutil.copy("params.yaml", other_root)
    registry, other = Registry(), Registry(other_root)
    shared, own = promote(registry, "shared"), promote(registry, "own")
    assert other.versions() == []
    with pytest.raises(UserError, match=f"no version '{own.version}' in this registry"):
        other.get(own.version)
    assert promote(other, "shared").folder == shared.folder
    assert registry.prune() == [shared.tag]
    assert registry.versions() == [own]
    assert f"the files stay, {other_root / 'registry'} uses them" in registry.history()[-1].why
    assert champion_label(other) == "shared"
    other.verify("champion")
    promote(other, "other")
    assert other.prune() == [shared.tag]
    assert not shared.folder.exists()
    assert champion_label(registry) == "own"


def test_the_home_of_the_store_is_read_at_each_call(
    registry: Registry, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(registry, "new")
    shutil.move(models.parent, tmp_path / "moved")
    with pytest.raises(UserError, match="is not in the store"):
        registry.champion()
    monkeypatch.setenv("BENTOML_HOME", "$ELSEWHERE/moved")
    monkeypatch.setenv("ELSEWHERE", str(tmp_path))
    assert champion_label(registry) == "new"


def test_a_rollback_imports_nothing_heavy(registry: Registry) -> None:
    promote(registry, "old")
    promote(registry, "new")
    script = (
        "import sys; from pipeline.registry.store import Registry; Registry().rollback(None, 'complaints'); "
        "print([name for name in ('torch', 'transformers', 'bentoml', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert champion_label(registry) == "old"
