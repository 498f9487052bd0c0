"""Versions in the store: what they hold, and what is detected as damage."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bentoml._internal.models import ModelStore

from pipeline.command import UserError
from pipeline.registry import versions
from pipeline.registry.model_version import content_version
from pipeline.registry.store import Registry
from tests.pipeline.registry.models import NAME, add, flip_bit, make_model, promote


def test_a_version_hashes_file_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, content in (("b/x", b"1"), ("b.json", b"2"), (".DS_Store", b"3"), ("model.yaml", b"4")):
        (tmp_path / name).write_bytes(content)
    text = "".join(
        f"{name}\0{hashlib.sha256(content).hexdigest()}\0" for name, content in (("b/x", b"1"), ("b.json", b"2"))
    )
    assert content_version(tmp_path) == hashlib.sha256(text.encode()).hexdigest()[:40]


def test_a_version_is_a_bentoml_model(registry: Registry, models: Path) -> None:
    folder = make_model("tales")
    new = registry.add(folder, {"data": "4d2d"}, {"perplexity": 9.4, "forced": None, "groups": [{"a": 1}]})
    assert new.tag == f"{NAME}:{content_version(folder)}"
    assert content_version(new.folder) == new.version
    model = ModelStore(models).get(NAME)
    assert (str(model.tag), model.path) == (new.tag, str(new.folder))
    assert model.info.labels == new.labels == {"data": "4d2d"}
    assert model.info.metadata == {"perplexity": 9.4, "groups": [{"a": 1}]}  # BentoML's cannot hold None
    assert new.metadata == {"perplexity": 9.4, "forced": None, "groups": [{"a": 1}]}
    assert model.info.creation_time.isoformat(timespec="seconds") == new.created
    assert [str(listed.tag) for listed in ModelStore(models).list()] == [new.tag]


@pytest.mark.integration
def test_bentoml_lists_and_gets_a_version(registry: Registry) -> None:
    new = promote(registry, "tales")
    python = [sys.executable, "-W", "ignore", "-m"]
    listed = subprocess.run([*python, "bentoml", "models", "list", "-o", "json"], capture_output=True, text=True)
    assert [model["tag"] for model in json.loads(listed.stdout)] == [new.tag]
    script = f"import bentoml; print(bentoml.models.get({new.tag!r}).path)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == str(
        new.folder
    )


def test_the_same_content_is_one_version_with_its_first_labels(registry: Registry) -> None:
    first = add(registry, "tales")
    assert registry.add(make_model("tales"), {"data": "other"}, {}) == first
    assert registry.versions() == [first]


def test_a_version_collision_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version_of", lambda _: "0" * 40)
    first = add(registry, "tales")
    assert add(registry, "tales") == first
    with pytest.raises(UserError, match="holds another model under this version"):
        add(registry, "other")
    registry.verify(first.tag)
    assert registry.versions() == [first]


def test_a_version_holds_copies(registry: Registry) -> None:
    new = add(registry, "tales")
    make_model("other")
    registry.verify(new.tag)
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in new.folder.iterdir())


def test_a_folder_without_a_whole_model_is_refused(registry: Registry, models: Path) -> None:
    folder = make_model("tales")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"models/candidate: lacks tokenizer\.json, .*`dvc repro`"):
        registry.add(folder, {}, {})
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        registry.add(Path("nowhere"), {}, {})
    (folder / "tokenizer.json").symlink_to(folder.absolute() / "config.json")
    with pytest.raises(UserError, match=r"tokenizer\.json: a link is no copy"):
        registry.add(folder, {}, {})
    assert not models.exists()


def test_an_unwritable_store_is_a_user_error(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"/file/\.registry: Not a directory; the champion is the one that"):
        add(registry, "tales")


def test_a_full_disk_leaves_nothing_behind(registry: Registry, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = promote(registry, "old")

    def full(_: object, to: Path) -> None:
        raise OSError(28, "No space left on device", str(to))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match="No space left on device"):
        add(registry, "new")
    assert registry.champion() == old
    assert sorted(path.name for path in (models.parent / ".registry").iterdir()) == ["lock", "users"]


DAMAGES = {
    "flipped": (flip_bit, "does not hold what was added"),
    "cut": (lambda path: os.truncate(path, 3), "has 3 bytes, but"),
    "gone": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("kind", list(DAMAGES))
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "model.yaml"])
def test_a_damaged_version_is_refused_with_its_file_and_the_last_good_version(
    registry: Registry, kind: str, name: str
) -> None:
    old, new = promote(registry, "old"), promote(registry, "new")
    damage, sentence = DAMAGES[kind]
    damage(new.folder / name)
    match = rf"{new.tag} is damaged: {new.folder / name} {sentence}.*; the last good version is {old.tag}: `fresh"
    for act in (registry.champion, lambda: registry.verify("champion"), lambda: registry.verify(new.version)):
        with pytest.raises(UserError, match=match):
            act()
    registry.rollback(None, "damaged")
    assert registry.champion() == old
    with pytest.raises(UserError, match=f"is damaged: .*{name}"):
        registry.rollback(new.version, "forward again")
    assert add(registry, "new").tag == new.tag  # made whole
    registry.verify(new.tag)


def test_a_flipped_bit_anywhere_in_version_json_is_detected(registry: Registry) -> None:
    new = promote(registry, "new")
    record = new.folder / "version.json"
    whole = record.read_bytes()
    for place in range(0, len(whole), 5):
        record.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        if json_of(record) == json.loads(whole):
            continue  # white space
        assert "version.json is missing or not as it was written" in registry.check(new.tag)


def json_of(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_the_files_of_another_version_are_detected(registry: Registry) -> None:
    old, new = promote(registry, "old"), promote(registry, "new")
    shutil.copytree(old.folder, new.folder, dirs_exist_ok=True)
    with pytest.raises(UserError, match="holds another version"):
        registry.champion()


def test_an_extra_file_is_detected(registry: Registry) -> None:
    new = promote(registry, "new")
    (new.folder / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"pytorch_model\.bin was not added with it"):
        registry.champion()


def test_large_files_are_hashed_by_verify_and_before_a_move_only(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "QUICK_HASH_BYTES", 1)
    old, new = promote(registry, "old"), promote(registry, "new")
    flip_bit(old.folder / "model.safetensors")
    assert registry.check(old.tag) == ""
    with pytest.raises(UserError, match=rf"does not hold what was added; the champion, {new.tag}, is whole"):
        registry.verify(old.tag)
    with pytest.raises(UserError, match="does not hold what was added"):
        registry.rollback(None, "complaints")
    assert registry.champion() == new


def test_with_no_whole_version_left_the_error_says_how_to_start_over(registry: Registry) -> None:
    shutil.rmtree(promote(registry, "new").folder)
    with pytest.raises(
        UserError, match=r"is not in the store: .* is missing; no version in the history is whole, so move"
    ):
        registry.champion()


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": 5},
        {"created": None},
        {"files": {"config.json": 5}},
        {"files": {"config.json": {"size": "1", "sha256": "0"}}},
        {"metadata": []},
    ],
)
def test_wrong_types_in_version_json_are_damage(registry: Registry, changed: dict[str, object]) -> None:
    path = promote(registry, "new").folder / "version.json"
    record = json.loads(path.read_text(encoding="utf-8"))["record"] | changed
    checksum = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": checksum, "record": record}), encoding="utf-8")
    with pytest.raises(UserError, match=r"version\.json is missing or not as it was written"):
        registry.champion()


def test_a_pipe_in_place_of_version_json_is_damage(registry: Registry) -> None:
    path = promote(registry, "new").folder / "version.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"version\.json is missing or not as it was written"):
        registry.champion()
