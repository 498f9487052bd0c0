"""Pack a version of the model and the code that serves it as the bento `gpt2:<version>`: `python -m serving.pack`.

The bento is built in a folder of its own, under BENTOML_HOME, and comes into BentoML's store with one rename: whatever
fails or is killed when, the store holds a whole bento or none. What a killed command left is deleted by the next.
"""

import fcntl
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bentoml._internal.bento.build_config import BentoBuildConfig, BentoPathSpec
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from pipeline import params, paths
from pipeline.command import UserError, arg_parser, echo, run, warn
from pipeline.registry.model_version import content_version
from pipeline.registry.store import Registry
from serving import model_folder

_NAME = "gpt2"  # of the bento; bentofile.yaml has it too
_BENTOFILE = "bentofile.yaml"
_CODE = (
    _BENTOFILE,
    "service.py",
    "params.yaml",
    "constraints.txt",
    "requirements.lock",
    "serving",
    "pipeline",
)  # include chooses in it


def pack(root: Path, name: str | None = None) -> str:
    """Pack the model called `name` of the project in `root` and return what was done, as a sentence.

    `name` is `candidate` or any name of the registry's; None is the champion, or the candidate where there is none.
    A bento of the same model and the same code stays; one of other code, or a damaged one, is replaced.
    Raises UserError for a model that is missing, linked or damaged, and where no bento can be made.
    """
    registry = Registry(root)
    if name is None:
        name = "champion" if registry.champion() else "candidate"
    if name == "candidate":
        try:
            model_folder.check_packed(root)
        except BentoMLException as error:
            raise UserError(str(error)) from None
        folder, what = root / paths.CANDIDATE, "the candidate of the last `dvc repro`"
        version = content_version(folder)
    else:
        found = registry.get(name)
        registry.verify(found.tag)
        folder, version = found.folder, found.version
        what = "the champion" if name == "champion" else f"the version {version}"
    tag = f"{_NAME}:{version}"
    try:
        with _staging() as (staging, context, lock):
            code = _stage(root, context)
            place = Path(BentoMLContainer.bento_store_dir.get()) / _NAME / version
            was_there = place.exists()
            if was_there and _is_whole(place, context, code, version):
                return f"the bento {tag} is there already: {what}, with the code that is here"
            shutil.copytree(folder, context / paths.CANDIDATE, symlinks=True, ignore=shutil.ignore_patterns(".*"))
            bento = _build(context, version, staging / "home", lock)
            if not _is_whole(bento, context, code, version):
                raise UserError(f"{folder} changed while it was being packed; run it again")
            _put(bento, place, staging)
    except OSError as error:
        raise UserError(f"no bento was made: {error.filename}: {error.strerror}") from error
    again = " again, for the one that was there was damaged, or of other code or settings" if was_there else ""
    return f"packed {what} as the bento {tag}{again}"


@contextmanager
def _staging() -> Iterator[tuple[Path, Path, int]]:
    """Give an empty folder on the store's file system, one to build in, and the lock under which they are the only."""
    home = Path(BentoMLContainer.bentoml_home.get()).resolve() / "packing"
    home.mkdir(exist_ok=True)
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            warn("another bento is being packed; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in home.glob("new-*"):
            shutil.rmtree(left)
        is_hidden = any(part.startswith(".") for part in home.parts)  # BentoML builds in no such place
        with (
            tempfile.TemporaryDirectory(prefix="new-", dir=home) as folder,
            tempfile.TemporaryDirectory(prefix="context-", dir=None if is_hidden else folder) as context,
        ):
            yield Path(folder), Path(context), lock
    finally:
        os.close(lock)


def _stage(root: Path, context: Path) -> list[str]:
    """Copy the code in `root` to `context` and return the names of the files that bentofile.yaml packs of it."""
    for name in _CODE:
        if (root / name).is_dir():
            shutil.copytree(root / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(root / name, context / name)
    try:
        config = BentoBuildConfig.from_file(str(context / _BENTOFILE)).with_defaults()
    except BentoMLException as error:
        raise UserError(f"{_BENTOFILE}: {error}") from None
    spec = BentoPathSpec(config.include, config.exclude, str(context))
    files = [path.relative_to(context).as_posix() for path in sorted(context.rglob("*")) if path.is_file()]
    return [name for name in files if spec.includes(name)]


def _is_whole(bento: Path, context: Path, code: list[str], version: str) -> bool:
    """Say whether a bento holds the model of this version and the code in `context`, byte for byte."""
    source = bento / "src"
    return (
        (bento / "bento.yaml").is_file()
        and (bento / "env" / "python" / "requirements.txt").is_file()
        and content_version(source / paths.CANDIDATE) == version
        and not any(filecmp.cmpfiles(context, source, code, shallow=False)[1:])
    )


def _build(context: Path, version: str, home: Path, lock: int) -> Path:
    """Run `bentoml build` in `context` with a store of its own, and return the bento."""
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "MODEL_DIR"}
    environment |= {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "COLUMNS": "10000"}
    built = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "bentoml", "build", "--version", version, "--output", "tag"],
        cwd=context,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        pass_fds=[lock],  # it outlives a killed parent, and nobody may delete its folder before it has ended
    )
    if built.returncode:
        told = built.stdout.rpartition("`build` failed: ")[2]  # all of it, where it came to no message of its own
        raise UserError(f"`bentoml build` made no bento: {' '.join(told.split()) or 'it ended without a word'}")
    return home / "bentos" / _NAME / version


def _put(bento: Path, place: Path, staging: Path) -> None:
    """Move a bento into the store, as the one that `gpt2:latest` means."""
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(staging / "replaced")
    bento.rename(place)
    latest = staging / "latest"
    latest.write_text(place.name, encoding="utf-8")
    latest.replace(place.parent / "latest")


def main() -> None:
    """Run the command."""
    parser = arg_parser()
    parser.add_argument(
        "version",
        metavar="VERSION",
        nargs="?",
        help="a tag, a version or the beginning of one, champion, previous, or candidate; "
        "unless given the champion, or the candidate where there is none",
    )
    wanted = parser.parse_args()
    params.load()  # says so, where this is not the project's root
    echo(pack(Path().absolute(), wanted.version))


if __name__ == "__main__":
    run(main)
