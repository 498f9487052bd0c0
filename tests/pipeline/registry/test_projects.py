"""Projects that share a store: moved, copied or deleted, none loses a version that it uses."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from pipeline.command import UserError
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from tests.conftest import ROOT
from tests.pipeline.registry import models


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def first(store: Path, tmp_path: Path) -> Path:
    """Return a project that keeps one version, and has promoted one."""
    project = tmp_path / "first"
    project.mkdir()
    settings = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("keep: 5", "keep: 1")
    (project / "params.yaml").write_text(settings, encoding="utf-8")
    promote(project, "one")
    return project


def add(project: Path, content: str) -> Version:
    return models.add(Registry(project), content, project / "models" / "candidate")


def promote(project: Path, content: str) -> Version:
    return models.promote(Registry(project), content, project / "models" / "candidate")


def champion(project: Path) -> str:
    """Return which model is the champion, and check every byte of it."""
    Registry(project).verify("champion")
    return models.champion_label(Registry(project))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{" * 100_000, b'{"folder": 5}'])
def test_damaged_records_of_projects_are_reported(first: Path, store: Path, content: bytes) -> None:
    [record] = (store / ".registry" / "users").glob("[!.]*")
    record.write_bytes(content)
    with pytest.raises(UserError, match=rf"{record.name}: is damaged"):
        Registry(first).prune()
    (first / "registry" / "id").write_bytes(content)
    with pytest.raises(UserError, match="id: is damaged, expected 32 hexadecimal digits"):
        Registry(first).prune()


def id_of(project: Path) -> str:
    return (project / "registry" / "id").read_text(encoding="utf-8").strip()


def test_a_moved_project_keeps_its_registry(
    first: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id_before = id_of(first)
    waiting = add(first, "waiting for its promotion")
    moved = first.rename(tmp_path / "moved")
    assert champion(moved) == "one"
    assert waiting in Registry(moved).versions()
    promote(moved, "two")
    assert f"whose registry was {first / 'registry'} was moved here" in capsys.readouterr().err
    assert id_of(moved) == id_before
    assert [user.name for user in (store / ".registry" / "users").iterdir()] == [id_before]
    assert len(Registry(moved).prune()) == 2  # nobody else uses them
    assert [version.labels["data"] for version in Registry(moved).versions()] == ["two"]


def test_a_copy_gets_its_own_registry_at_its_first_change(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    promote(copy, "two")
    assert "this project is a copy of the one whose registry is" in (stderr := capsys.readouterr().err)
    assert "missing" not in stderr
    assert id_of(copy) != id_of(first)
    [deleted] = Registry(copy).prune()
    assert f"the files stay, {first / 'registry'} uses them" in Registry(copy).history()[-1].why
    assert (champion(first), champion(copy)) == ("one", "two")
    assert Registry(first).get("champion").tag == deleted
    promote(first, "three")
    Registry(first).prune()
    assert (champion(first), champion(copy)) == ("three", "two")
    assert "copy" not in capsys.readouterr().err


def test_a_copy_of_a_project_that_was_moved_later_deletes_nothing_of_it(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    moved = first.rename(tmp_path / "moved")
    promote(copy, "two")
    hint = f"`fresh registry forget {first}`"
    assert hint in capsys.readouterr().err
    Registry(copy).prune()
    why = Registry(copy).history()[-1].why
    assert "the files stay" in why
    assert f"{first / 'registry'} uses them; that folder is missing" in why
    assert hint in why
    assert (champion(moved), champion(copy)) == ("one", "two")
    promote(moved, "three")
    assert (champion(moved), champion(copy)) == ("three", "two")


def test_a_version_added_but_not_yet_promoted_is_kept(first: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    shutil.copy(first / "params.yaml", second)
    shared = add(second, "one")
    promote(first, "two")
    Registry(first).prune()
    Registry(second).move(shared, expected=None, action="promote", why="first")
    assert champion(second) == "one"


def test_forget_releases_the_versions_of_a_deleted_project(first: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    only_first = promote(first, "two")
    shared = promote(copy, "three")
    promote(first, "three")
    with pytest.raises(UserError, match="that project is there and uses the store"):
        Registry(copy).forget(first)
    with pytest.raises(UserError, match=rf"knows no such project; it knows .*{copy}"):
        Registry(copy).forget(tmp_path / "nowhere")
    shutil.rmtree(first)
    assert Registry(copy).forget(first) == [only_first.tag]
    [one] = Registry(copy).prune()
    assert "the files stay" not in Registry(copy).history()[-1].why
    assert Registry(copy).versions() == [shared]
    assert one != shared.tag


def test_a_new_project_in_the_place_of_a_moved_one_is_another_project(first: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    moved = first.rename(tmp_path / "moved")
    first.mkdir()
    shutil.copy(moved / "params.yaml", first)
    promote(first, "another")
    promote(copy, "two")
    Registry(copy).prune()
    assert "is missing" in Registry(copy).history()[-1].why
    assert (champion(moved), champion(first), champion(copy)) == ("one", "another", "two")


@pytest.mark.parametrize("there", [True, False])
def test_a_project_of_an_older_release_is_known_by_its_history_and_kept_where_it_is_missing(
    first: Path, store: Path, tmp_path: Path, there: bool
) -> None:
    """It recorded its folder alone, under a hash of it."""
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    promote(copy, "two")
    users = store / ".registry" / "users"
    (users / id_of(first)).unlink()
    folder = str(first / "registry")
    (users / hashlib.sha256(folder.encode()).hexdigest()[:12]).write_text(folder, encoding="utf-8")
    (first / "registry" / "id").unlink()
    if not there:
        first.rename(tmp_path / "moved")
    Registry(copy).prune()
    assert ("may use them; that folder is missing" in Registry(copy).history()[-1].why) is not there
    assert champion(first if there else tmp_path / "moved") == "one"


def test_a_damaged_id_is_reported_and_never_used_as_a_path(first: Path) -> None:
    (first / "registry" / "id").write_text("../../elsewhere\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"registry/id: is damaged, expected 32 hexadecimal digits; delete it"):
        promote(first, "two")


@pytest.mark.parametrize("name", ["lock", ".champion.json.new", ".id.new", "history.jsonl"])
def test_a_planted_link_is_never_written_through(first: Path, tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine", encoding="utf-8")
    planted = first / "registry" / name
    content = planted.read_bytes() if planted.exists() else b""
    planted.unlink(missing_ok=True)
    if name == "history.jsonl":
        precious.write_bytes(content)
    else:
        content = b"mine"
    planted.symlink_to(precious)
    try:
        promote(first, "two")
    except UserError as error:
        assert f"registry/{name}: is a link, through which nothing is written" in str(error)  # noqa: PT017
    assert precious.read_bytes() == content


def test_pipes_in_place_of_records_of_projects_are_reported(first: Path, store: Path) -> None:
    [record] = (store / ".registry" / "users").glob("[!.]*")
    for path in (record, first / "registry" / "id"):
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(UserError, match=rf"{path.name}: is damaged"):
            Registry(first).prune()
        path.unlink()
        path.write_bytes(content)
