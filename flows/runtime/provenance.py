"""What a retraining records in git: its inputs before it trains, `dvc.lock` and the verdict after it.

Both are commits on a branch of their own, or on a DVC experiment's reference. (`dvc exp save` is not used: it stashes a
person's work and detaches HEAD meanwhile.) A candidate's manifest names the last commit that touched the sources, so
the commit with its inputs: checked out in any clone, `dvc repro` makes the same bytes, for it finds the same commit.
"""

import functools
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.runtime.git_plumbing import Git, GitError
from pipeline import escape, params, paths
from pipeline.dvc_repo import is_tracked
from pipeline.revision import RECORDED, is_inside, sources

_DVC_LOCK = "dvc.lock"
_CODE = ("pipeline", "starter")  # untracked files here are inputs too, unless git ignores them
_DVC_SETTINGS = (".dvc", ".dvcignore")
_MODEL_SUFFIXES = (".gguf", ".json", ".safetensors")


@dataclass(frozen=True)
class RecordedInputs:
    """Where a run's inputs are recorded.

    Args:
        ref: The reference that takes the result.
        tip: The commit that `ref` is at; None if it does not exist yet.
        commit: The commit with the inputs.
        revision: The revision that the candidate's manifest names.
    """

    ref: str
    tip: str | None
    commit: str
    revision: str


def record_inputs(root: Path, reason: str, log: Callable[[str], None]) -> RecordedInputs | None:
    """Commit what the stages are about to read, edits included, unless git has all of it already.

    Call it within the claim on the workspace, after the data nodes and before the other stages, with the overrides in
    params.yaml. `retrain.record` and `retrain.branch` say where to commit.

    Args:
        root: The repository's root.
        reason: Why the run started; the body of the commit's message.
        log: Called with a sentence if git refuses, and for a corpus or a base that no commit can restore.

    Returns:
        Where the inputs are; None if `retrain.record` is none or git refuses.
    """
    config = params.load(root / paths.PARAMS)
    if config.retrain.record == "none":
        return None
    try:
        return _record_inputs(Git(root), root, config, reason, log)
    except GitError as error:
        log(f"this run is not recorded in git: {error}")
        return None


def _record_inputs(
    git: Git, root: Path, config: params.Params, reason: str, log: Callable[[str], None]
) -> RecordedInputs:
    if not git.tracked(str(paths.PARAMS)):
        raise GitError(f"the repository {git('rev-parse', '--show-toplevel')} does not track params.yaml")
    head = git.commit("HEAD")
    ref = _reference(git, config.retrain, head)
    tip = git.commit(ref)
    inputs = _input_files(git, root, config)
    with git.index(head):
        git.add([*inputs, *git.tracked(*sources(config), *_DVC_SETTINGS)])
        tree = git("write-tree")
        for sentence in _unrecoverable(git, root, config):
            log(sentence)
    parents = _parents(git, tip, head)
    if parents and git("rev-parse", f"{parents[0]}^{{tree}}") == tree:
        commit = parents[0]
    else:
        commit = git.make_commit(tree, parents, commit_message("Inputs of a retraining", reason))
    if commit not in parents:
        git.move(ref, commit, tip)
        tip = commit
    revision = git("log", "-1", "--format=%H", commit, "--", *sources(config))
    return RecordedInputs(ref, tip, commit, revision)


def _reference(git: Git, config: params.Retrain, head: str | None) -> str:
    if config.record == "branch":
        ref = f"refs/heads/{config.branch}"
        git.check_not_checked_out(ref)
        return ref
    if head is None:
        raise GitError("a DVC experiment starts from a commit, and there is none")
    return f"refs/exps/{head[:2]}/{head[2:]}/retrain-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def export_revision(recorded: RecordedInputs | None) -> Iterator[None]:
    """Make the stages that start in this block name the recorded revision in what they write."""
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
    subject: str,
    trailers: Mapping[str, str | None],
    log: Callable[[str], None],
) -> str | None:
    """Commit `dvc.lock`, and the reports that git tracks, on top of the inputs; return the commit.

    Args:
        root: The repository's root.
        recorded: The inputs; without them nothing is committed.
        subject: The subject of the commit's message.
        trailers: Git trailers, such as Version and Verdict; those that are None are left out. Revision, which the
            candidate's manifest names, is added.
        log: Called with a sentence if git refuses, or if checking out the revision does not restore the candidate.

    Returns:
        The commit; None without recorded inputs, or if git refuses.
    """
    if recorded is None:
        return None
    try:
        git = Git(root)
        checked = _check_reproducible(git, root, recorded.commit, log)
        with git.index(recorded.commit):
            git.add([_DVC_LOCK, *git.tracked("reports")])
            tree = git("write-tree")
        commit = git.make_commit(tree, [recorded.commit], commit_message(subject, None, {**trailers, **checked}))
        git.check_not_checked_out(recorded.ref)
        git.move(recorded.ref, commit, recorded.tip)
        return commit
    except GitError as error:
        log(f"the result of this run is not recorded in git: {error}; dvc.lock is in the folder")
        return None


def _check_reproducible(git: Git, root: Path, commit: str, log: Callable[[str], None]) -> dict[str, str | None]:
    """Log why checking out the recorded inputs may not restore the candidate; return the trailers that say so."""
    differing = _differing_inputs(git, root, commit)
    if differing:
        log(
            f"the stages read other content of {', '.join(differing)} than the commit {commit[:12]} holds (edited "
            "meanwhile, or line ends changed by git), so the commit may not reproduce their outputs"
        )
    revision = _candidate_revision(root)
    if revision is not None and not git.commit(revision):
        log(
            f"the candidate comes from an earlier run, from edits that no commit holds (it names {revision}); a "
            "retraining with `force` makes one that can be reproduced"
        )
    return {"Revision": revision, "Not-As-Recorded": ", ".join(differing) or None}


def _input_files(git: Git, root: Path, config: params.Params) -> list[str]:
    """Return the files to commit: tracked sources, new files of code, and `.dvc` files of corpus and base.

    An untracked corpus is not among them: it may be large, or private.
    """
    names = sources(config)
    dvc_files = [name for name in names if name.endswith(".dvc") and (root / name).is_file()]
    ignore_files = [str(Path(name).parent / ".gitignore") for name in dvc_files]  # `dvc add` writes them
    new = [name for name in (*dvc_files, *ignore_files, _DVC_LOCK) if (root / name).is_file()]
    return [*git.tracked(*names, *_DVC_SETTINGS), *git.untracked(*_CODE), *new]


def _unrecoverable(git: Git, root: Path, config: params.Params) -> Iterator[str]:
    """Yield a sentence for each of corpus and base that neither the index nor DVC has."""
    bases = [("base", config.base)] if (root / config.base).exists() else []
    for key, path in [("data.path", config.data.path), *bases]:
        if not is_inside(path):
            yield f"params.yaml: {key}: {path} is outside the project's folder, so no commit can restore it"
            continue
        untracked = git.untracked(path, ignored=True)
        if key == "base":
            untracked = [name for name in untracked if name.endswith(_MODEL_SUFFIXES)]
        if (untracked or (root / path).is_symlink()) and not is_tracked(root, Path(os.path.realpath(root)) / path):
            yield (
                f"params.yaml: {key}: neither git nor DVC tracks {path}, so no commit can restore it; "
                f"track it: `dvc add {shlex.quote(path)}`"
            )


def _parents(git: Git, tip: str | None, head: str | None) -> list[str]:
    """Return the parents of a commit that follows both: the branch's tip first, without ancestors of the other."""
    if tip is None or head is None or tip == head:
        return [commit for commit in (tip or head,) if commit]
    if git.code("merge-base", "--is-ancestor", tip, head) == 0:
        return [head]
    if git.code("merge-base", "--is-ancestor", head, tip) == 0:
        return [tip]
    return [tip, head]


def commit_message(subject: str, body: str | None, trailers: Mapping[str, str | None] | None = None) -> str:
    """Return a commit message; each of its parts is one line."""
    lines = [f"{key}: {escape.terminal(' '.join(value.split()))}" for key, value in (trailers or {}).items() if value]
    parts = [escape.terminal(" ".join(part.split())) for part in (subject, body) if part]
    return "\n\n".join([*parts, *["\n".join(lines)] * bool(lines)]) + "\n"


def _candidate_revision(root: Path) -> str | None:
    """Return the revision that the candidate's manifest names; None if there is no candidate."""
    try:
        manifest = json.loads((root / paths.MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return str(manifest.get("git_revision") or "no revision")


def _differing_inputs(git: Git, root: Path, commit: str) -> list[str]:
    """Return the files and params whose content in `commit` differs from what `dvc.lock` says that stages read."""
    lock = root / _DVC_LOCK
    stages = _load_yaml(lock.read_text(encoding="utf-8")).get("stages", {}).values() if lock.exists() else ()
    values = _load_yaml(git("show", f"{commit}:./{paths.PARAMS}"))
    differing = set()
    for stage in stages:
        for file in stage.get("deps", ()):
            md5 = file.get("md5", ".dir")
            if not md5.endswith(".dir") and _committed_md5(git, commit, file["path"]) not in (None, md5):
                differing.add(file["path"])
        for key, value in stage.get("params", {}).get(str(paths.PARAMS), {}).items():
            if functools.reduce(lambda section, part: section.get(part, {}), key.split("."), values) != value:
                differing.add(f"{key} in params.yaml")
    return sorted(differing)


def _committed_md5(git: Git, commit: str, path: str) -> str | None:
    """Return the MD5 of `path` in a checkout of the commit, by its `.dvc` file or by git; None if it has neither."""
    try:
        dvc_file = _load_yaml(git("show", f"{commit}:./{path}.dvc"))
    except GitError:
        return git.md5(commit, path)
    return str(dvc_file["outs"][0].get("md5"))


def _load_yaml(text: str) -> dict[str, Any]:
    return YAML(typ="safe").load(text) or {}
