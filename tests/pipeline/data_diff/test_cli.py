"""The command, and the names it resolves, in a real DVC repository."""

import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pandas as pd
import pytest

import cli
from pipeline import paths
from pipeline.command import UserError
from pipeline.data_diff.resolve import clean_data_file
from pipeline.registry.model_version import REQUIRED_FILES
from pipeline.registry.store import Registry
from tests.conftest import ROOT
from tests.pipeline.data_diff.corpora import HARBOUR, visible_text, write

pytestmark = pytest.mark.integration


class Project:
    """A git and DVC repository whose clean data has two committed versions, as `dvc repro` records them."""

    OLD, NEW = HARBOUR, [*HARBOUR[2:], "A new tale about a lamp."]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run("git", "init", "-q")
        self.run("dvc", "init", "-q")
        (folder / "dvc.yaml").write_text(
            "stages:\n  validate:\n    cmd: cp source.parquet data/clean.parquet\n"
            "    deps: [source.parquet]\n    outs: [data/clean.parquet]\n",
            encoding="utf-8",
        )
        (folder / ".gitignore").write_text("/source.parquet\n", encoding="utf-8")
        (folder / "data").mkdir()
        self.commit("empty")
        for tag, texts in (("old", self.OLD), ("new", self.NEW)):
            write(folder / "source.parquet", texts)
            self.run("dvc", "repro", "-q")
            self.commit(tag)

    def commit(self, tag: str) -> None:
        """Commit everything under a tag."""
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", tag)
        self.run("git", "tag", tag)

    def run(self, *command: str, code: int = 0) -> tuple[str, str]:
        """Return the stdout and stderr of a command; fail unless it exits with `code`."""
        tool = Path(sys.executable).parent / command[0]
        done = subprocess.run(
            [str(tool) if tool.exists() else command[0], *command[1:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout, done.stderr

    def diff(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run `fresh diff` in this process; return its stdout and stderr."""
        out, error = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["fresh", "diff", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        assert ended.value.code == code, out.getvalue() + error.getvalue()
        return out.getvalue(), error.getvalue()

    def model(self, **manifest: object) -> str:
        """Make a model folder with this manifest."""
        (self.folder / "model").mkdir(exist_ok=True)
        (self.folder / "model" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return "model"


@pytest.fixture(scope="module")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(made_project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return the project, which is the current folder during the test."""
    monkeypatch.chdir(made_project.folder)
    return made_project


def clean_md5(project: Project, revision: str) -> str:
    """Return the MD5 that a revision's dvc.lock has for the clean data."""
    lock, _ = project.run("git", "show", f"{revision}:dvc.lock")
    return re.findall(r"path: data/clean.parquet\n\s+hash: md5\n\s+md5: (\w+)", lock)[0]


def test_a_git_revision_is_compared_with_the_current_data(project: Project) -> None:
    out, _ = project.diff("old", "--json")
    numbers = json.loads(out)
    assert [numbers["rows"][key] for key in ("unchanged", "edited", "removed", "added")] == [22, 0, 2, 1]
    assert (numbers["old"]["name"], numbers["new"]["name"]) == ("old", "data/clean.parquet")


@pytest.mark.parametrize("revision", ["HEAD~1", "old", "old^{commit}"])
def test_any_spelling_of_a_revision_works(project: Project, revision: str) -> None:
    with clean_data_file(revision) as path:
        assert pd.read_parquet(path)["text"].tolist() == Project.OLD


def test_the_command_prints_a_table_and_writes_a_page(project: Project) -> None:
    out, _ = project.diff("old", "new", "--page", "reports/data_diff/report.html")
    assert "22 unchanged, 0 edited, 2 removed, 1 added" in out
    page = (project.folder / "reports/data_diff/report.html").read_text(encoding="utf-8")
    assert "From old (old) to new (new)." in visible_text(page)


def test_a_model_folder_resolves_to_the_clean_data_it_was_trained_on(project: Project) -> None:
    with clean_data_file(project.model(clean_md5=clean_md5(project, "old"))) as path:
        assert pd.read_parquet(path)["text"].tolist() == Project.OLD


def test_a_registered_version_resolves_to_the_clean_data_it_was_trained_on(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Project.__new__(Project)
    there.folder = Path(shutil.copytree(project.folder, tmp_path / "clone"))
    monkeypatch.chdir(there.folder)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    shutil.copy(ROOT / "params.yaml", there.folder)
    registry = Registry()
    for tag in ("old", "new"):
        folder = Path(there.model(clean_md5=clean_md5(there, tag)))
        for name in REQUIRED_FILES:
            (folder / name).touch()
        seen = registry.champion()
        registry.move(registry.add(folder, {}, {}), expected=seen and seen.tag, action="promote", why=tag)
    champion = registry.get("champion")
    for name in ("champion", champion.tag, champion.version):
        with clean_data_file(name) as path:
            assert pd.read_parquet(path)["text"].tolist() == Project.NEW
    out, _ = there.diff("previous", "champion")
    assert "22 unchanged, 0 edited, 2 removed, 1 added" in out
    refusal = "is no file, no model folder, no version in the registry"
    with (
        pytest.raises(UserError, match=refusal),
        clean_data_file(champion.version[:7]),
    ):  # git's commits are abbreviated so
        pass
    with clean_data_file("HEAD~1") as path:
        assert pd.read_parquet(path)["text"].tolist() == Project.OLD


def test_a_model_without_clean_md5_is_refused(project: Project) -> None:
    _, error = project.diff(project.model(data="4d2d"), code=2)
    assert error == (
        "error: model/manifest.json: has no clean_md5, the MD5 of the clean data: the model was made before that was "
        "recorded; name the git revision that made the model instead\n"
    )


def test_an_invalid_manifest_is_refused(project: Project) -> None:
    project.model()
    (project.folder / "model" / "manifest.json").write_text("{", encoding="utf-8")
    _, error = project.diff("model", code=2)
    assert "manifest.json: is not JSON" in error


def test_data_in_neither_cache_nor_remote_is_reported(project: Project, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(project.folder, clone)
    shutil.rmtree(clone / ".dvc" / "cache")
    there = Project.__new__(Project)
    there.folder = clone
    _, error = there.diff("old", code=2)
    assert error == (
        f"error: old: its clean data (MD5 {clean_md5(there, 'old')}) is neither in the DVC cache nor in a remote; run "
        "`dvc fetch --all-commits validate` where a remote has it, else check that revision out and run "
        "`dvc repro validate`\n"
    )
    _, error = there.diff(there.model(clean_md5=clean_md5(there, "old")), code=2)
    assert error.startswith("error: model/manifest.json: its clean data (MD5 ")
    assert error.count("\n") == 1


def test_data_missing_from_the_cache_comes_from_the_remote(project: Project, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(project.folder, clone)
    there = Project.__new__(Project)
    there.folder = clone
    there.run("dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    shutil.move(clone / ".dvc" / "cache", tmp_path / "store")  # a remote has the cache's layout
    for old in ("old", there.model(clean_md5=clean_md5(there, "old"))):
        out, _ = there.diff(old, "source.parquet")
        assert "22 unchanged, 0 edited, 2 removed, 1 added" in out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "no-such",
            "'no-such' is no file, no model folder, no version in the registry and no git revision known here; "
            "name a clean parquet file, ",
        ),
        ("data", "data is a folder without manifest.json; name a model folder, "),
        ("empty", "empty: the dvc.lock of this git revision records no data/clean.parquet; name a revision "),
        ("dvc.yaml", "dvc.yaml: is no clean data set: not a Parquet file; expected row "),
    ],
)
def test_unknown_names_are_refused(project: Project, name: str, sentence: str) -> None:
    _, error = project.diff(name, code=2)
    assert error.startswith(f"error: {sentence}")
    assert error.count("\n") == 1


def test_outside_a_repository_only_files_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(paths.CLEAN, HARBOUR)
    with clean_data_file(str(paths.CLEAN)) as path:
        assert path == paths.CLEAN
    refusal = "'HEAD' is no file, no model folder, no version in the registry and no git revision known here"
    with pytest.raises(UserError, match=refusal), clean_data_file("HEAD"):
        pass


def test_a_page_that_cannot_be_written_is_a_user_error(project: Project) -> None:
    _, error = project.diff("old", "--page", "data", code=2)
    assert error == "error: --page data: cannot be written (Is a directory); name another file\n"


def test_a_missing_argument_is_a_user_error(project: Project) -> None:
    project.diff(code=2)
