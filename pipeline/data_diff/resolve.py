"""Finds the clean data set that a name stands for: a file, a git revision, a model folder or a registered version.

A revision's dvc.lock and a model's manifest.json record the MD5 of the clean data, by which DVC's cache and its default
remote hold the file. DVC is imported where it is needed: a file is compared without it, a second sooner.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import paths, storage
from pipeline.command import UserError
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry


@contextmanager
def clean_data_file(name: str) -> Iterator[Path]:
    """Yield the clean Parquet file that `name` stands for; raises UserError where there is none.

    The first match counts: an existing file or folder, a whole name that the registry knows, a git revision.
    """
    path = Path(name)
    if path.is_file():
        yield path
        return
    if path == paths.CLEAN:
        raise UserError(f"there is no {paths.CLEAN}, the clean data; make it with `dvc repro validate`")
    folder = path if path.is_dir() else _registered_folder(name)
    if folder:
        source, md5 = str(folder / paths.MANIFEST.name), _md5_of_model(folder)
    else:
        source, md5 = name, _md5_of_revision(name)
    with tempfile.TemporaryDirectory(prefix="data_diff_") as scratch:
        yield _cached_or_fetched(md5, source, Path(scratch) / paths.CLEAN.name)


def _registered_folder(name: str) -> Path | None:
    """Return the folder of a registered version; its abbreviations are left to git, whose commits look the same."""
    registry = Registry()
    if not registry.history():
        return None
    whole = [alias for tag in registry.tags() for alias in (tag, tag.partition(":")[2])]
    versions = {*whole, *map(short, whole)}
    return registry.get(name).folder if name in ("champion", "previous", *versions) else None


def _md5_of_revision(revision: str) -> str:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import NotDvcRepoError
    from dvc.scm import SCMError

    try:
        return str(DVCFileSystem(rev=revision).info(str(paths.CLEAN))["md5"])
    except (SCMError, NotDvcRepoError):
        raise UserError(
            f"{revision!r} is no file, no model folder, no version in the registry and no git revision known here; "
            f"{paths.meant(Path(revision))}name a clean parquet file, a revision that `git log` shows, a folder with "
            f"{paths.MANIFEST.name}, or a version that `fresh registry list` shows"
        ) from None
    except (FileNotFoundError, KeyError):  # not there, or in git but not an output
        raise UserError(
            f"{revision}: the dvc.lock of this git revision records no {paths.CLEAN}; name a revision that "
            "was committed after `dvc repro`"
        ) from None


def _md5_of_model(folder: Path) -> str:
    path = folder / paths.MANIFEST.name
    try:
        manifest = storage.read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is a folder without {path.name}; name a model folder, a clean parquet file or a git revision"
        ) from None
    except ValueError:
        raise UserError(f"{path}: is not JSON; name a model folder that `dvc repro` made") from None
    md5 = manifest.get("clean_md5") if isinstance(manifest, dict) else None
    if not (isinstance(md5, str) and re.fullmatch(r"[0-9a-f]{32}", md5)):
        raise UserError(
            f"{path}: has no clean_md5, the MD5 of the clean data: the model was made before that was recorded; name "
            "the git revision that made the model instead"
        )
    return md5


def _cached_or_fetched(md5: str, source: str, copy: Path) -> Path:
    """Return the file of this MD5 in DVC's cache, or `copy`, downloaded from the default remote."""
    from dvc.exceptions import NotDvcRepoError

    from pipeline.dvc_repo import cached_file

    try:
        path = cached_file(md5, copy)
    except NotDvcRepoError:
        raise UserError(f"{source}: its clean data is in a DVC cache, but there is no DVC repository here") from None
    if path is None:
        raise UserError(
            f"{source}: its clean data (MD5 {md5}) is neither in the DVC cache nor in a remote; run "
            "`dvc fetch --all-commits validate` where a remote has it, else check that revision out and run "
            "`dvc repro validate`"
        )
    return path
