"""The projects that share BentoML's store, so that none deletes versions that another one uses.

Each project has an id, in `registry/id`; the store has a file for each, `BENTOML_HOME/.registry/users/ID`, with the
project's folder and the tags it uses, written before a version is used and after it is deleted. So a project's versions
are kept even where its folder is missing. `mv` keeps the inode and the change time of `registry/id`, and a copy has its
own: a moved project keeps its registry, and a copy gets a new id and a registry of its own.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from pipeline import storage
from pipeline.command import UserError, warn

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Project:
    """A project that uses the store."""

    id: str
    folder: Path  # its registry/
    stamp: tuple[int, int] = (0, 0)  # inode and change time of registry/id, in ns
    tags: frozenset[str] | None = None  # None where unknown: an older release recorded the folder alone

    def exists(self) -> bool:
        """Return whether the project is where it was when it last changed its registry."""
        try:
            return self.folder.is_dir() and project_id(self.folder) == self.id
        except (OSError, UserError):  # not readable by this user
            return False

    def describe_use(self, is_certain: bool) -> str:
        """Return, as a clause, that this project uses, or may use, files that are therefore kept."""
        if self.exists():
            return f"{self.folder} uses them"
        return f"{self.folder} {'uses' if is_certain else 'may use'} them{self.forget_hint()}"

    def forget_hint(self) -> str:
        """Return, as a clause, how to forget this project where its folder is missing; empty where it is not."""
        if self.exists():
            return ""
        return f"; that folder is missing: once it is gone for good, `fresh registry forget {self.folder.parent}`"


@dataclass(frozen=True)
class _Content:
    """What the store's file of a project holds."""

    folder: Path
    stamp: tuple[int, int]
    tags: frozenset[str]


_CONTENT = TypeAdapter(_Content)


def project_id(folder: Path) -> str:
    """Return the id of the project whose registry is `folder`; before it has one, its id in older releases."""
    path = folder / "id"
    try:
        text = storage.read_bytes(path).decode(errors="replace").strip()
    except FileNotFoundError:
        return legacy_id(folder)
    except ValueError:
        text = ""
    if not _ID.fullmatch(text):
        raise UserError(f"{path}: is damaged, expected 32 hexadecimal digits; delete it, and a new id is made")
    return text


def legacy_id(folder: Path) -> str:
    """Return the name under which older releases recorded a project."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]


def read(store: Path, id_: str) -> Project | None:
    """Return what `store`, the folder .registry, records of a project; None where it knows none of this id."""
    path = store / "users" / id_
    try:
        text = storage.read_bytes(path).decode()
        if not text.startswith("{"):  # of an older release
            return Project(id_, Path(text))
        content = _CONTENT.validate_json(text)
    except FileNotFoundError:
        return None
    except ValueError as error:
        problem = storage.first_problem(error)
        raise UserError(f"{path}: is damaged ({problem}); put it right, or delete it if that project is gone") from None
    return Project(id_, content.folder, content.stamp, content.tags)


def others(store: Path, id_: str) -> list[Project]:
    """Return all the other projects that use `store`."""
    projects = [read(store, path.name) for path in sorted((store / "users").glob("[!.]*"))]
    return [project for project in projects if project and project.id != id_]


def identify(store: Path, folder: Path) -> Project:
    """Return the project whose registry is `folder`; where it is new, moved or a copy, record that.

    A moved project keeps its id. A copy, whose original may be in use, gets one of its own and a note on stderr.
    """
    path = folder / "id"
    if not path.exists():
        _write_new_id(path)
    recorded = read(store, project_id(folder))
    if recorded and recorded.folder != folder and recorded.stamp != _stamp(path):
        warn(
            f"note: this project is a copy of the one whose registry is {recorded.folder}: from here on its registry "
            f"goes on by itself, and versions that both use are kept{recorded.forget_hint()}"
        )
        _write_new_id(path)
        recorded = None
    current = Project(project_id(folder), folder, _stamp(path), recorded.tags if recorded else None)
    if recorded and recorded != current:
        if recorded.folder != folder:
            warn(f"note: the project whose registry was {recorded.folder} was moved here, and keeps its registry")
        write(store, current)
    return current


def write(store: Path, project: Project, tags: Set[str] | None = None) -> None:
    """Record a project, with these tags where they are given."""
    project = project if tags is None else replace(project, tags=frozenset(tags))
    if read(store, project.id) != project:
        content = {"folder": str(project.folder), "stamp": project.stamp, "tags": sorted(project.tags or ())}
        storage.write_atomic(store / "users" / project.id, json.dumps(content, indent=2) + "\n")
    legacy = store / "users" / legacy_id(project.folder)
    if legacy.is_file() and read(store, legacy.name) == Project(legacy.name, project.folder):
        legacy.unlink()


def forget(store: Path, folder: Path) -> list[Project]:
    """Delete the records of the projects that were in `folder`, which must be gone; return them."""
    gone = [project for project in others(store, "") if folder.absolute() in (project.folder, project.folder.parent)]
    if not gone:
        known = ", ".join(str(project.folder.parent) for project in others(store, ""))
        raise UserError(f"{folder}: the store in {store.parent} knows no such project; it knows {known or 'none'}")
    if any(project.exists() for project in gone):
        raise UserError(f"{folder}: that project is there and uses the store; delete its folder first")
    for project in gone:
        (store / "users" / project.id).unlink()
    return gone


def _write_new_id(path: Path) -> None:
    storage.write_atomic(path, f"{uuid.uuid4().hex}\n")


def _stamp(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_ino, state.st_ctime_ns
