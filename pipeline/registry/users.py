"""Which projects use which versions in the shared store, so that none deletes the files of another.

Each project has an id, in `registry/id`. The store has a file for each id, `BENTOML_HOME/.registry/users/ID`: where
the project lies, and the tags that it uses, written before a version is used and after it is deleted. So the tags are
known even where the project's folder is missing: then its files are kept, until `forget` says that it is gone.

`mv` keeps the inode and the change time of `registry/id`, and a copy has its own. So a moved project keeps its
registry, and a copy gets a new id: its registry goes on by itself.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import storage
from pipeline.command import UserError, warn

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class User:
    """A project that uses the store."""

    id: str
    folder: Path  # its registry/
    stamp: tuple[int, int] = (0, 0)  # inode and change time of registry/id, in ns
    tags: frozenset[str] | None = None  # None where they are not known: an older release wrote down the folder alone


def key(folder: Path) -> str:
    """Return the id of the project whose registry is `folder`, or by what an older release knew it."""
    try:
        found = (folder / "id").read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return old_key(folder)
    if not _ID.fullmatch(found):
        raise UserError(f"{folder / 'id'}: is damaged, expected 32 hexadecimal digits; delete it, and a new id is made")
    return found


def find(store: Path, id_: str) -> User | None:
    """Return what `store`, the folder .registry, knows of a project."""
    mark = store / "users" / id_
    try:
        text = mark.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _damaged(mark, error) from None
    if not text.startswith("{"):
        return User(id_, Path(text))
    try:
        known = json.loads(text)
        return User(id_, Path(known["folder"]), tuple(known["stamp"]), frozenset(known["tags"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(mark, error) from None


def _damaged(mark: Path, error: Exception) -> UserError:
    return UserError(f"{mark}: is damaged ({error}); put it right, or delete it if that project is gone")


def others(store: Path, id_: str) -> list[User]:
    """Return all the other projects that use `store`."""
    found = [find(store, mark.name) for mark in sorted((store / "users").glob("[!.]*"))]
    return [user for user in found if user and user.id != id_]


def identify(store: Path, folder: Path) -> User:
    """Return the project whose registry is `folder`; where it is new, moved or a copy, write down what it is now.

    A moved project keeps its id. A copy, of which the original may be in use, gets one of its own, and is told.
    """
    id_file = folder / "id"
    if not id_file.exists():
        _renew(id_file)
    user = find(store, key(folder))
    if user and user.folder != folder and user.stamp != _stamp(id_file):
        warn(
            f"note: this project is a copy of the one whose registry is {user.folder}: from here on its registry "
            f"goes on by itself, and versions that both use are kept{_if_gone(user)}"
        )
        _renew(id_file)
        user = None
    now = User(key(folder), folder, _stamp(id_file), user.tags if user else None)
    if user and user != now:
        if user.folder != folder:
            warn(f"note: the project whose registry was {user.folder} was moved here, and keeps its registry")
        write(store, now)
    return now


def write(store: Path, user: User, tags: Set[str] | None = None) -> User:
    """Write down a project, with these tags where they are given; return what is written down."""
    user = user if tags is None else replace(user, tags=frozenset(tags))
    if find(store, user.id) != user:
        content = {"folder": str(user.folder), "stamp": user.stamp, "tags": sorted(user.tags or ())}
        storage.write_atomic(store / "users" / user.id, json.dumps(content, indent=2) + "\n")
    old = store / "users" / old_key(user.folder)
    if old.is_file() and find(store, old.name) == User(old.name, user.folder):
        old.unlink()
    return user


def sentence(user: User, uses: bool) -> str:
    """Return, as a clause, that a project uses (or may use) files that are therefore kept."""
    if is_there(user):
        return f"{user.folder} uses them"
    return f"{user.folder} {'uses' if uses else 'may use'} them{_if_gone(user)}"


def is_there(user: User) -> bool:
    """Say whether the project lies where it lay when it was last used."""
    try:
        return user.folder.is_dir() and key(user.folder) == user.id
    except (OSError, UserError):  # not ours to look into
        return False


def forget(store: Path, project: Path) -> list[User]:
    """Forget the projects that lay in the folder `project`, which must be gone; return them."""
    users = [user for user in others(store, "") if project.absolute() in (user.folder, user.folder.parent)]
    if not users:
        known = ", ".join(str(user.folder.parent) for user in others(store, ""))
        raise UserError(f"{project}: the store in {store.parent} knows no such project; it knows {known or 'none'}")
    for user in users:
        if is_there(user):
            raise UserError(f"{project}: that project is there and uses the store; delete its folder first")
    for user in users:
        (store / "users" / user.id).unlink()
    return users


def _renew(id_file: Path) -> None:
    storage.write_atomic(id_file, f"{uuid.uuid4().hex}\n")


def _if_gone(user: User) -> str:
    if is_there(user):
        return ""
    return (
        f"; that folder is missing: once it is gone for good, `python -m pipeline.registry forget {user.folder.parent}`"
    )


def _stamp(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_ino, state.st_ctime_ns


def old_key(folder: Path) -> str:
    """Return the name under which older releases wrote down a project."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]
