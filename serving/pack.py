"""Pack a version of the model and the code that serves it as a bento, such as `gpt2:<version>`: `fresh pack`.

The bento is built in a temporary folder under BENTOML_HOME and moved into BentoML's store with one rename: the store
holds a complete bento or none, even if the command is killed. The next command deletes what a killed one left.
"""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bentoml.exceptions import BentoMLException

from pipeline import paths, storage
from pipeline.command import UserError, warn
from pipeline.registry.model_version import content_version, short
from pipeline.registry.store import Registry
from serving import adapter_folder, bentoml_internals, model_folder, model_verdict, settings, tasks
from serving.engines.protocol import EngineError
from serving.model_folder import UnsuitableReason
from serving.model_loader import AdapterFiles
from serving.model_verdict import NOT_JUDGED, ModelVerdict

_BENTOFILE = "bentofile.yaml"
_CODE = (
    _BENTOFILE,
    "service.py",
    "params.yaml",
    "constraints.txt",
    "requirements.lock",
    "serving",
    "pipeline",
)  # from which `include` selects


@dataclass(frozen=True)
class _Model:
    """A model to pack."""

    folder: Path
    version: str
    description: str
    verdict: ModelVerdict = NOT_JUDGED  # on the candidate, in a file of its own; a version's is in its record


@dataclass(frozen=True)
class _Workspace:
    """Where a bento is built, and the lock under which this command is the only one."""

    staging: Path  # on the store's file system
    context: Path
    lock: int


def pack(root: Path, name: str | None = None) -> str:
    """Pack the model called `name` of the project in `root` and return what was done, as a sentence.

    An existing bento of the same model and code stays; one of other code, or a damaged one, is replaced.

    Args:
        root: The project.
        name: `candidate`, `base` or any name in the registry; None is the champion, or the candidate where there is
            none.

    Raises:
        UserError: The model is missing, linked or damaged, or no bento can be made.
    """
    task = _task(root)
    bento_name = tasks.get_task(task).service_name
    model = _find_model(root, name, partial(tasks.unsuitable_reason, task))
    has_verdict = model.verdict != NOT_JUDGED
    tag = f"{bento_name}:{model.version}"
    try:
        with _workspace() as workspace:
            adapters = _stage_adapters(root, model.folder, workspace.context)
            code = _stage(root, workspace.context, [*_CODE, *([str(paths.VERDICT)] if has_verdict else [])])
            place = bentoml_internals.bento_store() / bento_name / model.version
            exists = place.exists()
            if exists and _is_complete(place, workspace.context, code, model.version):
                return f"the bento {tag} exists already: {model.description}{adapters}, with the current code"
            target = workspace.context / paths.CANDIDATE
            shutil.copytree(model.folder, target, symlinks=True, ignore=shutil.ignore_patterns(".*"))
            bento = _build(workspace, bento_name, model.version)
            if not _is_complete(bento, workspace.context, code, model.version):
                raise UserError(f"{model.folder} changed while it was being packed; run the command again")
            _put(bento, place, workspace.staging)
    except OSError as error:
        raise UserError(f"no bento was made: {error.filename}: {error.strerror}") from error
    again = " again: the existing one was damaged, or of other code or settings" if exists else ""
    return f"packed {model.description}{adapters} as the bento {tag}{again}"


def _task(root: Path) -> str:
    try:
        return settings.load_params(root).task
    except BentoMLException as error:
        raise UserError(str(error)) from None


def _find_model(root: Path, name: str | None, unsuitable: UnsuitableReason) -> _Model:
    registry = Registry(root)
    if name is None:
        name = "champion" if registry.champion() else "candidate"
    if name in ("candidate", "base"):
        model = paths.CANDIDATE if name == "candidate" else paths.BASE
        try:
            model_folder.check_packed(root, unsuitable, model)
        except BentoMLException as error:
            raise UserError(str(error)) from None
        folder = root / model
        if name == "base":
            return _Model(folder, content_version(folder), "the base")
        candidate_version = content_version(folder)
        verdict = model_verdict.of_candidate(root, lambda: candidate_version)
        description = f"the candidate of the last `dvc repro` (verdict: {verdict.outcome})"
        return _Model(folder, candidate_version, description, verdict)
    version = registry.get(name)
    registry.verify(version.tag)
    if reason := unsuitable(version.folder):
        raise UserError(f"no model to pack: {version.folder} {reason}")
    description = "the champion" if name == "champion" else f"the version {version.version}"
    return _Model(version.folder, version.version, description)


@contextmanager
def _workspace() -> Iterator[_Workspace]:
    home = bentoml_internals.home().resolve() / "packing"
    home.mkdir(exist_ok=True)
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not storage.try_flock(lock):
            warn("another bento is being packed; waiting for it")
            storage.try_flock(lock, wait=True)
        for left in home.glob("new-*"):
            shutil.rmtree(left)
        is_hidden = any(part.startswith(".") for part in home.parts)  # where BentoML refuses to build
        with (
            tempfile.TemporaryDirectory(prefix="new-", dir=home) as folder,
            tempfile.TemporaryDirectory(prefix="context-", dir=None if is_hidden else folder) as context,
        ):
            yield _Workspace(Path(folder), Path(context), lock)
    finally:
        os.close(lock)


def _stage_adapters(root: Path, base: Path, context: Path) -> str:
    """Copy the adapters of `service.adapters`, which must be of the model in `base`, and their models' manifests.

    Returns which ones, as a clause.
    """
    packed = []
    for name, source in settings.load(root).adapters.items():
        try:
            folder = adapter_folder.find(root, name, source)
            assert folder.adapter
            from serving.engines import adapted  # torch

            adapted.read_checked(AdapterFiles(folder.adapter, base, folder.merged))
        except (BentoMLException, EngineError) as error:
            raise UserError(f"no bento was made: service.adapters.{name}: {error}") from None
        version = folder.version or content_version(folder.path)
        packed.append(f"{name} ({short(version)}{'' if folder.merged else ', whose base is not known'})")
        target = context / adapter_folder.PACKED / name / version
        shutil.copytree(folder.adapter, target, ignore=shutil.ignore_patterns(".*"))
        manifest = folder.path / paths.MANIFEST.name
        if manifest.is_file():
            shutil.copyfile(manifest, target / manifest.name)
    return f" with the adapters {', '.join(packed)}" if packed else ""


def _stage(root: Path, context: Path, names: list[str]) -> list[str]:
    """Copy files and folders of `root` to `context`; return the names of the files that bentofile.yaml packs."""
    for name in names:
        if (root / name).is_dir():
            shutil.copytree(root / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, context / name)
    try:
        return bentoml_internals.packed_files(context, _BENTOFILE)
    except BentoMLException as error:
        raise UserError(f"{_BENTOFILE}: {error}") from None


def _is_complete(bento: Path, context: Path, code: list[str], version: str) -> bool:
    """Return whether a bento holds the model of this version and the code in `context`, byte for byte."""
    source = bento / "src"
    return (
        (bento / "bento.yaml").is_file()
        and (bento / "env" / "python" / "requirements.txt").is_file()
        and content_version(source / paths.CANDIDATE) == version
        and not any(filecmp.cmpfiles(context, source, code, shallow=False)[1:])
    )


def _build(workspace: _Workspace, name: str, version: str) -> Path:
    """Run `bentoml build` with a store of its own, and return the bento."""
    home = workspace.staging / "home"
    home.mkdir()
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "COLUMNS": "10000"}
    environment["MODEL_DIR"] = str(workspace.context / paths.CANDIDATE)  # packed as it is, whatever its verdict
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "bentoml", "build", "--version", version, "--output", "tag"],
        cwd=workspace.context,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        pass_fds=[workspace.lock],  # it outlives a killed parent, and its folder must not be deleted before it ends
    )
    if result.returncode:
        output = result.stdout.rpartition("`build` failed: ")[2]  # all of it, without a message of BentoML's own
        raise UserError(f"`bentoml build` made no bento: {' '.join(output.split()) or 'it ended without output'}")
    return home / "bentos" / name / version


def _put(bento: Path, place: Path, staging: Path) -> None:
    """Move a bento into the store, and point its name's `latest` to it."""
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(staging / "replaced")
    bento.rename(place)
    latest = staging / "latest"
    latest.write_text(place.name, encoding="utf-8")
    latest.replace(place.parent / "latest")
