"""The revision that a manifest names can be checked out, or says that it does not hold everything."""

import subprocess
from pathlib import Path

import pytest

from pipeline import params
from pipeline.revision import RECORDED, git_revision, sources
from tests.conftest import Workspace


def git(*arguments: str) -> str:
    person = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *person, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a repository with one commit."""
    monkeypatch.delenv(RECORDED, raising=False)
    workspace.write_corpus("text\nA row.\n", "corpora/mine.csv")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "Start")
    return workspace


def test_it_is_the_last_commit_that_touched_what_a_candidate_hangs_on(repository: Workspace) -> None:
    first = git("rev-parse", "HEAD")
    (repository.folder / "dvc.lock").write_text("{}")
    git("add", "dvc.lock")
    git("commit", "-qm", "Result")
    assert git_revision() == first
    (repository.folder / "constraints.txt").write_text("torch==2.13.0\n")
    git("add", "constraints.txt")
    git("commit", "-qm", "Other libraries")
    assert git_revision() == git("rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["params.yaml", "corpora/mine.csv", "starter/new.json"])
def test_an_edit_that_is_in_no_commit_is_told(repository: Workspace, name: str) -> None:
    (repository.folder / name).parent.mkdir(exist_ok=True)
    with (repository.folder / name).open("a") as file:
        file.write("# edited\n")
    assert git_revision() == f"{git('rev-parse', 'HEAD')}+changes"


def test_other_work_is_no_part_of_it_and_the_index_is_not_touched(repository: Workspace) -> None:
    (repository.folder / "corpora" / "other.csv").write_text("text\n")
    (repository.folder / "corpora" / "mine.csv").touch()  # git would note the new time in the index
    before = (repository.folder / ".git" / "index").read_bytes()
    assert git_revision() == git("rev-parse", "HEAD")
    assert (repository.folder / ".git" / "index").read_bytes() == before


def test_in_a_retraining_it_is_what_this_recorded(repository: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECORDED, "a" * 40)
    assert git_revision() == "a" * 40


def test_without_a_repository_there_is_none(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RECORDED, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.folder.parent))
    assert git_revision() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_revision() is None


def test_the_corpus_and_the_base_are_sources_wherever_they_are_in_the_project(workspace: Workspace) -> None:
    workspace.set(base="my/base", data__path="corpora/tales/all.csv")
    added = {"my/base", "corpora/tales/all.csv", "corpora/tales/all.csv.dvc", "corpora/tales.dvc", "corpora.dvc"}
    assert added | {"my/base.dvc", "my.dvc", "pipeline", "data", "dvc.yaml"} <= set(sources(params.load()))
    workspace.set(base=str(Path.home() / "model"), data__path="../all.csv")
    assert not [path for path in sources(params.load()) if "all.csv" in path or "model" in path]
