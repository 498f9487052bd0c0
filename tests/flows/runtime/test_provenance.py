"""A retraining commits what reproduces its candidate, and leaves a person's work untouched."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.runtime import provenance
from flows.runtime.git_plumbing import Git
from flows.runtime.provenance import RecordedInputs, export_revision, record_inputs, record_result
from pipeline.revision import RECORDED
from tests.conftest import ROOT, Workspace

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")  # DVC calls it

DVC_YAML = """
stages:
  finetune:
    cmd: python pipeline/train.py
    deps: ["${data.path}", pipeline/train.py]
    params: [finetune.epochs]
    outs: [models/candidate]
"""
# Stands for the whole training: its result hangs on the code, the corpus and the params, and names the revision.
TRAIN = """
import json
from pathlib import Path
from pipeline import params
from pipeline.revision import git_revision
config = params.load()
made = {"git_revision": git_revision(), "text": Path(config.data.path).read_text() * config.finetune.epochs}
Path("models/candidate").mkdir(parents=True)
Path("models/candidate/manifest.json").write_text(json.dumps(made))
"""


class Repository(Workspace):
    """A git and DVC project with one stage, in which a person works."""

    def __init__(self, folder: Path) -> None:
        """Create it with one commit; the stage has not run."""
        super().__init__(folder)
        for name in ("pipeline", "starter"):
            (folder / name).mkdir()
        (folder / "pipeline" / "train.py").write_text(TRAIN)
        (folder / "starter" / "config.json").write_text("{}")
        (folder / "dvc.yaml").write_text(DVC_YAML)
        (folder / "notes.txt").write_text("one\n")
        (folder / ".gitignore").write_text("/models/\n__pycache__/\n")
        self.write_corpus("text\nOnce upon a time.\n")
        self.set(retrain__branch="retrain")
        self.git("init", "-q", "-b", "main")
        self.run("dvc", "init", "-q")
        self.run("dvc", "config", "core.analytics", "false")
        self.commit("Start")

    def run(self, *command: str, folder: Path | None = None) -> str:
        """Return what the command prints."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=folder or self.folder, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def git(self, *arguments: str) -> str:
        """Return what git prints, without refreshing the index."""
        return self.run("git", "--no-optional-locks", *arguments)

    def commit(self, message: str) -> None:
        """Commit everything, as the person does."""
        self.git("add", "-A")
        self.git("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", message)

    def persons(self) -> dict[str, object]:
        """Return everything of a person's: files, index, HEAD, references, configuration, status, stash."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and ".git/" not in path.as_posix()]
        references = self.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return {
            "files": {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
            **{name: (self.folder / ".git" / name).read_bytes() for name in ("index", "HEAD", "config")},
            "references": [line for line in references if not line.startswith(("refs/heads/retrain", "refs/exps/"))],
            "status": self.git("status", "--porcelain"),
            "stash": self.git("stash", "list"),
        }

    def show(self, revision: str, name: str) -> str:
        """Return the content of a file in a commit."""
        return self.git("show", f"{revision}:{name}")

    def names(self, old: str, new: str) -> set[str]:
        """Return the files in which two commits differ."""
        return set(self.git("diff", "--name-only", "--no-renames", old, new).splitlines())

    def inputs(self) -> RecordedInputs:
        """Record the inputs; fail the test if anything is logged."""
        recorded = record_inputs(self.folder, "a test", unexpected)
        assert recorded is not None
        return recorded

    def result(self, recorded: RecordedInputs, **trailers: str) -> str:
        """Record the result; fail the test if anything is logged."""
        commit = record_result(self.folder, recorded, "Promoted", trailers, unexpected)
        assert commit is not None
        return commit

    def manifest(self) -> dict[str, str]:
        """Return the candidate's manifest."""
        content: dict[str, str] = json.loads((self.folder / "models" / "candidate" / "manifest.json").read_text())
        return content

    def made_again(self, revision: str, folder: Path) -> tuple[bytes, str]:
        """Return the candidate's bytes and `dvc.lock` that a clone makes from a revision."""
        self.run("git", "clone", "-q", str(self.folder), str(folder))
        self.run("git", "checkout", "-q", revision, folder=folder)
        self.run("dvc", "repro", folder=folder)
        return (folder / "models" / "candidate" / "manifest.json").read_bytes(), (folder / "dvc.lock").read_text()


def unexpected(sentence: str) -> None:
    pytest.fail(sentence)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    Repository(folder)
    return folder


@pytest.fixture
def repository(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    folder = tmp_path / "repository"
    shutil.copytree(start, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv(RECORDED, raising=False)
    repository = object.__new__(Repository)
    repository.folder = folder
    return repository


def edit(repository: Repository) -> None:
    """Leave every kind of uncommitted work."""
    folder = repository.folder
    (folder / "notes.txt").write_text("staged\n")
    repository.git("add", "notes.txt")
    (folder / "notes.txt").write_text("staged and edited\n")
    (folder / "data" / "corpus.csv").write_text("text\nOnce upon a time.\nAnother row.\n")
    (folder / "pipeline" / "helper.py").write_text("# not in git yet\n")
    (folder / "pipeline" / "__pycache__").mkdir()
    (folder / "pipeline" / "__pycache__" / "helper.pyc").write_bytes(b"ignored")
    (folder / "data" / "private.csv").write_text("text\nNobody's business.\n")
    (folder / "todo.txt").write_text("not in git\n")
    (folder / "starter" / "config.json").unlink()
    repository.set(finetune__epochs=2)


def test_only_inputs_are_committed_and_uncommitted_work_is_untouched(repository: Repository) -> None:
    edit(repository)
    before = repository.persons()
    recorded = repository.inputs()
    assert repository.persons() == before
    (repository.folder / "dvc.lock").write_text("schema: '2.0'\n")
    before = repository.persons()
    result = repository.result(recorded)
    assert repository.persons() == before

    changed = {"data/corpus.csv", "params.yaml", "pipeline/helper.py", "starter/config.json"}
    assert repository.names("main", recorded.commit) == changed
    assert repository.show(recorded.commit, "notes.txt") == "one"
    assert repository.names(recorded.commit, result) == {"dvc.lock"}
    assert repository.git("rev-parse", "retrain") == result
    assert repository.git("log", "--format=%s", "retrain").splitlines() == [
        "Promoted",
        "Inputs of a retraining",
        "Start",
    ]


def test_the_result_has_verdict_and_version_as_trailers(repository: Repository) -> None:
    recorded = repository.inputs()
    trailers = {"Version": "20260101-abc", "Verdict": "promoted:\nperplexity 9.8, was 10.1", "Prefect-Run": None}
    result = record_result(repository.folder, recorded, "Promote 20260101-abc", trailers, unexpected)
    written = repository.git("log", "-1", "--format=%(trailers:only)", str(result)).splitlines()
    assert written == ["Version: 20260101-abc", "Verdict: promoted: perplexity 9.8, was 10.1"]
    assert "a test" not in repository.git("log", "-1", "--format=%B", str(result))


def test_the_result_includes_tracked_reports(repository: Repository) -> None:
    report = repository.folder / "reports" / "metrics.json"
    report.parent.mkdir()
    report.write_text("{}")
    repository.commit("Follow the metrics")
    recorded = repository.inputs()
    report.write_text('{"perplexity": 9.8}')
    (report.parent / "page.html").write_text("not followed")
    result = repository.result(recorded)
    assert repository.names(recorded.commit, result) == {"reports/metrics.json"}


def test_inputs_that_git_has_are_not_committed_again(repository: Repository) -> None:
    head = repository.git("rev-parse", "HEAD")
    recorded = repository.inputs()
    assert recorded.commit == recorded.revision == head
    assert repository.git("branch", "--list", "retrain") == ""

    edit(repository)
    first = repository.inputs()
    assert repository.inputs() == first  # as after a run that was killed between the two steps
    (repository.folder / "dvc.lock").write_text("schema: '2.0'\n")
    result = repository.result(first)
    again = repository.inputs()
    assert (again.commit, again.revision) == (result, first.revision)


@pytest.mark.integration
def test_a_run_killed_at_any_git_command_does_not_break_the_next(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(repository)
    before = repository.persons()
    run = Git._run
    commands = left = 0

    def ends(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return run(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Git, "_run", ends)
    while True:
        commands += 1
        left = commands
        try:
            repository.result(repository.inputs())
            break
        except KeyboardInterrupt:
            assert repository.persons() == before
    assert commands > 20
    subjects = repository.git("log", "--format=%s", "main..retrain").splitlines()
    assert subjects == ["Promoted", "Inputs of a retraining"]
    repository.git("fsck", "--strict")


def test_the_branch_merges_new_commits_of_head(repository: Repository) -> None:
    edit(repository)
    first = repository.result(repository.inputs())
    (repository.folder / "notes.txt").write_text("two\n")
    repository.git("add", "notes.txt")
    repository.git("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Notes")
    recorded = repository.inputs()
    parents = repository.git("log", "-1", "--format=%P", recorded.commit).split()
    assert parents == [first, repository.git("rev-parse", "main")]
    assert repository.show("retrain", "notes.txt") == "two"
    assert recorded.revision == repository.git("rev-parse", f"{first}^")  # whose inputs are the same

    repository.commit("All of it")
    repository.git("-c", "user.name=A", "-c", "user.email=a@example.org", "merge", "-qm", "Merge", "retrain")
    merged = repository.git("rev-parse", "main")
    result = repository.result(repository.inputs())
    assert repository.git("log", "-1", "--format=%P", result) == merged


@pytest.mark.integration
def test_a_clone_reproduces_the_bytes_of_the_recorded_revision(repository: Repository, tmp_path: Path) -> None:
    edit(repository)
    for number, row in enumerate(("First row.", "Second row.")):  # two nights in a row
        (repository.folder / "data" / "corpus.csv").write_text(f"text\nOnce upon a time.\n{row}\n")
        recorded = repository.inputs()
        with export_revision(recorded):
            repository.run("dvc", "repro")
        result = repository.result(recorded)
        assert RECORDED not in os.environ
        made = (repository.folder / "models" / "candidate" / "manifest.json").read_bytes()
        revision = repository.manifest()["git_revision"]
        assert revision == recorded.revision
        for name, checked_out in (("inputs", revision), ("result", result)):
            again, lock = repository.made_again(checked_out, tmp_path / f"{name}{number}")
            assert again == made
            assert lock == repository.show(result, "dvc.lock").strip() + "\n"
        assert f"Revision: {revision}" in repository.git("log", "-1", "--format=%B", result)
    assert len(repository.git("log", "--format=%H", "main..retrain").splitlines()) == 4


@pytest.mark.integration
def test_a_candidate_without_a_commit_is_reported(repository: Repository) -> None:
    edit(repository)
    repository.run("dvc", "repro")  # a person's own run, from edits
    assert repository.manifest()["git_revision"].endswith("+changes")
    logged: list[str] = []
    record_result(repository.folder, repository.inputs(), "Refused", {}, logged.append)
    assert [sentence for sentence in logged if "a retraining with `force` makes one" in sentence] == logged != []


@pytest.mark.integration
def test_inputs_edited_during_the_run_are_reported(repository: Repository) -> None:
    edit(repository)
    recorded = repository.inputs()
    (repository.folder / "pipeline" / "train.py").write_text(f"{TRAIN}# edited\n")
    repository.set(finetune__epochs=3)
    with export_revision(recorded):
        repository.run("dvc", "repro")
    logged: list[str] = []
    result = record_result(repository.folder, recorded, "Promoted", {}, logged.append)
    assert len(logged) == 1
    assert logged[0].startswith(
        "the stages read other content of finetune.epochs in params.yaml, pipeline/train.py than the commit"
    )
    assert "Not-As-Recorded: finetune.epochs in" in repository.git("log", "-1", "--format=%B", str(result))


@pytest.mark.integration
def test_a_corpus_in_dvc_is_recorded_by_its_dvc_file(repository: Repository) -> None:
    corpus = repository.write_corpus("text\nA row.\n", "data/large.csv")
    repository.run("dvc", "add", "-q", str(corpus))
    recorded = repository.inputs()
    assert repository.names("main", recorded.commit) == {"data/.gitignore", "data/large.csv.dvc", "params.yaml"}
    with export_revision(recorded):
        repository.run("dvc", "repro")
    repository.result(recorded)

    corpus.write_text("text\nAnother row.\n")  # behind DVC's back, and read so
    repository.run("dvc", "repro", "--single-item", "finetune")
    logged: list[str] = []
    record_result(repository.folder, recorded, "Promoted", {}, logged.append)
    assert logged[0].startswith("the stages read other content of data/large.csv than the commit")


@pytest.mark.parametrize(("attributes", "is_logged"), [("text", True), ("text eol=crlf", False)])
def test_a_corpus_with_line_ends_changed_by_git_is_reported(
    repository: Repository, attributes: str, is_logged: bool
) -> None:
    (repository.folder / ".gitattributes").write_text(f"*.csv {attributes}\n")
    corpus = repository.write_corpus("text\r\nA row.\r\n")
    repository.commit("With line ends of Windows")
    md5 = hashlib.md5(corpus.read_bytes(), usedforsecurity=False).hexdigest()
    stages = {"finetune": {"deps": [{"path": "data/corpus.csv", "md5": md5}]}}
    (repository.folder / "dvc.lock").write_text(json.dumps({"stages": stages}))
    logged: list[str] = []
    record_result(repository.folder, repository.inputs(), "Promoted", {}, logged.append)
    prefix = "the stages read other content of data/corpus.csv than "
    assert [sentence.startswith(prefix) for sentence in logged] == [True] * is_logged


def test_an_untracked_corpus_is_reported_and_not_committed(repository: Repository) -> None:
    repository.write_corpus("text\nA row.\n", "data/mine.csv")
    logged: list[str] = []
    recorded = record_inputs(repository.folder, "a test", logged.append)
    assert recorded is not None
    assert logged == [
        "params.yaml: data.path: neither git nor DVC tracks data/mine.csv, so no commit can restore it;"
        " track it: `dvc add data/mine.csv`"
    ]
    assert repository.names("main", recorded.commit) == {"params.yaml"}
    assert repository.git("status", "--porcelain", "data") == "?? data/mine.csv"


@pytest.mark.parametrize("how", ["a .dvc file that keeps nothing", "a link"])
def test_a_corpus_that_only_seems_to_be_tracked_is_reported(repository: Repository, how: str, tmp_path: Path) -> None:
    corpus = repository.write_corpus("text\nA row.\n", "data/mine.csv")
    if how == "a link":
        corpus.rename(tmp_path / "mine.csv")
        corpus.symlink_to(tmp_path / "mine.csv")
        repository.git("add", str(corpus))  # git keeps where it leads to, not what is there
    else:
        (repository.folder / "data" / "mine.csv.dvc").write_text("outs: [{path: mine.csv, hash: md5, cache: false}]")
    logged: list[str] = []
    record_inputs(repository.folder, "a test", logged.append)
    assert [sentence.partition(",")[0] for sentence in logged] == [
        "params.yaml: data.path: neither git nor DVC tracks data/mine.csv"
    ]


def test_a_file_that_became_a_folder_and_back_is_committed_as_it_is(repository: Repository) -> None:
    (repository.folder / "starter" / "config.json").unlink()
    (repository.folder / "starter" / "config.json").mkdir()
    (repository.folder / "starter" / "config.json" / "part.json").write_text("{}")
    first = repository.inputs().commit
    assert repository.names("main", first) == {"starter/config.json", "starter/config.json/part.json"}
    shutil.rmtree(repository.folder / "starter" / "config.json")
    (repository.folder / "starter" / "config.json").write_text("{}")
    assert repository.names("main", repository.inputs().commit) == set()


def test_a_corpus_or_a_base_outside_the_project_is_reported(repository: Repository, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(repository.folder / "data" / "corpus.csv", tmp_path / "corpus.csv")
    repository.set(data__path="../corpus.csv", base=str(base))
    logged: list[str] = []
    record_inputs(repository.folder, "a test", logged.append)
    assert [sentence.partition(" is outside")[0] for sentence in logged] == [
        "params.yaml: data.path: ../corpus.csv",
        f"params.yaml: base: {base}",
    ]


def test_a_base_in_the_project_is_an_input(repository: Repository) -> None:
    base = repository.folder / "my_model"
    base.mkdir()
    (base / "config.json").write_text("{}")
    repository.set(base="my_model")
    logged: list[str] = []
    record_inputs(repository.folder, "a test", logged.append)
    assert [sentence.partition(",")[0] for sentence in logged] == [
        "params.yaml: base: neither git nor DVC tracks my_model"
    ]
    repository.git("add", "my_model")
    (base / "config.json").write_text('{"edited": true}')
    assert repository.show(repository.inputs().commit, "my_model/config.json") == '{"edited": true}'


def test_a_checked_out_branch_is_not_moved(repository: Repository, tmp_path: Path) -> None:
    edit(repository)
    repository.inputs()
    (repository.folder / "data" / "corpus.csv").write_text("text\nA third one.\n")
    repository.git("worktree", "add", "-q", str(tmp_path / "elsewhere"), "retrain")
    before = repository.git("rev-parse", "retrain")
    logged: list[str] = []
    assert record_inputs(repository.folder, "a test", logged.append) is None
    assert logged == [
        "this run is not recorded in git: the branch retrain is checked out in"
        f" {tmp_path / 'elsewhere'}; switch to another branch there, or set another one as retrain.branch in"
        " params.yaml"
    ]
    assert repository.git("rev-parse", "retrain") == before


def test_a_branch_moved_during_the_run_is_not_overwritten(repository: Repository) -> None:
    edit(repository)
    recorded = repository.inputs()
    repository.git("branch", "-f", "retrain", "main")
    logged: list[str] = []
    assert record_result(repository.folder, recorded, "Promoted", {}, logged.append) is None
    assert logged[0].startswith("the result of this run is not recorded in git: ")
    assert repository.git("rev-parse", "retrain") == repository.git("rev-parse", "main")


def test_none_records_and_logs_nothing(repository: Repository) -> None:
    edit(repository)
    repository.set(retrain__record="none")
    assert record_inputs(repository.folder, "a test", unexpected) is None
    assert record_result(repository.folder, None, "Promoted", {}, unexpected) is None
    assert repository.git("branch", "--list", "retrain") == ""


@pytest.mark.parametrize("how", ["no repository", "no git", "another's repository"])
def test_without_git_nothing_is_recorded_and_one_line_is_logged(
    repository: Repository, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "no git":
        monkeypatch.setenv("PATH", "/nowhere")
    else:
        shutil.rmtree(repository.folder / ".git")
    if how == "no repository":
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.folder.parent))
    if how == "another's repository":  # a zip unpacked in a home folder that is under git
        repository.run("git", "init", "-q", folder=repository.folder.parent)
    logged: list[str] = []
    recorded = record_inputs(repository.folder, "a test", logged.append)
    record_result(repository.folder, recorded, "Promoted", {}, logged.append)
    with export_revision(recorded):
        assert RECORDED not in os.environ
    reason = {
        "no repository": "not a git repository (or any of the parent directories): .git",
        "no git": "git is not installed",
        "another's repository": f"the repository {repository.folder.parent} does not track params.yaml",
    }
    assert logged == [f"this run is not recorded in git: {reason[how]}"]


def test_commits_need_no_identity_run_no_hooks_and_are_not_signed(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    ran = tmp_path / "ran"
    for name in ("pre-commit", "commit-msg", "post-commit", "reference-transaction", "post-index-change"):
        hook = repository.folder / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho {name} >> {ran}\nexit 1\n")
        hook.chmod(0o755)
    for key, value in {"commit.gpgSign": "true", "gpg.program": "/bin/false", "core.splitIndex": "true"}.items():
        repository.git("config", key, value)
    (repository.folder / "data" / "corpus.csv").write_text("text\nAnother row.\n")
    result = repository.result(repository.inputs())
    assert not ran.exists()
    assert (
        repository.git("log", "-1", "--format=%an <%ae>, %cn, %G?", result) == "retrain <retrain@localhost>, retrain, N"
    )
    assert not list((repository.folder / ".git").glob("sharedindex*"))

    repository.git("config", "user.name", "A Person")
    repository.git("config", "user.email", "a@example.org")
    result = repository.result(repository.inputs())
    assert repository.git("log", "-1", "--format=%an <%ae>", result) == "A Person <a@example.org>"


@pytest.mark.parametrize("where", ["detached", "unborn", "worktree", "subfolder", "submodule", "submodules inside"])
def test_detached_heads_worktrees_and_subfolders_work(
    repository: Repository, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "detached":
        repository.git("checkout", "-q", "--detach")
    elif where == "unborn":
        repository.git("update-ref", "-d", "refs/heads/main")  # the index is full, and there is no commit
    elif where == "worktree":  # `.git` is a file
        repository.git("worktree", "add", "-q", "-b", "other", str(tmp_path / "other"))
        repository.folder = tmp_path / "other"
        monkeypatch.chdir(repository.folder)
    elif where.startswith("submodule"):
        add = ("git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository.folder), "sub")
        outer = tmp_path / "outer"
        if where == "submodule":  # `.git` is a file here too
            repository.run("git", "init", "-q", str(outer))
            repository.run(*add, folder=outer)
            repository.folder = outer / "sub"
            monkeypatch.chdir(repository.folder)
        else:
            repository.run(*add)
            (repository.folder / "sub" / "notes.txt").write_text("edited\n")
    else:
        outer = tmp_path / "outer"
        shutil.copytree(repository.folder, outer / "project", ignore=shutil.ignore_patterns(".git"))
        repository.folder = outer / "project"
        monkeypatch.chdir(repository.folder)
        repository.run("git", "init", "-q", folder=outer)
        repository.commit("Start")
        (outer / "data").mkdir()
        (outer / "data" / "corpus.csv").write_text("of another project")
    (repository.folder / "data" / "corpus.csv").write_text("text\nAnother row.\n")
    before = repository.git("status", "--porcelain")
    recorded = repository.inputs()
    result = repository.result(recorded)
    assert repository.git("status", "--porcelain") == before
    assert repository.show(result, "./data/corpus.csv") == "text\nAnother row."
    assert repository.git("rev-parse", "retrain") == result
    assert repository.git("log", "-1", "--format=%H", "retrain", "--", "data") == recorded.revision


def test_an_old_lock_of_a_killed_git_is_removed(repository: Repository) -> None:
    edit(repository)
    lock = repository.folder / ".git" / "refs" / "heads" / "retrain.lock"
    lock.touch()
    logged: list[str] = []
    assert record_inputs(repository.folder, "a test", logged.append) is None
    assert "retrain.lock': File exists" in logged[0]
    os.utime(lock, (time.time() - 3600, time.time() - 3600))
    repository.inputs()
    assert not lock.exists()


def test_concurrent_runs_record_in_turn_or_not_at_all(repository: Repository) -> None:
    edit(repository)
    logged: list[str] = []
    done: list[RecordedInputs | None] = []
    threads = [
        threading.Thread(target=lambda: done.append(record_inputs(repository.folder, "a test", logged.append)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorded = [one for one in done if one is not None]
    assert len(recorded) + len(logged) == 4
    assert repository.git("rev-parse", "retrain") in {one.commit for one in recorded}


@pytest.mark.integration
def test_dvc_shows_and_applies_a_recorded_experiment(repository: Repository, tmp_path: Path) -> None:
    edit(repository)
    repository.set(retrain__record="experiment")
    before = repository.persons()
    recorded = repository.inputs()
    assert repository.persons() == before
    with export_revision(recorded):
        repository.run("dvc", "repro")
    before = repository.persons()
    result = repository.result(recorded, Version="20260101-abc")
    assert repository.persons() == before
    assert repository.git("branch", "--list", "retrain") == ""
    name = recorded.ref.rpartition("/")[2]
    assert repository.run("dvc", "exp", "list", "--name-only") == name
    [_, baseline] = json.loads(repository.run("dvc", "exp", "show", "--json"))
    shown = baseline["experiments"][0]["revs"][0]
    assert (shown["name"], shown["rev"]) == (name, result)
    assert shown["data"]["params"]["params.yaml"]["data"]["finetune"]["epochs"] == 2

    made = repository.manifest()
    repository.git("stash", "-qu")
    repository.run("dvc", "exp", "apply", name)
    assert repository.manifest() == made
    assert (repository.folder / "pipeline" / "helper.py").exists()
    clone = tmp_path / "clone"
    repository.run("git", "clone", "-q", str(repository.folder), str(clone))
    repository.run("git", "fetch", "-q", "origin", "refs/exps/*:refs/exps/*", folder=clone)
    repository.run("git", "checkout", "-q", made["git_revision"], folder=clone)
    repository.run("dvc", "repro", folder=clone)
    assert json.loads((clone / "models" / "candidate" / "manifest.json").read_text()) == made


def test_export_revision_hides_a_stale_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECORDED, "of another run")
    with provenance.export_revision(None):
        assert RECORDED not in os.environ
    with export_revision(RecordedInputs("refs/heads/retrain", None, "a" * 40, "b" * 40)):
        assert os.environ[RECORDED] == "b" * 40
    assert os.environ[RECORDED] == "of another run"
