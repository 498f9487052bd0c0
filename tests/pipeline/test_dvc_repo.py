"""DVC without git, as after the download of a ZIP file."""

import shutil
from pathlib import Path

import pytest

from flows import triggers
from flows.runtime import stages
from pipeline.dvc_repo import allow_no_git
from tests.flows.conftest import Project

LOCAL = Path(".dvc/config.local")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project whose git repository is gone, as the current folder."""
    project = Project(tmp_path)
    shutil.rmtree(tmp_path / ".git")
    monkeypatch.chdir(tmp_path)
    return project


def test_what_a_retraining_and_make_why_ask_of_dvc_works_without_git_and_that_is_said_once(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [node.name for node in stages.graph(Path())][-1] == "finetune"
    said = capsys.readouterr().err
    assert said.startswith("there is no git repository here, so no revision is recorded")
    assert "`dvc config --local --unset core.no_scm`" in said
    assert triggers.find_reason().run
    project.run("dvc", "repro")  # by hand too, from now on
    assert capsys.readouterr().err == ""


def test_in_a_git_repository_and_where_a_person_has_said_it_nothing_is_written(project: Project) -> None:
    project.run("dvc", "config", "core.no_scm", "true")
    allow_no_git()
    assert not LOCAL.exists()
    project.run("dvc", "config", "--unset", "core.no_scm")
    (project.folder / ".git").mkdir()
    allow_no_git()
    assert not LOCAL.exists()
