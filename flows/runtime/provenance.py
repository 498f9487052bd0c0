"""What a retraining leaves in git: its inputs before it trains, `dvc.lock` and the verdict after it.

Two commits on a branch of their own, or on a DVC experiment's reference. Git's plumbing makes them with an index of
their own, so that a person's files, index, HEAD and branch stay as they are, no hook runs and nobody is asked for a
signature. `dvc exp save` would stash the person's work, detach HEAD, and put both back.

A candidate's manifest names the last commit that touched what it hangs on, so the one with its inputs: checked out in
any clone, `dvc repro` makes the same bytes there, for it then finds the same commit.
"""

import functools
import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dvc.exceptions import OutputNotFoundError
from ruamel.yaml import YAML

from pipeline import escape, params, paths
from pipeline.dvc_repo import open_repo
from pipeline.revision import RECORDED, is_inside, sources

_LOCK = "dvc.lock"
_CODE = ("pipeline", "starter")  # here, files that git does not follow yet are inputs too, unless it ignores them
_OF_DVC = (".dvc", ".dvcignore")
_MODEL = (".json", ".safetensors")  # files of a base
_NOBODY = {"NAME": "retrain", "EMAIL": "retrain@localhost"}  # signs where git knows no person
_STALE = 600.0  # seconds after which a lock on a reference, held for milliseconds, is a killed process's
# Nothing that a person has set up for their own work acts on what is written here.
_QUIET = {"core.hooksPath": os.devnull, "core.fsmonitor": "false", "core.splitIndex": "false"}


@dataclass(frozen=True)
class RecordedInputs:
    """Where a run's inputs are: `commit` holds them, and `revision` is what the manifest of a candidate names.

    `ref` is where the result goes; it is at the commit `at`, or not there yet (None).
    """

    ref: str
    at: str | None
    commit: str
    revision: str


class _Refused(Exception):  # noqa: N818 - as one says it
    """Git's own sentence, or ours."""


def record_inputs(root: Path, reason: str, say: Callable[[str], None]) -> RecordedInputs | None:
    """Commit what the stages are about to read, edits included; return where it is.

    To be called in the claim on the workspace, after the data nodes and before the other stages, with the overrides in
    force. Nothing is committed where it is in git already. `retrain.record` and `retrain.branch` of `params.yaml` say
    where to; None if that is nowhere or git refuses, and then `say` gets the reason. It also gets a sentence for a
    corpus or a base that no commit can give back. Raises UserError for a name that no branch can have.
    """
    wanted = params.load(root / paths.PARAMS)
    if wanted.retrain.record == "none":
        return None
    try:
        git = _Git(root)
        if not git.files(str(paths.PARAMS)):
            raise _Refused(f"the repository {git('rev-parse', '--show-toplevel')} does not follow params.yaml")
        head = git.commit("HEAD")
        if wanted.retrain.record == "branch":
            ref = f"refs/heads/{wanted.retrain.branch}"
            git.check_free(ref)
        elif head is None:
            raise _Refused("a DVC experiment needs a commit to start from, and there is none")
        else:
            ref = f"refs/exps/{head[:2]}/{head[2:]}/retrain-{datetime.now():%Y%m%d-%H%M%S}"
        at = git.commit(ref)
        inputs = _inputs(git, root, wanted)
        with git.index(head):
            git.take_in([*inputs, *git.files(*sources(wanted), *_OF_DVC)])
            tree = git("write-tree")
            for sentence in _lost(git, root, wanted):
                say(sentence)
        bases = _independent(git, at, head)
        if bases and git("rev-parse", f"{bases[0]}^{{tree}}") == tree:
            commit = bases[0]
        else:
            commit = git.make_commit(tree, bases, _message("Inputs of a retraining", reason))
        if commit not in bases:
            git.move(ref, commit, at)
            at = commit
        revision = git("log", "-1", "--format=%H", commit, "--", *sources(wanted))
        return RecordedInputs(ref, at, commit, revision)
    except _Refused as refused:
        say(f"nothing of this run is recorded in git: {refused}")
        return None


@contextmanager
def export_revision(recorded: RecordedInputs | None) -> Iterator[None]:
    """Let the stages that start in this block name the recorded revision in what they make."""
    before = os.environ.pop(RECORDED, None)
    if recorded is not None:
        os.environ[RECORDED] = recorded.revision
    try:
        yield
    finally:
        os.environ.pop(RECORDED, None)
        if before is not None:
            os.environ[RECORDED] = before


def record_result(
    root: Path,
    recorded: RecordedInputs | None,
    sentence: str,
    trailers: Mapping[str, str | None],
    say: Callable[[str], None],
) -> str | None:
    """Commit `dvc.lock`, and the reports that git follows, on top of the inputs; return the commit.

    `sentence` is its subject. `trailers` are kept as git's (Version, Verdict, Prefect-Run), but for one that is None;
    Revision is added, which the candidate's manifest names. None without recorded inputs, or where git refuses; `say`
    gets the reason then, and a sentence where that revision does not give the candidate back.
    """
    if recorded is None:
        return None
    try:
        git = _Git(root)
        otherwise = _not_as_recorded(git, root, recorded.commit)
        if otherwise:
            say(
                f"the stages read {', '.join(otherwise)} otherwise than the record {recorded.commit[:12]} has it"
                " (edited meanwhile, or changed by git, as line ends are), so it may not give back what they made"
            )
        revision = _revision_of_the_candidate(root)
        if revision is not None and not git.commit(revision):
            say(
                f"the candidate is of an earlier run, from edits that no commit holds (it names {revision});"
                " a retraining with `force` makes one that can be made again"
            )
        with git.index(recorded.commit):
            git.take_in([_LOCK, *git.files("reports")])
            tree = git("write-tree")
        kept = {**trailers, "Revision": revision, "Not-As-Recorded": ", ".join(otherwise) or None}
        commit = git.make_commit(tree, [recorded.commit], _message(sentence, None, kept))
        git.check_free(recorded.ref)
        git.move(recorded.ref, commit, recorded.at)
        return commit
    except _Refused as refused:
        say(f"the result of this run is not recorded in git: {refused}; dvc.lock is in the folder")
        return None


class _Git:
    """Git in one folder: an answer is what it prints, its refusal a _Refused."""

    def __init__(self, root: Path) -> None:
        """Raise _Refused where there is no git, or no repository with files."""
        self._root = root
        self._environment = {**os.environ, "LC_ALL": "C", "GIT_LITERAL_PATHSPECS": "1", "GIT_OPTIONAL_LOCKS": "0"}
        self("rev-parse", "--show-toplevel")
        roles = ("AUTHOR", "COMMITTER")
        # With guesses off: else it signs with the name of the machine, or asks for one.
        if any(self.code("-c", "user.useConfigOnly=true", "var", f"GIT_{role}_IDENT") for role in roles):
            self._environment |= {f"GIT_{role}_{key}": value for role in roles for key, value in _NOBODY.items()}

    def __call__(self, *arguments: str, given: str = "") -> str:
        """Return what the command prints."""
        done = self._run(arguments, given)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line] or [f"git {arguments[0]} failed"]
            raise _Refused(re.sub(r"^(fatal|error): ", "", said[0]))
        return done.stdout.strip("\n")

    def code(self, *arguments: str) -> int:
        """Return the command's exit code."""
        return self._run(arguments).returncode

    def files(self, *names: str, others: bool = False, ignored: bool = False) -> list[str]:
        """Return the files at and below these paths that the index has; or the others, also the ignored ones."""
        options = ["--others", *["--exclude-standard"] * (not ignored)] if others else ["--cached"]
        found = self("ls-files", "-z", *options, "--", *names).split("\0")
        return [name for name in dict.fromkeys(found) if name and not name.endswith("/")]

    def commit(self, name: str) -> str | None:
        """Return the commit that a name stands for; None where there is none."""
        return self._run(("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")).stdout.strip() or None

    @contextmanager
    def index(self, commit: str | None) -> Iterator[None]:
        """Give the commands in this block an index of their own, with what `commit` holds."""
        with tempfile.TemporaryDirectory(prefix="retrain_") as folder:
            persons = self._environment
            self._environment = {**persons, "GIT_INDEX_FILE": str(Path(folder) / "index")}
            try:
                self("read-tree", commit or "--empty")
                yield
            finally:
                self._environment = persons

    def take_in(self, names: list[str]) -> None:
        """Put files into the index as they are in the folder, or out of it where they are gone; submodules stay."""
        folders = [name for name in names if (self._root / name).is_dir()]
        gone = [name for name in folders if not (self._root / name / ".git").exists()]  # files that became folders
        for options, those in (
            (("--force-remove",), gone),
            (("--add", "--remove", "--replace"), set(names) - {*folders}),
        ):
            self("update-index", *options, "-z", "--stdin", given="".join(f"{name}\0" for name in sorted(those)))

    def make_commit(self, tree: str, parents: list[str], message: str) -> str:
        """Return a new commit, on no branch yet."""
        on = [part for parent in parents for part in ("-p", parent)]
        return self("commit-tree", "--no-gpg-sign", tree, *on, "-F", "-", given=message)

    def check_free(self, ref: str) -> None:
        """Raise _Refused where the branch is checked out: moved, it would make a person's files look edited."""
        worktree = ""
        for line in self("worktree", "list", "--porcelain").splitlines():
            key, _, value = line.partition(" ")
            if key == "worktree":
                worktree = value
            elif (key, value) == ("branch", ref):
                name = ref.removeprefix("refs/heads/")
                raise _Refused(
                    f"the branch {name} is checked out in {worktree}; switch to another one there, or name another one"
                    " as retrain.branch in params.yaml"
                )

    def move(self, ref: str, commit: str, before: str | None) -> None:
        """Move a reference from `before` (None: it is new); refused where somebody else has moved it."""
        lock = Path(self("rev-parse", "--path-format=absolute", "--git-path", f"{ref}.lock"))
        if lock.exists() and time.time() - lock.stat().st_mtime > _STALE:
            lock.unlink()
        self("update-ref", "--create-reflog", "-m", "retrain", ref, commit, before or "0" * len(commit))

    def md5(self, commit: str, name: str) -> str | None:
        """Return the MD5 of a file's bytes as a checkout of the commit has them; None where it has no such file."""
        command = self._command(("cat-file", "--filters", f"{commit}:./{name}"))
        with subprocess.Popen(  # noqa: S603
            command, cwd=self._root, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            digest = hashlib.md5(usedforsecurity=False)
            while chunk := process.stdout.read(1 << 20):
                digest.update(chunk)
        return None if process.returncode else digest.hexdigest()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return ["git", *[part for name, value in _QUIET.items() for part in ("-c", f"{name}={value}")], *arguments]

    def _run(self, arguments: tuple[str, ...], given: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603
                self._command(arguments),
                cwd=self._root,
                env=self._environment,
                input=given,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
            )
        except FileNotFoundError:
            raise _Refused("git is not installed") from None


def _inputs(git: _Git, root: Path, wanted: params.Params) -> list[str]:
    """Return the files that the commit takes from the folder: what a person's index has of the sources, and new ones.

    New are files of code, and the `.dvc` file of the corpus or the base with the `.gitignore` that `dvc add` wrote.
    A corpus that git does not follow is not among them: it may be large, or private.
    """
    names = sources(wanted)
    followed = [name for name in names if name.endswith(".dvc") and (root / name).is_file()]
    beside = [str(Path(name).parent / ".gitignore") for name in followed]
    new = [name for name in (*followed, *beside, _LOCK) if (root / name).is_file()]
    return [*git.files(*names, *_OF_DVC), *git.files(*_CODE, others=True), *new]


def _lost(git: _Git, root: Path, wanted: params.Params) -> Iterator[str]:
    """Yield a sentence for each of corpus and base that neither the index nor DVC has."""
    bases = [("base", wanted.base)] if (root / wanted.base).is_dir() else []
    for key, path in [("data.path", wanted.data.path), *bases]:
        if not is_inside(path):
            yield f"params.yaml: {key}: {path} is not below the project's folder, so no commit gives it back"
            continue
        others = git.files(path, others=True, ignored=True)
        if key == "base":
            others = [name for name in others if name.endswith(_MODEL)]
        if (others or (root / path).is_symlink()) and not _is_in_dvc(root, path):
            yield (
                f"params.yaml: {key}: neither git nor DVC follows {path}, so no commit gives it back:"
                f" `dvc add {shlex.quote(path)}`"
            )


def _is_in_dvc(root: Path, path: str) -> bool:
    try:
        with open_repo(root) as repo:
            outs = repo.find_outs_by_path(str(Path(os.path.realpath(root)) / path), strict=False)
    except OutputNotFoundError:
        return False
    return any(out.use_cache for out in outs)


def _independent(git: _Git, tip: str | None, head: str | None) -> list[str]:
    """Return the parents of a commit that follows both: the branch's tip first, and none that the other one has."""
    if tip is None or head is None or tip == head:
        return [commit for commit in (tip or head,) if commit]
    if git.code("merge-base", "--is-ancestor", tip, head) == 0:
        return [head]
    if git.code("merge-base", "--is-ancestor", head, tip) == 0:
        return [tip]
    return [tip, head]


def _message(subject: str, body: str | None, trailers: Mapping[str, str | None] | None = None) -> str:
    """Return a commit's message; each of its parts is one line."""
    lines = [f"{key}: {escape.terminal(' '.join(value.split()))}" for key, value in (trailers or {}).items() if value]
    parts = [escape.terminal(" ".join(part.split())) for part in (subject, body) if part]
    return "\n\n".join([*parts, *["\n".join(lines)] * bool(lines)]) + "\n"


def _revision_of_the_candidate(root: Path) -> str | None:
    """Return what its manifest names; None where there is no candidate."""
    try:
        manifest = json.loads((root / paths.MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return str(manifest.get("git_revision") or "no revision")


def _not_as_recorded(git: _Git, root: Path, commit: str) -> list[str]:
    """Return the files and params that, by `dvc.lock`, the stages read otherwise than the commit has them."""
    lock = root / _LOCK
    stages = _yaml(lock.read_text(encoding="utf-8")).get("stages", {}).values() if lock.exists() else ()
    values = _yaml(git("show", f"{commit}:./{paths.PARAMS}"))
    found = []
    for stage in stages:
        for file in stage.get("deps", ()):
            expected = file.get("md5", ".dir")
            if not expected.endswith(".dir") and _md5(git, commit, file["path"]) not in (None, expected):
                found.append(file["path"])
        for key, value in stage.get("params", {}).get(str(paths.PARAMS), {}).items():
            if functools.reduce(lambda section, part: section.get(part, {}), key.split("."), values) != value:
                found.append(f"{key} in params.yaml")
    return sorted(set(found))


def _md5(git: _Git, commit: str, path: str) -> str | None:
    """Return what a checkout of the commit has at `path`, by git or by its `.dvc` file; None where that has nothing."""
    try:
        followed = _yaml(git("show", f"{commit}:./{path}.dvc"))["outs"][0].get("md5")
    except _Refused:
        return git.md5(commit, path)
    return str(followed)


def _yaml(text: str) -> dict[str, Any]:
    return YAML(typ="safe").load(text) or {}
