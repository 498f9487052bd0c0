"""The only module that uses DVC's Python internals; DVC documents none of them, so each has a contract test.

It opens the repository, lists the pipeline, reports what changed, and runs one stage. Without a git repository (a ZIP
download) DVC refuses to work unless `core.no_scm` is set: `open_repo` and `fresh train` set it where it is needed.
"""

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from dvc.config import Config, NoRemoteError
from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException, OutputNotFoundError, ReproductionError
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage.cache import StageCache
from dvc.stage.exceptions import StageCmdFailedError
from dvc.ui import ui

from pipeline.command import UserError, warn

Outcome = Literal["Ran", "Skipped", "Cached"]
ABSENT = object()  # the value of a parameter that is not there

_FOLDER = Path(".dvc")
_EXIT_CODE = re.compile(r"exited with (-?\d+)\Z")  # StageCmdFailedError keeps the exit code in its message only


@dataclass(frozen=True)
class Node:
    """A node of the pipeline: a stage, or a data file with a `.dvc` file. `after` names the nodes it depends on."""

    name: str
    after: tuple[str, ...]

    @property
    def is_data(self) -> bool:
        """Whether the node is a data file."""
        return self.name.endswith(".dvc")


@dataclass(frozen=True)
class Dependency:
    """A file or folder that a stage reads, as DVC prints it and as an absolute path."""

    name: str
    path: Path


@dataclass(frozen=True)
class StageStatus:
    """What differs between a stage's last run, as `dvc.lock` records it, and now.

    `params` maps each changed key to its recorded and its current value, ABSENT where there is none. `outputs` maps
    each changed output to DVC's word for its status, such as "deleted", "modified" or "not in cache".
    """

    name: str
    has_run: bool
    command_changed: bool
    params: dict[str, tuple[Any, Any]]
    dependencies: list[Dependency]
    outputs: dict[str, str]
    output_paths: list[Path]


@dataclass(frozen=True)
class Reproduction:
    """The result of `reproduce`: an outcome, or DVC's error, with the exit code if the stage's command failed."""

    outcome: Outcome | None
    error: str = ""
    exit_code: int | None = None


def open_repo(root: Path = Path(), *, wait_for_lock: bool = False) -> Repo:
    """Return DVC's repository in `root`, to be used as a context manager; raises DVC's own exceptions."""
    allow_no_git(root)
    return Repo(str(root), _wait_for_lock=wait_for_lock)


@contextmanager
def _open_pipeline(root: Path = Path(), *, wait_for_lock: bool = False) -> Iterator[Repo]:
    """Open the repository; raise UserError where DVC cannot load it or its pipeline."""
    try:
        with open_repo(root, wait_for_lock=wait_for_lock) as repo:
            yield repo
    except DvcException as error:
        raise UserError(f"DVC cannot load the pipeline: {error}") from None


def pipeline_nodes(root: Path) -> list[Node]:
    """Return the nodes of the pipeline in the order in which `dvc repro` visits them."""
    with _open_pipeline(root) as repo:
        graph = get_active_graph(repo.index.graph)
        return [Node(_address(stage), tuple(sorted(map(_address, graph.successors(stage))))) for stage in _plan(repo)]


def stage_statuses(root: Path) -> list[StageStatus]:
    """Return the status of each stage, in the order of `pipeline_nodes`; takes no lock."""
    with _open_pipeline(root) as repo:
        return [_status(stage) for stage in _plan(repo) if not stage.is_data_source]


def is_tracked(root: Path, path: Path) -> bool:
    """Whether DVC keeps the file or folder `path` in its cache."""
    with _open_pipeline(root) as repo:
        try:
            outs = repo.find_outs_by_path(str(path), strict=False)
        except OutputNotFoundError:
            return False
    return any(out.use_cache for out in outs)


def cached_file(md5: str, copy: Path) -> Path | None:
    """Return the file with this MD5 in DVC's cache, or `copy`, downloaded from the default remote.

    Returns None if neither has it; raises DVC's NotDvcRepoError if the current folder is in no repository.
    """
    with open_repo() as repo:
        if repo.cache.local.exists(md5):
            return Path(repo.cache.local.oid_to_path(md5))
        try:
            remote = repo.cloud.get_remote_odb()
            remote.fs.get_file(remote.oid_to_path(md5), str(copy))
        except (NoRemoteError, FileNotFoundError):
            return None
    return copy


def reproduce(target: str, *, force: bool) -> Reproduction:
    """Bring one node of the repository in the current folder up to date, but not the nodes it depends on.

    DVC and the stage print to this process's output, as they do under `dvc repro`.
    """
    ui.enable()
    try:
        with _open_pipeline(wait_for_lock=True) as repo:
            try:
                cache = repo.stage_cache = _RecordingStageCache(repo)
                stages = repo.reproduce(targets=[target], single_item=True, force=force)
            except DvcException as error:
                return _failure(error)
    except UserError as error:
        return Reproduction(None, str(error))
    return Reproduction("Skipped" if not stages else "Cached" if cache.restored else "Ran")


def remove_stale_rwlock(root: Path) -> None:
    """Delete DVC's list of files in use if a killed process left it, truncated or with its process ids.

    DVC drops ids of processes that are gone. After a restart of the machine another process may have such an id, and
    DVC would wait for it: an id counts only if its process started before the file was written.
    """
    path = root / _FOLDER / "tmp" / "rwlock"
    try:
        written = path.stat().st_mtime
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except json.JSONDecodeError:
        path.unlink()
        return
    readers = itertools.chain(*content.get("read", {}).values())
    users = [*content.get("write", {}).values(), *readers]
    if users and not any(_started_before(user["pid"], written) for user in users):
        path.unlink()


def allow_no_git(root: Path = Path()) -> None:
    """Set `core.no_scm` for this copy of the project if it is in no git repository, and warn about it once."""
    folder = root.absolute()
    if not (root / _FOLDER).is_dir() or any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return
    config = Config(str(folder / _FOLDER))
    if config["core"].get("no_scm"):
        return
    with config.edit("local") as local:
        local["core"]["no_scm"] = True
    warn(
        "this folder is in no git repository: git revisions are not recorded, and core.no_scm is now set in "
        ".dvc/config.local so that DVC works; after a `git init`, unset it: `dvc config --local --unset core.no_scm`"
    )


class _RecordingStageCache(StageCache):
    """DVC's run cache, which also remembers whether it restored a stage instead of letting it run."""

    restored = False

    def restore(self, *args: Any, **kwargs: Any) -> None:
        super().restore(*args, **kwargs)
        self.restored = True


def _plan(repo: Repo) -> list[Any]:
    plan: list[Any] = plan_repro(get_active_graph(repo.index.graph), collect_stages(repo, ["dvc.yaml"]))
    return plan


def _address(stage: Any) -> str:
    """Return the name that `dvc repro` takes in the root; DVC's `addressing` depends on the current folder."""
    path, name = stage.path_in_repo, getattr(stage, "name", None)
    return str(path if name is None else name if path == "dvc.yaml" else f"{path}:{name}")


def _status(stage: Any) -> StageStatus:
    has_run = any(dep.hash_info for dep in stage.deps)
    deps = [] if stage.frozen or not has_run else stage.deps
    params: dict[str, tuple[Any, Any]] = {}
    for dep in deps:
        if isinstance(dep, ParamsDependency):
            recorded, current = dep.hash_info.value or {}, dep.read_params()
            keys = (key for changed in dep.status().values() for key in changed)
            params |= {key: (recorded.get(key, ABSENT), current.get(key, ABSENT)) for key in keys}
    return StageStatus(
        name=stage.name,
        has_run=has_run,
        command_changed=has_run and stage.changed_stage(),
        params=params,
        dependencies=[
            Dependency(str(dep), Path(dep.fs_path))
            for dep in deps
            if not isinstance(dep, ParamsDependency) and dep.status()
        ],
        outputs={str(out): status for out in stage.outs for status in out.status().values()},
        output_paths=[Path(out.fs_path) for out in stage.outs],
    )


def _failure(error: DvcException) -> Reproduction:
    """Return the error with its causes, without the first if it only says "failed to reproduce"."""
    causes: list[BaseException] = []
    cause: BaseException | None = error.__cause__ if isinstance(error, ReproductionError) else error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    message = ": ".join(map(str, causes))
    command = next((one for one in causes if isinstance(one, StageCmdFailedError)), None)
    exit_code = _EXIT_CODE.search(str(command)) if command else None
    return Reproduction(None, message, int(exit_code[1]) if exit_code else None)


def _started_before(pid: int, moment: float) -> bool:
    try:
        return bool(psutil.Process(pid).create_time() <= moment)
    except psutil.NoSuchProcess:
        return False
