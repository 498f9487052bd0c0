import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bentoml._internal.models import ModelStore

from pipeline import paths
from pipeline.command import UserError, run
from pipeline.registry import store
from pipeline.registry.model_version import REQUIRED_FILES, content_version, short
from pipeline.registry.store import Entry, Registry, Version
from tests.conftest import ROOT, Workspace

NAME = "text-generator"


@pytest.fixture
def models(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of BentoML's models, in a home of its own, for a project that is the current folder."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def ours(models: Path) -> Registry:
    return Registry()


def candidate(content: str, folder: str = "models/candidate") -> Path:
    """Make a folder with what stands for a model."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for name in (*REQUIRED_FILES, "manifest.json"):
        (path / name).write_text(json.dumps({"content": content, "of": name}), encoding="utf-8")
    return path


def add(ours: Registry, content: str) -> Version:
    return ours.add(candidate(content), {"data": content}, {"candidate": {"perplexity": 9.4}})


def promote(ours: Registry, content: str) -> Version:
    champion = ours.champion()
    new = add(ours, content)
    ours.move(
        new, expected=champion.tag if champion else None, action="promote", why=content, figures={"perplexity": 9}
    )
    return new


def champion(ours: Registry) -> str:
    found = ours.champion()
    assert found is not None
    return found.labels["data"]


def lines() -> list[dict[str, object]]:
    return [json.loads(line) for line in Path("registry/history.jsonl").read_text(encoding="utf-8").splitlines()]


# Versions


def test_a_version_is_the_hash_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, content in (("b/x", b"1"), ("b.json", b"2"), (".DS_Store", b"3"), ("model.yaml", b"4")):
        (tmp_path / name).write_bytes(content)
    text = "".join(
        f"{name}\0{hashlib.sha256(content).hexdigest()}\0" for name, content in (("b/x", b"1"), ("b.json", b"2"))
    )
    assert content_version(tmp_path) == hashlib.sha256(text.encode()).hexdigest()[:40]


def test_a_version_is_a_model_of_bentoml(ours: Registry, models: Path) -> None:
    folder = candidate("tales")
    new = ours.add(folder, {"data": "4d2d"}, {"perplexity": 9.4, "forced": None, "groups": [{"a": 1}]})
    assert new.tag == f"{NAME}:{content_version(folder)}"
    assert content_version(new.folder) == new.version
    found = ModelStore(models).get(NAME)
    assert (str(found.tag), found.path) == (new.tag, str(new.folder))
    assert found.info.labels == new.labels == {"data": "4d2d"}
    assert found.info.metadata == {"perplexity": 9.4, "groups": [{"a": 1}]}  # BentoML's cannot hold None
    assert new.metadata == {"perplexity": 9.4, "forced": None, "groups": [{"a": 1}]}
    assert found.info.creation_time.isoformat(timespec="seconds") == new.created
    assert [str(model.tag) for model in ModelStore(models).list()] == [new.tag]


@pytest.mark.integration
def test_bentoml_lists_and_gets_it(ours: Registry) -> None:
    new = promote(ours, "tales")
    python = [sys.executable, "-W", "ignore", "-m"]
    listed = subprocess.run([*python, "bentoml", "models", "list", "-o", "json"], capture_output=True, text=True)
    assert [model["tag"] for model in json.loads(listed.stdout)] == [new.tag]
    script = f"import bentoml; print(bentoml.models.get({new.tag!r}).path)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == str(
        new.folder
    )


def test_the_same_content_is_one_version_and_keeps_its_labels(ours: Registry) -> None:
    first = add(ours, "tales")
    assert ours.add(candidate("tales"), {"data": "other"}, {}) == first
    assert ours.versions() == [first]


def test_two_models_made_to_have_one_version_are_told_apart_by_their_files(
    ours: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "version_of", lambda _: "0" * 40)
    first = add(ours, "tales")
    assert add(ours, "tales") == first
    with pytest.raises(UserError, match="holds another model under this version"):
        add(ours, "other")
    ours.verify(first.tag)
    assert ours.versions() == [first]


def test_a_version_holds_copies(ours: Registry) -> None:
    new = add(ours, "tales")
    candidate("other")
    ours.verify(new.tag)
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in new.folder.iterdir())


def test_a_folder_without_a_whole_model_is_refused(ours: Registry, models: Path) -> None:
    folder = candidate("tales")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"models/candidate: lacks tokenizer\.json, .*`dvc repro`"):
        ours.add(folder, {}, {})
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        ours.add(Path("nowhere"), {}, {})
    (folder / "tokenizer.json").symlink_to(folder.absolute() / "config.json")
    with pytest.raises(UserError, match=r"tokenizer\.json: a link is no copy"):
        ours.add(folder, {}, {})
    assert not models.exists()


def test_a_store_that_cannot_be_written_is_one_sentence(
    ours: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"/file/\.registry: Not a directory; the champion is the one that"):
        add(ours, "tales")


def test_a_full_disk_leaves_nothing_behind(ours: Registry, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = promote(ours, "old")

    def full(_: object, to: Path) -> None:
        raise OSError(28, "No space left on device", str(to))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match="No space left on device"):
        add(ours, "new")
    assert ours.champion() == old
    assert sorted(path.name for path in (models.parent / ".registry").iterdir()) == ["lock", "users"]


# Registries of older releases, whose versions had 12 digits


def made_by_an_older_release(ours: Registry, models: Path) -> None:
    """Rewrite a registry and its store as releases with versions of 12 digits wrote them."""
    for version in ours.versions():
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


def test_a_registry_of_an_older_release_goes_on(ours: Registry, workspace: Workspace, models: Path) -> None:
    old, new, never = promote(ours, "old"), promote(ours, "new"), add(ours, "never promoted")
    made_by_an_older_release(ours, models)
    workspace.set(registry__keep=1)
    ours = Registry()
    now = ours.champion()
    assert now is not None
    assert (now.tag, now.version) == (short(new.tag), new.version)
    assert {version.version for version in ours.versions()} == {old.version, new.version, never.version}
    for name in (new.tag, short(new.tag), new.version, short(new.version), new.version[:6], "champion"):
        assert ours.get(name) == now
    assert add(ours, "new") == now  # the same content is one version
    ours.rollback(None, "complaints")
    assert champion(ours) == "old"
    entry = ours.rolled_back(new.version)
    assert entry is not None
    assert entry.why == "complaints"
    newest = promote(ours, "newest")
    assert newest.tag == f"{NAME}:{newest.version}"
    assert sorted(ours.prune()) == sorted([short(old.tag), short(new.tag), short(never.tag)])
    assert ours.versions() == [newest]
    assert [path.name for path in (models.parent / ".registry" / "users").iterdir()] == [
        Path("registry/id").read_text(encoding="utf-8").strip()
    ]


def test_a_version_of_an_older_release_is_held_to_all_of_its_hashes_and_made_whole(
    ours: Registry, models: Path
) -> None:
    new = promote(ours, "new")
    made_by_an_older_release(ours, models)
    flip(new.folder.with_name(short(new.version)) / "model.safetensors")
    with pytest.raises(UserError, match="does not hold what was added"):
        ours.champion()
    assert add(ours, "new").tag == short(new.tag)
    ours.verify("champion")


def test_another_model_that_begins_with_the_same_12_digits_is_another_version(
    ours: Registry, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two folders can be made to collide in the 48 bits of an older release's version."""
    old = promote(ours, "old")
    made_by_an_older_release(ours, models)
    version_of = store.version_of
    monkeypatch.setattr(store, "version_of", lambda sums: old.version[:12] + version_of(sums)[12:])
    other = promote(ours, "other")
    assert other.tag != short(old.tag)
    assert ours.get("previous").tag == short(old.tag)
    with pytest.raises(UserError, match="write one more digit"):
        ours.get(other.version[:11])


# The champion and its history


def test_nothing_promoted_is_no_champion(ours: Registry) -> None:
    assert ours.champion() is None
    assert (ours.history(), ours.versions(), ours.prune()) == ([], [], [])


def test_the_history_tells_who_when_from_to_why_and_with_what_figures(ours: Registry) -> None:
    old, new = promote(ours, "old"), add(ours, "new")
    entry = ours.move(
        new,
        expected=old.tag,
        action="force",
        why="a  fair\nreason",
        who="jane",
        figures={"perplexity": 9, "gate": None},
    )
    ours.refuse("0" * 12, "worse", {"perplexity": 12.5})
    assert lines()[1:] == [
        {
            "serial": 2,
            "at": entry.at,
            "who": "jane",
            "action": "force",
            "from": old.tag,
            "to": new.tag,
            "why": "a fair reason",
            "figures": {"perplexity": 9.0, "gate": None},
        },
        {**lines()[2], "serial": 3, "action": "refuse", "from": new.tag, "to": f"{NAME}:{'0' * 12}", "why": "worse"},
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry.at)
    assert [found.as_json() for found in ours.history()] == lines()
    assert json.loads(Path("registry/champion.json").read_text(encoding="utf-8")) == lines()[1]
    assert ours.since(new.tag) == entry.at


def test_who_decided_on_another_champion_is_told(ours: Registry) -> None:
    first, second, third = promote(ours, "1"), promote(ours, "2"), add(ours, "3")
    with pytest.raises(
        UserError, match=f"the champion changed from {first.tag} to {second.tag} while .*; run it again"
    ):
        ours.move(third, expected=first.tag, action="promote", why="better")
    with pytest.raises(UserError, match=f"changed from none to {second.tag}"):
        ours.move(third, expected=None, action="promote", why="first")
    assert ours.champion() == second
    assert len(ours.history()) == 2


def test_a_reason_is_needed(ours: Registry) -> None:
    new = add(ours, "new")
    with pytest.raises(UserError, match="a force needs a reason"):
        ours.move(new, expected=None, action="force", why="  ")
    assert ours.champion() is None


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_history_line_that_was_cut_off_is_told_kept_aside_and_written_again(
    ours: Registry, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(ours, "old")
    promote(ours, "new")
    history = Path("registry/history.jsonl")
    whole = history.read_bytes()
    start = whole.index(b"\n") + 1
    torn = whole[: start + cut] if cut > 0 else whole[:-2]
    history.write_bytes(torn)
    assert [entry.why for entry in ours.history()] == ["old", "new"]  # the pointer holds its own entry
    assert "its last line is cut off" in capsys.readouterr().err
    ours.refuse("0" * 12, "worse", {})
    assert [line["why"] for line in lines()] == ["old", "new", "worse"]
    assert Path("registry/history.torn").read_bytes() == torn[start:] + b"\n"
    assert "kept in registry/history.torn" in capsys.readouterr().err


def test_a_link_in_the_place_of_the_history_is_not_cut_off(ours: Registry) -> None:
    promote(ours, "old")
    precious, history = Path("precious"), Path("registry/history.jsonl")
    precious.write_bytes(history.read_bytes() + b"mine, without an end of line")
    history.unlink()
    history.symlink_to(precious.resolve())
    with pytest.raises(UserError, match=r"history.jsonl: is a link, through which nothing is written"):
        ours.refuse("0" * 12, "worse", {})
    assert precious.read_bytes().endswith(b"mine, without an end of line")


def test_a_history_line_that_lacks_only_its_end_is_completed(ours: Registry) -> None:
    promote(ours, "old")
    history = Path("registry/history.jsonl")
    whole = history.read_bytes()
    history.write_bytes(whole[:-1])
    ours.refuse("0" * 12, "worse", {})
    assert history.read_bytes().startswith(whole)
    assert not Path("registry/history.torn").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda line: line[:30], "line 1 is damaged"),
        (lambda line: line[:0], "line 1 is damaged"),
        (lambda line: line.replace(b'"promote"', b'"praise"'), "line 1 is damaged .action: Input should be"),
        (lambda line: line.replace(b'"serial":1', b'"serial":7'), "line 2 has the serial 2 after 7"),
    ],
)
def test_a_damaged_line_within_the_history_is_named(ours: Registry, damage: object, sentence: str) -> None:
    promote(ours, "old")
    promote(ours, "new")
    history = Path("registry/history.jsonl")
    first, rest = history.read_bytes().split(b"\n", 1)
    assert callable(damage)
    history.write_bytes(damage(first) + b"\n" + rest)
    for act in (ours.champion, ours.history, lambda: ours.rollback(None, "why")):
        with pytest.raises(UserError, match=rf"registry/history\.jsonl: {sentence}.*take the line out"):
            act()


# Damage


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is damaged .Invalid JSON"),
        ("{", "is damaged .Invalid JSON"),
        ("[]", "is damaged .Input should be"),
        ('{"tag": "x"}', "is damaged .serial: "),
        (None, "is missing, though"),
        (
            "put back",
            "names .* of entry 1, but by the history the champion is .* in entry 2; it was edited or put back",
        ),
        ("unknown", r"names text-generator:0{12} of entry 2, but by the history"),
        ("elsewhere", r"is damaged .it is of a promote to '\.\./\.\./secret:0{12}', but should name a version"),
    ],
)
def test_a_damaged_pointer_is_refused_with_the_way_back(ours: Registry, content: str | None, sentence: str) -> None:
    promote(ours, "old")
    pointer = Path("registry/champion.json")
    before = pointer.read_text(encoding="utf-8")
    new = promote(ours, "new")
    now = pointer.read_text(encoding="utf-8")
    texts = {
        "put back": before,
        "unknown": now.replace(new.version, "0" * 12),
        "elsewhere": now.replace(new.tag, "../../secret:000000000000"),
    }
    if content is None:
        pointer.unlink()
    else:
        pointer.write_text(texts.get(content, content), encoding="utf-8")
    back = f'the last good version is {new.tag}: `python -m pipeline.registry rollback {new.version} --why "..."`'
    with pytest.raises(UserError, match=rf"registry/champion\.json: {sentence}") as caught:
        ours.champion()
    assert str(caught.value).endswith(back)
    with pytest.raises(UserError, match=sentence):
        ours.move(new, expected=None, action="promote", why="better")
    with pytest.raises(UserError, match="nothing is deleted before that is mended"):
        ours.prune()
    ours.rollback(new.version, "the pointer was damaged")
    assert ours.champion() == new
    assert [entry.why for entry in ours.history()] == ["old", "new", "the pointer was damaged"]


def test_with_a_damaged_pointer_a_rollback_goes_to_the_champion_that_the_history_names(ours: Registry) -> None:
    promote(ours, "old")
    promote(ours, "new")
    Path("registry/champion.json").write_text("{", encoding="utf-8")
    ours.rollback(None, "mended")
    assert champion(ours) == "new"
    ours.rollback(None, "complaints")
    assert champion(ours) == "old"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped": (flip, "does not hold what was added"),
    "cut": (lambda path: os.truncate(path, 3), "has 3 bytes, but"),
    "gone": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("kind", list(DAMAGES))
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "model.yaml"])
def test_a_damaged_version_is_refused_with_its_file_and_the_way_back(ours: Registry, kind: str, name: str) -> None:
    old, new = promote(ours, "old"), promote(ours, "new")
    damage, sentence = DAMAGES[kind]
    damage(new.folder / name)
    match = rf"{new.tag} is damaged: {new.folder / name} {sentence}.*; the last good version is {old.tag}: `python"
    for act in (ours.champion, lambda: ours.verify("champion"), lambda: ours.verify(new.version)):
        with pytest.raises(UserError, match=match):
            act()
    ours.rollback(None, "damaged")
    assert ours.champion() == old
    with pytest.raises(UserError, match=f"is damaged: .*{name}"):
        ours.rollback(new.version, "forward again")
    assert add(ours, "new").tag == new.tag  # made whole
    ours.verify(new.tag)


def test_a_flipped_bit_anywhere_in_a_record_is_noticed(ours: Registry) -> None:
    new = promote(ours, "new")
    record = new.folder / "version.json"
    whole = record.read_bytes()
    for place in range(0, len(whole), 5):
        record.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        if json_of(record) == json.loads(whole):
            continue  # white space
        assert "version.json is missing or not as it was written" in ours.check(new.tag)


def json_of(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_a_record_of_other_files_is_noticed(ours: Registry) -> None:
    old, new = promote(ours, "old"), promote(ours, "new")
    shutil.copytree(old.folder, new.folder, dirs_exist_ok=True)
    with pytest.raises(UserError, match="holds another version"):
        ours.champion()


def test_a_file_that_was_put_beside_is_noticed(ours: Registry) -> None:
    new = promote(ours, "new")
    (new.folder / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"pytorch_model\.bin was not added with it"):
        ours.champion()


def test_a_large_file_is_read_by_verify_and_before_a_move_not_at_every_look(
    ours: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_QUICKLY_HASHED", 1)
    old, new = promote(ours, "old"), promote(ours, "new")
    flip(old.folder / "model.safetensors")
    assert ours.check(old.tag) == ""
    with pytest.raises(UserError, match=rf"does not hold what was added; the champion, {new.tag}, is whole"):
        ours.verify(old.tag)
    with pytest.raises(UserError, match="does not hold what was added"):
        ours.rollback(None, "complaints")
    assert ours.champion() == new


def test_where_nothing_is_whole_the_way_out_is_named(ours: Registry) -> None:
    shutil.rmtree(promote(ours, "new").folder)
    with pytest.raises(
        UserError, match=r"is not in the store: .* is missing; no version in the history is whole, so move"
    ):
        ours.champion()


# Going back


def test_rollbacks_go_back_one_champion_each(ours: Registry) -> None:
    for content in "abc":
        promote(ours, content)
    ours.rollback(None, "complaints")
    assert champion(ours) == "b"
    ours.rollback(None, "more complaints")
    assert champion(ours) == "a"
    with pytest.raises(UserError, match="there is no champion before"):
        ours.rollback(None, "even more")
    promote(ours, "d")
    ours.rollback(None, "again")
    assert champion(ours) == "a"
    entry = ours.history()[-1]
    assert (entry.action, entry.why) == ("rollback", "again")


def test_a_rollback_goes_to_any_version_by_name(ours: Registry) -> None:
    versions = {content: promote(ours, content) for content in "abc"}
    ours.rollback(versions["a"].version[:6], "far back")
    assert champion(ours) == "a"
    ours.rollback(versions["c"].tag, "and forward")
    assert champion(ours) == "c"
    assert ours.get("previous") == versions["a"]
    with pytest.raises(UserError, match="is the champion; name another"):
        ours.rollback("champion", "why not")


def test_without_a_champion_there_is_no_way_back(ours: Registry) -> None:
    with pytest.raises(UserError, match="there is no champion yet"):
        ours.rollback(None, "why")


def test_what_was_rolled_back_is_known_until_it_is_champion_again(ours: Registry) -> None:
    old, new = promote(ours, "old"), promote(ours, "new")
    assert ours.rolled_back(new.version) is None
    entry = ours.rollback(None, "complaints")
    assert ours.rolled_back(new.version) == ours.rolled_back(new.tag) == entry
    assert ours.rolled_back(old.version) is None
    promote(ours, "third")
    ours.refuse(new.version, "it was rolled back", {})
    assert ours.rolled_back(new.version) == entry
    ours.move(new, expected=ours.get("champion").tag, action="force", why="the complaints were about something else")
    assert ours.rolled_back(new.version) is None


# Names, and what is never deleted


def test_a_version_is_called_by_its_tag_its_digits_their_beginning_or_its_place(ours: Registry) -> None:
    old, new = promote(ours, "old"), promote(ours, "new")
    for name in (old.tag, old.version, old.version[:8], "previous"):
        assert ours.get(name) == old
    assert ours.get("champion") == new
    with pytest.raises(
        UserError, match=f"no version 'zebra' in this registry; expected champion, .*{old.tag}, {new.tag}"
    ):
        ours.get("zebra")
    with pytest.raises(UserError, match="no version ''"):
        ours.get("")


def test_a_beginning_that_two_versions_share_is_refused(ours: Registry) -> None:
    seen: dict[str, str] = {}
    for number in range(17):  # 17 versions cannot begin with 16 different digits
        version = promote(ours, str(number)).version
        if version[0] in seen:
            break
        seen[version[0]] = version
    with pytest.raises(UserError, match=f"'{version[0]}' is the beginning of .*, .*; write one more digit"):
        ours.get(version[0])


def test_the_champion_and_the_ones_of_late_are_never_deleted(
    ours: Registry, workspace: Workspace, models: Path
) -> None:
    workspace.set(registry__keep=2)
    ours = Registry()
    a, b, c = (promote(ours, content) for content in "abc")
    with pytest.raises(UserError, match=f"{c.tag} is the champion and is never deleted"):
        ours.delete("champion")
    with pytest.raises(UserError, match=rf"{b.tag} is among the last 2 champions \(registry\.keep in params\.yaml\)"):
        ours.delete(b.version)
    ours.delete(a.version)
    assert ours.versions() == [b, c]
    assert not a.folder.exists()
    assert (ours.history()[-1].action, ours.history()[-1].from_, ours.history()[-1].why) == (
        "delete",
        a.tag,
        "asked for",
    )
    with pytest.raises(UserError, match=f"{a.tag} was deleted at"):
        ours.get(a.version)
    assert len(ModelStore(models).list()) == 2


def test_prune_deletes_all_others_and_latest_stays_valid(ours: Registry, workspace: Workspace, models: Path) -> None:
    workspace.set(registry__keep=2)
    ours = Registry()
    a, b, c = (promote(ours, content) for content in "abc")
    never = add(ours, "added, and then its promotion was killed")
    assert ModelStore(models).get(NAME).info.version == never.version
    assert ours.prune() == [a.tag, never.tag]
    assert ours.versions() == [b, c]
    assert (models / NAME / "latest").read_text(encoding="utf-8") == c.version
    assert ours.prune() == []
    assert ours.get("previous") == b
    assert promote(ours, "a").tag == a.tag  # what was deleted may come again
    assert ours.versions()[-1].tag == a.tag


def test_a_rollback_skips_what_was_deleted(ours: Registry, workspace: Workspace) -> None:
    workspace.set(registry__keep=1)
    ours = Registry()
    for content in "abac":
        promote(ours, content)
    ours.delete("previous")
    assert ours.get("previous").labels == {"data": "b"}


def test_projects_share_a_store_and_leave_each_other_alone(
    ours: Registry, workspace: Workspace, tmp_path: Path
) -> None:
    workspace.set(registry__keep=1)
    theirs_root = tmp_path / "theirs"
    theirs_root.mkdir()
    shutil.copy("params.yaml", theirs_root)
    ours, theirs = Registry(), Registry(theirs_root)
    shared, own = promote(ours, "shared"), promote(ours, "ours")
    assert theirs.versions() == []
    with pytest.raises(UserError, match=f"no version '{own.version}' in this registry"):
        theirs.get(own.version)
    assert promote(theirs, "shared").folder == shared.folder
    assert ours.prune() == [shared.tag]
    assert ours.versions() == [own]
    assert f"the files stay, {theirs_root / 'registry'} uses them" in ours.history()[-1].why
    assert champion(theirs) == "shared"
    theirs.verify("champion")
    promote(theirs, "theirs")
    assert theirs.prune() == [shared.tag]
    assert not shared.folder.exists()
    assert champion(ours) == "ours"


def test_the_place_of_the_store_is_looked_up_at_each_call(
    ours: Registry, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(ours, "new")
    shutil.move(models.parent, tmp_path / "moved")
    with pytest.raises(UserError, match="is not in the store"):
        ours.champion()
    monkeypatch.setenv("BENTOML_HOME", "$ELSEWHERE/moved")
    monkeypatch.setenv("ELSEWHERE", str(tmp_path))
    assert champion(ours) == "new"


# The command


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str, code: int = 0) -> str:
    """Run the command as a user does, but for a process of its own; return what it printed."""
    monkeypatch.setattr(sys, "argv", ["registry", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(store.main)
    printed = capsys.readouterr()
    assert ended.value.code == code, printed
    return printed.err if code else printed.out


def test_the_command_shows_people_tables_and_scripts_json(
    ours: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no versions yet" in call(capsys, monkeypatch, "list")
    old, new = promote(ours, "old"), promote(ours, "new")
    listed = call(capsys, monkeypatch, "list").splitlines()
    minute = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(rf"{short(new.tag)}  champion  {minute}  {minute}  perplexity 9", listed[1])
    assert re.fullmatch(rf"{short(old.tag)}  whole     {minute}  {minute}  perplexity 9", listed[2])
    found = json.loads(call(capsys, monkeypatch, "list", "--json"))
    assert found["champion"] == new.tag
    assert [version["state"] for version in found["versions"]] == ["champion", "whole"]
    assert json.loads(call(capsys, monkeypatch, "show", "--json"))["labels"] == {"data": "new"}
    assert re.search(r"labels\.data +old\n", call(capsys, monkeypatch, "show", "previous"))
    assert json.loads(call(capsys, monkeypatch, "rollback", "--why", "complaints", "--json"))["to"] == old.tag
    told = call(capsys, monkeypatch, "history").splitlines()
    assert re.fullmatch(rf"3   {minute} UTC  rollback  {short(new.tag)} -> {short(old.tag)}", told[-2])
    assert re.fullmatch(r"    \S+: complaints", told[-1])
    assert max(map(len, told)) <= 100
    assert json.loads(call(capsys, monkeypatch, "history", "--json"))[2]["why"] == "complaints"
    assert json.loads(call(capsys, monkeypatch, "prune", "--json")) == []


def test_the_command_shows_only_what_differs(
    ours: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, epochs, steps in (("old", 3, 10), ("new", 5, 10)):
        manifest = {"params": {"finetune": {"epochs": epochs}}, "metrics": {"steps": steps}}
        (candidate("same") / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        seen = ours.champion()
        version = ours.add(paths.CANDIDATE, {"data": content}, {})
        ours.move(version, expected=seen.tag if seen else None, action="promote", why=content)
    text = call(capsys, monkeypatch, "diff", "previous", "champion")
    assert re.search(r"labels\.data +old +new\n", text)
    assert re.search(r"manifest\.params\.finetune\.epochs +3 +5\n", text)
    assert "steps" not in text
    assert "model.safetensors" not in text
    assert "\ndata: " in text
    found = json.loads(call(capsys, monkeypatch, "diff", "previous", "champion", "--json"))
    assert found["differences"]["manifest.params.finetune.epochs"] == [3, 5]
    assert found["data"] is None
    assert "has no clean_md5" in found["data_why_not"]


def test_after_a_rollback_the_figures_are_still_those_of_the_last_judgement(
    ours: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = promote(ours, "old"), promote(ours, "new")
    ours.rollback(None, "complaints")
    ours.rollback(new.version, "they were wrong")
    listed = json.loads(call(capsys, monkeypatch, "list", "--json"))
    assert {one["tag"]: one["figures"] for one in listed["versions"]} == {
        new.tag: {"perplexity": 9.0},
        old.tag: {"perplexity": 9.0},
    }
    assert "figures" not in call(capsys, monkeypatch, "diff", old.version, new.version)


def test_damage_is_listed_and_the_way_back_is_one_command(
    ours: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = promote(ours, "old"), promote(ours, "new")
    (new.folder / "config.json").unlink()
    listed = json.loads(call(capsys, monkeypatch, "list", "--json"))
    assert listed["champion"] is None
    assert "config.json is missing" in listed["versions"][0]["state"]
    error = call(capsys, monkeypatch, "show", "champion", code=2)
    command = re.search(r"`python -m pipeline\.registry (.+)`", error)
    assert command
    call(capsys, monkeypatch, *command[1].replace('"..."', "damaged").split())
    assert ours.champion() == old


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["show", "zebra"],
        ["rollback"],
        ["rollback", "--why", ""],
        ["rollback", "--why", "caf\udce9"],
        ["delete", "zebra"],
        ["diff", "a", "b"],
        [],
    ],
)
def test_a_mistake_of_the_caller_is_told_without_a_traceback(
    ours: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    error = call(capsys, monkeypatch, *arguments, code=2)
    assert "Traceback" not in error
    assert "error: " in error


def test_the_command_works_from_the_projects_root_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = call(capsys, monkeypatch, "rollback", "--why", "complaints", code=2)
    assert error == "error: params.yaml is not here; run the command from the repository's root\n"
    assert list(tmp_path.iterdir()) == []


def test_a_rollback_imports_nothing_heavy(ours: Registry) -> None:
    promote(ours, "old")
    promote(ours, "new")
    script = (
        "import sys; from pipeline.registry.store import Registry; Registry().rollback(None, 'complaints'); "
        "print([name for name in ('torch', 'transformers', 'bentoml', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert champion(ours) == "old"


def test_entries_have_the_keys_of_the_contract() -> None:
    entry = Entry(
        1, "2026-01-01T00:00:00+00:00", "jane@ship", "promote", None, f"{NAME}:{'0' * 12}", "first", {"p": 9.4}
    )
    assert list(entry.as_json()) == ["serial", "at", "who", "action", "from", "to", "why", "figures"]
