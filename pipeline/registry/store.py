"""Versions of the model, which of them is the champion, and how it came to be: `python -m pipeline.registry`.

The files of a version lie in BentoML's own model store, `BENTOML_HOME/models/<name>/<version>`, beside BentoML's
model.yaml and a version.json of ours; the version is a hash of what the model's files hold. `registry/champion.json`
names the champion, `registry/history.jsonl` tells every move. Nothing here loads a model.

Whatever is killed when: a version is made beside and comes with one rename; the pointer is replaced by one rename and
holds its own entry of the history, which the next change writes where it is missing; a version is renamed away before
it is deleted. All of it under `registry/lock` and the store's lock.
"""

import argparse
import copy
import fcntl
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline import escape, params, paths, storage
from pipeline.command import UserError, arg_parser, echo, echo_json, utf8_text, warn
from pipeline.registry import users
from pipeline.registry.model_version import (
    DIGITS,
    MODEL_YAML,
    REQUIRED_FILES,
    SHORT_DIGITS,
    VERSION_JSON,
    file_hashes,
    is_same_version,
    model_files,
    sha256,
    short,
    version_of,
)

MOVES = ("promote", "force", "rollback")  # the actions that set the pointer
LOCK_SECONDS = 10.0  # how long a change waits for another one to end

_TAG = re.compile(rf"[a-z0-9][a-z0-9_.-]{{0,62}}:([0-9a-f]{{{SHORT_DIGITS}}}|[0-9a-f]{{{DIGITS}}})")
_QUICKLY_HASHED = 1_000_000  # bytes; larger files are hashed by `verify` and before a move, not at every look
_COMMAND = "python -m pipeline.registry"

Action = Literal["promote", "force", "rollback", "refuse", "delete"]
_Figures = Mapping[str, float | str | None]


@dataclass(frozen=True)
class Entry:
    """A line of the history; in JSON `from_` is `from`.

    A promotion, a forced one and a rollback move the champion from one tag to another. A refusal has the champion as
    `from_` and what was refused as `to`, a deletion what was deleted as `from_`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    serial: Annotated[int, Field(ge=1)]
    at: str  # UTC, ISO 8601, seconds
    who: str
    action: Action
    from_: Annotated[str | None, Field(alias="from")]
    to: str | None
    why: str
    figures: dict[str, float | str | None]

    def as_json(self) -> dict[str, Any]:
        """Return the entry as the history has it."""
        found: dict[str, Any] = _ENTRY.dump_python(self, by_alias=True)
        return found


_ENTRY = TypeAdapter(Entry)


@dataclass(frozen=True)
class Version:
    """A model in the store."""

    tag: str  # name:version
    version: str  # see `content_version`; in full, though the tags of older releases have its beginning alone
    folder: Path
    created: str  # when it came into the store: UTC, ISO 8601, seconds
    labels: dict[str, str]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class _File:
    size: int
    sha256: str


@dataclass
class _State:
    """What the registry's files say."""

    entries: list[Entry] = field(default_factory=list)  # the pointer's own entry among them
    pointer: Entry | None = None
    damage: str = ""  # of the pointer, as a sentence; empty when it is whole, or when nothing was ever promoted


class Registry:
    """The versions, the champion and the history of the project in `root`."""

    def __init__(self, root: Path = Path(), name: str | None = None) -> None:
        """Touch nothing yet; `name`, of the versions, is `registry.name` of params.yaml unless given."""
        self._root = root
        self._given_name = name
        self._folder = root / paths.REGISTRY
        self._pointer = self._folder / "champion.json"
        self._history = self._folder / "history.jsonl"

    # Looking

    def champion(self) -> Version | None:
        """Return the version being served, None when nothing was ever promoted.

        Raises UserError, with the last good version and the way back to it, where the pointer or the version is
        damaged. Files of more than 1 MB are only held to their size here; `verify` reads every byte.
        """
        state = self._state()
        damage = state.damage
        if state.pointer and not damage:
            damage = self._damage(str(state.pointer.to), thorough=False)
        if damage:
            raise UserError(f"{damage}; {self._way_back(state)}")
        return self._version(str(state.pointer.to)) if state.pointer else None

    def since(self, tag: str) -> str:
        """Return when `tag` last became champion: UTC, ISO 8601."""
        return next(entry.at for entry in reversed(self.history()) if entry.action in MOVES and entry.to == tag)

    def history(self) -> list[Entry]:
        """Return every entry, oldest first; raises UserError with the line where one is damaged."""
        return self._state().entries

    def versions(self) -> list[Version]:
        """Return the versions of this registry that can be read, oldest first; `check` says which cannot.

        Others may keep versions in the same store, even of the same name: they are not ours to list.
        """
        found = [self._version(tag) for tag in self.tags() if not self._record_damage(tag)]
        return sorted(found, key=lambda version: version.created)

    def tags(self) -> list[str]:
        """Return the tags of this registry's versions, whole or not: champions of any time, and what was only added."""
        known, trash = _known(self.history()), self._trash()
        known = [tag for tag in known if not (trash / Path(*tag.split(":"))).exists()]  # a kill came between
        return [*known, *(tag for tag in sorted(self._added()) if tag not in known and self._place(tag).is_dir())]

    def get(self, name: str) -> Version:
        """Return the version called `name`: a tag, a version, the unique beginning of one, champion or previous.

        Raises UserError where there is none, more than one, or only its remains.
        """
        tag = self._tag(name)
        if damage := self._record_damage(tag):
            raise UserError(f"{damage}; {self._way_back(self._state())}")
        return self._version(tag)

    def check(self, tag: str) -> str:
        """Return what is damaged in a version, at a quick look, as a sentence; empty when nothing is."""
        return self._damage(tag, thorough=False)

    def verify(self, version: str) -> None:
        """Read every byte of a version (any name that `get` takes); raises UserError with the first damaged file."""
        if damage := self._damage(self._tag(version), thorough=True):
            raise UserError(f"{damage}; {self._way_back(self._state())}")

    def rolled_back(self, version: str) -> Entry | None:
        """Return the rollback that left `version` (or its tag), if nothing moved to or from it since."""
        for entry in reversed(self.history()):
            left, reached = (is_same_version(version, tag or "") for tag in (entry.from_, entry.to))
            if entry.action in MOVES and (left or reached):
                return entry if entry.action == "rollback" and left and not reached else None
        return None

    # Changing

    def add(self, folder: Path, labels: Mapping[str, str], metadata: Mapping[str, Any]) -> Version:
        """Copy the model in `folder` into the store and return its version; the same content is one version.

        What the version was first given as labels and metadata stays; a damaged version is made whole.
        Raises UserError for a folder that holds links or no whole model, where the store cannot be written, and where
        it holds other files under the same version.
        """
        _refuse_halves(folder)
        with self._changing() as state:
            sums = file_hashes(folder)
            tag = self._tag_for(sums)
            if not self._holds(tag, sums):
                with self._staged(folder, labels, metadata) as (tag, staged):
                    self._use(state, tag)
                    place = self._place(tag)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    if place.exists():  # damaged: nothing of it is worth keeping
                        place.rename(staged.parent / "damaged")
                    staged.rename(place)
                    storage.fsync(place.parent)
            self._use(state, tag)
            self._write_latest(tag)
            return self._version(tag)

    def move(
        self,
        to: Version,
        *,
        expected: str | None,
        action: Action,
        why: str,
        who: str | None = None,
        figures: _Figures | None = None,
    ) -> Entry:
        """Make `to` the champion, if `expected`, a tag or None, still is; return the history's new entry.

        Raises UserError when it is not, when `to` is not whole, and when the present pointer is damaged.
        """
        with self._changing() as state:
            if state.damage:
                raise UserError(f"{state.damage}; {self._way_back(state)}")
            found = state.pointer.to if state.pointer else None
            if found != expected:
                raise UserError(
                    f"the champion changed from {expected or 'none'} to {found or 'none'} while {to.tag} was being "
                    "judged; run it again"
                )
            return self._set(state, to.tag, action, why, who, figures)

    def rollback(self, to: str | None, why: str) -> Entry:
        """Make `to` the champion again, the one before the present one unless given; return the history's new entry.

        Promotions stack up and rollbacks take off, so that two in a row go back by two. With a damaged pointer it goes
        back to the champion that the history names last. Raises UserError where there is nothing to go back to.
        """
        with self._changing() as state:
            stack = _stack(state.entries)
            if to is not None:
                target = self._tag(to)
            elif not stack:
                raise UserError(
                    "there is no champion yet, so there is none to go back to; run `make model` and promote"
                )
            elif state.damage:
                target = stack[-1]
            elif len(stack) > 1:
                target = stack[-2]
            else:
                raise UserError(f"there is no champion before {stack[-1]}; name a version that `{_COMMAND} list` shows")
            if state.pointer and state.pointer.to == target and not state.damage:
                raise UserError(f"{target} is the champion; name another version, `{_COMMAND} list` shows them")
            return self._set(state, target, "rollback", why)

    def refuse(self, version: str, why: str, figures: _Figures) -> Entry:
        """Put on record that the verdict on `version`, which is in no store, was no."""
        with self._changing() as state:
            champion = state.pointer.to if state.pointer else None
            entry = _next(state, "refuse", champion, f"{self._name}:{version}", why, figures=figures)
            _append_line(self._history, entry)
            return entry

    def delete(self, name: str) -> None:
        """Delete a version; raises UserError for the champion and the ones of late (`registry.keep`)."""
        with self._changing() as state:
            tag = self._tag(name)
            if reason := self._kept(state).get(tag):
                raise UserError(f"{tag} {reason} and is never deleted; `{_COMMAND} prune` deletes what may go")
            self._delete(state, tag, "asked for")

    def forget(self, project: Path) -> list[str]:
        """Let go of what the project that was in the folder `project` used; return the tags that nobody uses now.

        Raises UserError where the store knows no such project, or where it is still there.
        """
        with self._changing():
            gone = users.forget(self._store(), project)
            tags = {tag for user in gone for tag in user.tags or ()} - self._added()
            return sorted(tag for tag in tags if self._place(tag).is_dir() and not self._other_user(tag))

    def prune(self) -> list[str]:
        """Delete every version of this registry that may go; return their tags."""
        with self._changing() as state:
            kept = self._kept(state)
            gone = [tag for tag in self.tags() if tag not in kept]
            for tag in gone:
                self._delete(state, tag, f"pruned: not among the last {self._params.keep} champions")
            return gone

    # What the files say

    @cached_property
    def _params(self) -> params.Registry:
        return params.load(self._root / paths.PARAMS).registry

    @property
    def _name(self) -> str:
        return self._given_name or self._params.name

    def _state(self) -> _State:
        """Return what the files say; read again where a change may have come between the two."""
        for _ in range(3):
            entries = _read_history(self._history)  # first: of two moves the pointer may be ahead by one, never behind
            state = _pointed(entries, self._pointer)
            if not state.damage:
                break
            time.sleep(0.01)
        return state

    def _tag(self, name: str) -> str:
        """Return the tag that `name` stands for."""
        if name == "champion":
            champion = self.champion()
            if champion is None:
                raise UserError("there is no champion yet; `python -m pipeline.promote` makes the first")
            return champion.tag
        if name == "previous":
            stack = _stack(self.history())
            if len(stack) < 2:
                raise UserError(f"there is no champion before the present one; `{_COMMAND} list` shows what there is")
            return stack[-2]
        tags = self.tags()
        found = [tag for tag in tags if name in (tag, tag.partition(":")[2])]
        found = found or [tag for tag in tags if self._is_called(tag, name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{name!r} is the beginning of {', '.join(found)}; write one more digit")
        gone = [entry for entry in self.history() if entry.action == "delete" and name in str(entry.from_)]
        if name and gone:
            raise UserError(f"{gone[-1].from_} was deleted at {gone[-1].at}; `{_COMMAND} list` shows what there is")
        raise UserError(
            f"there is no version {name!r} in this registry; expected champion, previous or one of: "
            f"{', '.join(tags) or 'none yet, `python -m pipeline.promote` makes the first'}"
        )

    def _is_called(self, tag: str, name: str) -> bool:
        """Say whether `name` is the beginning of a version, with the model's name before it or not."""
        model, _, digits = name.rpartition(":")
        whole = tag.partition(":")[2] if self._record_damage(tag) else version_of(self._recorded(tag))
        return bool(digits) and model in ("", tag.partition(":")[0]) and whole.startswith(digits)

    def _place(self, tag: str) -> Path:
        return _home() / "models" / Path(*tag.split(":"))

    def _record(self, tag: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self._place(tag) / VERSION_JSON).read_text(encoding="utf-8"))["record"]
        return record

    def _recorded(self, tag: str) -> dict[str, str]:
        """Return the SHA-256 of each of a version's files, as they were added."""
        return {name: file["sha256"] for name, file in self._record(tag)["files"].items() if name != MODEL_YAML}

    def _version(self, tag: str) -> Version:
        record, version = self._record(tag), version_of(self._recorded(tag))
        return Version(tag, version, self._place(tag), record["created"], record["labels"], record["metadata"])

    def _tag_for(self, sums: Mapping[str, str]) -> str:
        """Return the tag of the model with these files; that of an older release where it is in the store so."""
        tag = f"{self._name}:{version_of(sums)}"
        old = short(tag)
        return old if not self._record_damage(old) and self._recorded(old) == sums else tag

    def _holds(self, tag: str, sums: Mapping[str, str]) -> bool:
        """Say whether the store holds the model with these files as `tag`, whole; raises UserError for another one."""
        if self._damage(tag, thorough=True):
            return False
        if self._recorded(tag) != sums:
            raise UserError(
                f"{tag}: the store holds another model under this version, with other files in {self._place(tag)}; two "
                "models were made to have one version, so trust neither"
            )
        return True

    def _added(self) -> frozenset[str]:
        """Return the tags that this registry uses, as the store knows them."""
        user = users.find(self._store(), users.key(self._folder.resolve()))
        if user and user.tags is not None:
            return user.tags
        tags = (f"{self._name}:{path.name}" for path in (_home() / "models" / self._name).glob("*/"))
        ours = str(self._folder.resolve())  # the store of an older release has it in each version that was added here
        return frozenset(tag for tag in tags if not self._record_damage(tag) and self._record(tag)["registry"] == ours)

    def _record_damage(self, tag: str) -> str:
        """Return what is wrong with the record of a version, as a sentence; empty when it is whole."""
        if not _TAG.fullmatch(tag):
            return f"{tag!r} is not the tag of a version"
        place = self._place(tag)
        if not place.is_dir():
            return f"{tag} is not in the store: {place} is missing"
        try:
            content = storage.read_json(place / VERSION_JSON)
            whole = content["sha256"] == _hash_of_record(content["record"])
        except (OSError, ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            return f"{tag} is damaged: {place / VERSION_JSON} is missing or not as it was written"
        digits = tag.partition(":")[2]
        is_this = version_of(self._recorded(tag))[: len(digits)] == digits
        return "" if is_this else f"{tag} is damaged: {place} holds another version"

    def _damage(self, tag: str, thorough: bool) -> str:
        """Return the first damaged file of a version, as a sentence; hash small files, or with `thorough` all."""
        if damage := self._record_damage(tag):
            return damage
        place = self._place(tag)
        files = {name: _File(**file) for name, file in self._record(tag)["files"].items()}
        for name, file in files.items():
            path = place / name
            if path.is_symlink() or not path.is_file():
                return f"{tag} is damaged: {path} is missing"
            if (size := path.stat().st_size) != file.size:
                return f"{tag} is damaged: {path} has {size:,} bytes, but {file.size:,} were added"
            if (thorough or size < _QUICKLY_HASHED) and sha256(path) != file.sha256:
                return f"{tag} is damaged: {path} does not hold what was added"
        more = sorted(set(model_files(place)) - set(files))
        return f"{tag} is damaged: {place / more[0]} was not added with it" if more else ""

    def _last_good(self, entries: Sequence[Entry]) -> str | None:
        """Return the champion of late that is whole, down to the last byte."""
        champions = dict.fromkeys(str(entry.to) for entry in reversed(entries) if entry.action in MOVES)
        known = _known(entries)
        return next((tag for tag in champions if tag in known and not self._damage(tag, thorough=True)), None)

    def _way_back(self, state: _State) -> str:
        """Return the mend for whatever is damaged, as the end of a sentence."""
        good = self._last_good(state.entries)
        if good is None:
            return (
                "no version in the history is whole, so move the folder registry/ away and make a new champion with "
                "`python -m pipeline.promote`"
            )
        if state.pointer and state.pointer.to == good:
            return (
                f"the champion, {good}, is whole; add the same model again, or `{_COMMAND} delete` what is left of it"
            )
        return f'the last good version is {good}: `{_COMMAND} rollback {good.partition(":")[2]} --why "..."`'

    def _kept(self, state: _State) -> dict[str, str]:
        """Return the versions that must not be deleted, with the reason."""
        if state.damage:
            raise UserError(f"{state.damage}; nothing is deleted before that is mended; {self._way_back(state)}")
        champions = dict.fromkeys(str(entry.to) for entry in reversed(state.entries) if entry.action in MOVES)
        keep = self._params.keep
        known = _known(state.entries)
        late = [tag for tag in champions if tag in known][:keep]
        kept = dict.fromkeys(late, f"is among the last {keep} champions (registry.keep in params.yaml)")
        if state.pointer:
            kept[str(state.pointer.to)] = "is the champion"
        return kept

    # Writing

    @contextmanager
    def _changing(self) -> Iterator[_State]:
        """Hold both locks, mend what a killed command left, and give what the files then say."""
        home = _home()
        ours = self._folder.resolve()
        with ExitStack() as locks:
            try:
                for lock in (self._folder / "lock", self._store() / "lock"):
                    locks.enter_context(_locked(lock))
                users.identify(self._store(), ours)
                left = self._store() / "deleted" / users.old_key(ours)  # an older release was killed
                if left.exists() and not self._trash().exists():
                    left.rename(self._trash())
                state = self._mend()
                self._use(state)
                yield state
            except OSError as error:
                where = error.filename or f"{self._folder} or {home}"
                raise UserError(
                    f"{where}: {error.strerror}; the champion is the one that `{_COMMAND} history` names; mend that "
                    "and run it again"
                ) from error

    def _mend(self) -> _State:
        """Finish what a killed command began, and return what the files then say."""
        for left in self._store().glob("new-*"):  # under the store's lock nobody is at work in it
            shutil.rmtree(left)
        _set_torn_line_aside(self._history)
        state = self._state()
        if state.pointer and not state.damage and len(_read_history(self._history)) < len(state.entries):
            _append_line(self._history, state.pointer)
        for trash in sorted(self._trash().glob("*/*")):
            self._finish_delete(state, trash, "asked for, then interrupted")
        return state

    @contextmanager
    def _staged(
        self, folder: Path, labels: Mapping[str, str], metadata: Mapping[str, Any]
    ) -> Iterator[tuple[str, Path]]:
        """Give a version of the model in `folder`, and where in the store it was made: synced, not yet in its place."""
        aside = Path(tempfile.mkdtemp(prefix="new-", dir=self._store()))
        try:
            staged = aside / "version"
            for name in model_files(folder):
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, staged / name)
            files = {name: _file(staged / name) for name in model_files(staged)}
            tag = self._tag_for({name: file.sha256 for name, file in files.items()})
            metadata = copy.deepcopy(dict(metadata))
            created = _write_model_yaml(staged, tag, labels, metadata)
            files[MODEL_YAML] = _file(staged / MODEL_YAML)
            record = {
                "created": created,
                "registry": users.key(self._folder.resolve()),
                "labels": dict(labels),
                "metadata": metadata,
                "files": {name: asdict(file) for name, file in files.items()},
            }
            content = {"sha256": _hash_of_record(record), "record": record}
            (staged / VERSION_JSON).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            for path in (*staged.rglob("*"), staged):
                storage.fsync(path)
            yield tag, staged
        finally:
            shutil.rmtree(aside)

    def _set(
        self,
        state: _State,
        tag: str,
        action: Action,
        why: str,
        who: str | None = None,
        figures: _Figures | None = None,
    ) -> Entry:
        """Point at `tag` once it is seen to be whole; the pointer first, then the history."""
        if damage := self._damage(tag, thorough=True):
            raise UserError(f"{damage}; {self._way_back(state)}")
        champion = state.pointer.to if state.pointer else None
        entry = _next(state, action, champion, tag, why, who, figures)
        self._use(state, tag)
        storage.write_atomic(self._pointer, _line(entry))
        _append_line(self._history, entry)
        return entry

    def _store(self) -> Path:
        """Return the folder in which the store keeps what the registries need."""
        return _home() / ".registry"

    def _trash(self) -> Path:
        return self._store() / "deleted" / users.key(self._folder.resolve())

    def _use(self, state: _State, *added: str, dropped: str | None = None) -> None:
        """Write down in the store which versions this registry uses, before it does and after it did."""
        used = {*self._added(), *_known(state.entries), *added} - {dropped}
        user = users.identify(self._store(), self._folder.resolve())
        users.write(self._store(), user, {tag for tag in used if tag})

    def _delete(self, state: _State, tag: str, why: str) -> None:
        """Rename a version away, tell the history, then delete the files; they stay where another registry uses it."""
        if user := self._other_user(tag):
            self._use(state, dropped=tag)
            self._tell_deleted(state, tag, f"{why}; the files stay, {user}")
            return
        name, _, version = tag.partition(":")
        trash = self._trash() / name / version
        trash.parent.mkdir(parents=True, exist_ok=True)
        if self._place(tag).exists():
            self._place(tag).rename(trash)
        else:
            trash.mkdir()
        storage.fsync(trash.parent)
        self._finish_delete(state, trash, why)

    def _finish_delete(self, state: _State, trash: Path, why: str) -> None:
        tag = f"{trash.parent.name}:{trash.name}"
        _mend_latest(self._place(tag).parent)
        last = state.entries[-1] if state.entries else None
        if last is None or (last.action, last.from_) != ("delete", tag):  # it is, when a kill came after it was told
            self._tell_deleted(state, tag, why)
        self._use(state, dropped=tag)
        shutil.rmtree(trash)

    def _tell_deleted(self, state: _State, tag: str, why: str) -> None:
        entry = _next(state, "delete", tag, None, why)
        _append_line(self._history, entry)
        state.entries.append(entry)

    def _other_user(self, tag: str) -> str:
        """Return, as a clause, that another registry uses a version or may use it; empty where none does."""
        for user in users.others(self._store(), users.key(self._folder.resolve())):
            tags = user.tags
            if tags is None and users.is_there(user):  # an older release wrote down its folder alone
                tags = frozenset(_known(_read_history(user.folder / self._history.name)))
            if tags is None or tag in tags:
                return users.sentence(user, uses=tags is not None)
        return ""

    def _write_latest(self, tag: str) -> None:
        """Let BentoML's `name:latest` mean `tag`."""
        latest = self._place(tag).parent / "latest"
        if not latest.is_file() or latest.read_text(encoding="utf-8") != self._place(tag).name:
            storage.write_atomic(latest, self._place(tag).name)


# The model's files


def _file(path: Path) -> _File:
    return _File(path.stat().st_size, sha256(path))


def _hash_of_record(record: object) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _refuse_halves(folder: Path) -> None:
    """Raise UserError unless `folder` holds a whole model, in files of its own."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder, so there is no model to add; {paths.meant(folder)}make one with "
            "`dvc repro`"
        )
    links = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_symlink()]
    if links:
        raise UserError(
            f"{folder}: {', '.join(links)}: a link is no copy, and would follow what it leads to; put the files "
            "themselves there with `dvc config cache.type copy` and `dvc checkout --relink`"
        )
    if missing := [name for name in (*REQUIRED_FILES, paths.MANIFEST.name) if not (folder / name).is_file()]:
        raise UserError(f"{folder}: lacks {', '.join(missing)}, so it holds no whole model; make one with `dvc repro`")


def _write_model_yaml(folder: Path, tag: str, labels: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """Write BentoML's file, as its `bentoml.models.create` does; return when that was."""
    from bentoml._internal.models.model import ModelContext, ModelInfo
    from bentoml._internal.tag import Tag

    info = ModelInfo(
        tag=Tag.from_str(tag),
        module="",
        api_version="v1",
        signatures={},
        labels=dict(labels),
        options={},
        metadata=_without_none(metadata),
        context=ModelContext(framework_name="transformers", framework_versions={}),
    )
    with (folder / MODEL_YAML).open("w", encoding="utf-8") as content:
        info.dump(content)
    created: datetime = info.creation_time
    return created.isoformat(timespec="seconds")


def _without_none(value: Any) -> Any:
    """Return a copy without what BentoML's metadata cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_none(part) for part in value if part is not None]
    return value


# The store


def _home() -> Path:
    """Return BentoML's home as BentoML finds it, but without importing it, and anew each time."""
    home = os.environ.get("BENTOML_HOME", "~/bentoml")
    while (expanded := os.path.expanduser(os.path.expandvars(home))) != home:  # noqa: PTH111 - not a path yet
        home = expanded
    return Path(home).absolute()


def _mend_latest(models: Path) -> None:
    """Let BentoML's `name:latest` mean the newest version, whoever added it, where its own is gone."""
    latest = models / "latest"
    if latest.is_file() and (models / latest.read_text(encoding="utf-8").strip()).is_dir():
        return
    left = sorted(models.glob(f"*/{MODEL_YAML}"), key=lambda path: path.stat().st_mtime_ns)
    if left:
        storage.write_atomic(latest, left[-1].parent.name)
    elif models.is_dir():
        latest.unlink(missing_ok=True)


# The history


def _read_history(path: Path) -> list[Entry]:
    """Return the entries of a history; one whose writing was cut off is said to be so."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(_ENTRY.validate_json(line))
        except ValidationError as error:
            raise UserError(
                f"{path}: line {number} is damaged ({_reason(error)}); put it right, from a copy where there is one, "
                "or take the line out"
            ) from None
        if number > 1 and entries[-1].serial <= entries[-2].serial:
            raise UserError(
                f"{path}: line {number} has the serial {entries[-1].serial} after {entries[-2].serial}; lines are only "
                "ever added at the end, so put it right from a copy, or take the line out"
            )
    if rest:
        try:
            entries.append(_ENTRY.validate_json(rest))  # only its end of line is missing
        except ValidationError:
            warn(f"warning: {path}: its last line is cut off; the next change keeps it aside")
    return entries


def _set_torn_line_aside(path: Path) -> None:
    """Complete the last line of a history where its writer was killed, or keep it beside the history."""
    content = path.read_bytes() if path.is_file() else b""
    start = content.rfind(b"\n") + 1
    torn = content[start:]
    if not torn:
        return
    try:
        _ENTRY.validate_json(torn)
    except ValidationError:
        aside = path.with_suffix(".torn")
        storage.append(aside, torn + b"\n")
        storage.truncate(path, start)
        warn(f"warning: {path}: its last line was cut off; it is kept in {aside}")
    else:
        storage.append(path, b"\n")
    storage.fsync(path)


def _pointed(entries: Sequence[Entry], path: Path) -> _State:
    """Return what the pointer says beside the history: the last move's entry, or the one that it lacks yet."""
    moves = [entry for entry in entries if entry.action in MOVES]

    def damaged(what: str) -> _State:
        return _State(list(entries), None, f"{path}: {what}")

    try:
        pointer = _ENTRY.validate_json(path.read_bytes())
    except FileNotFoundError:
        return damaged(f"is missing, though {moves[-1].to} was made the champion") if moves else _State(list(entries))
    except ValidationError as error:
        return damaged(f"is damaged ({_reason(error)})")
    if pointer.action not in MOVES or not _TAG.fullmatch(pointer.to or ""):
        return damaged(f"is damaged (it is of a {pointer.action} to {pointer.to!r}, but should name a version)")
    if moves and pointer == moves[-1]:
        return _State(list(entries), pointer)
    if pointer.serial == (entries[-1].serial if entries else 0) + 1:
        return _State([*entries, pointer], pointer)
    last = f"{moves[-1].to} in entry {moves[-1].serial}" if moves else "none"
    return damaged(
        f"names {pointer.to} of entry {pointer.serial}, but by the history the champion is {last}; it was edited or "
        "put back"
    )


def _known(entries: Iterable[Entry]) -> list[str]:
    """Return the tags that were champion and not deleted since, oldest first."""
    known: dict[str, None] = {}
    for entry in entries:
        if entry.action in MOVES:
            known[str(entry.to)] = None
        elif entry.action == "delete":
            known.pop(str(entry.from_), None)
    return list(known)


def _stack(entries: Iterable[Entry]) -> list[str]:
    """Return the champions on which the present one, the last, stands: a rollback takes off what a promotion put on."""
    stack: list[str] = []
    for entry in entries:
        if entry.action == "delete":
            stack = [tag for tag, _ in groupby(tag for tag in stack if tag != entry.from_)]
        elif entry.action in MOVES:
            if entry.action == "rollback" and entry.to in stack:
                while stack[-1] != entry.to:
                    stack.pop()
            elif stack[-1:] != [entry.to]:
                stack.append(str(entry.to))
    return stack


def _next(
    state: _State,
    action: Action,
    from_: str | None,
    to: str | None,
    why: str,
    who: str | None = None,
    figures: _Figures | None = None,
) -> Entry:
    """Return the entry that comes after those of `state`."""
    if not why.strip():
        raise UserError(f'a {action} needs a reason, for the history; give one: --why "..."')
    serial = state.entries[-1].serial + 1 if state.entries else 1
    kept = {
        key: value if value is None or isinstance(value, str) else float(value)
        for key, value in (figures or {}).items()
    }
    return Entry(serial, _now(), who or _who(), action, from_, to, " ".join(why.split()), kept)


def _line(entry: Entry) -> str:
    line = _ENTRY.dump_json(entry, by_alias=True)
    _ENTRY.validate_json(line)  # what could not be read back is refused while nothing is written
    return line.decode() + "\n"


def _append_line(path: Path, entry: Entry) -> None:
    storage.append(path, _line(entry).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}".encode("utf-8", "backslashreplace").decode()  # the environment's bytes


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}" if key else first["msg"]


# The disk


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; raises UserError where another process holds it for more than LOCK_SECONDS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = storage.no_follow(str(path), os.O_RDWR | os.O_CREAT)
    try:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    holder = os.pread(lock, 200, 0).decode(errors="replace")
                    raise UserError(
                        f"{path}: held for more than {LOCK_SECONDS:g} s by {holder}; run it again when that has ended"
                    ) from None
                time.sleep(0.02)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} of {_who()} since {_now()}".encode(), 0)
        yield
    finally:
        os.close(lock)


# The command line


def main() -> None:
    """Run the command."""
    parser = arg_parser()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    called = "a tag, a version or the beginning of one, champion, or previous"
    for name, what in {
        "list": "the versions, and which of them is the champion",
        "show": "all that is known of a version",
        "diff": "what differs between two versions: settings, figures, labels, files, data",
        "rollback": "make an earlier version the champion again",
        "delete": "delete a version",
        "prune": "delete the versions that are not among the champions of late (registry.keep in params.yaml)",
        "forget": "let go of the versions of a project whose folder is gone for good",
        "history": "every promotion, refusal, rollback and deletion: who, when, from, to, why",
    }.items():
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("--json", action="store_true", help="print one JSON object")
        if name in ("show", "rollback"):
            preset = "champion" if name == "show" else None
            command.add_argument("version", metavar="VERSION", nargs="?", default=preset, help=called)
        if name == "delete":
            command.add_argument("version", metavar="VERSION", help=called)
        if name == "forget":
            command.add_argument("folder", metavar="FOLDER", type=Path, help="where the project was")
        if name == "diff":
            command.add_argument("a", metavar="A", help=called)
            command.add_argument("b", metavar="B", help=called)
        if name == "rollback":
            command.add_argument("--why", type=utf8_text, required=True, help="the reason, for the history")
    wanted = parser.parse_args()
    params.load()  # says so, where this is not the project's root
    found, text = _COMMANDS[wanted.command](Registry(), wanted)
    if wanted.json:
        echo_json(found)
    else:
        echo(text)


_LISTED = ("perplexity", "bits_per_byte")  # of the figures; --json has all


def _list(registry: Registry, _: argparse.Namespace) -> tuple[object, str]:
    champion, damage = None, None
    try:
        champion = registry.champion()
    except UserError as error:
        damage = str(error)
        warn(f"warning: {damage}")
    readable = {version.tag: version for version in registry.versions()}
    made = {str(entry.to): entry for entry in registry.history() if entry.action in MOVES}
    measured = _measured(registry)
    found: list[dict[str, Any]] = []
    rows = [["version", "state", "added (UTC)", "champion since", "figures"]]
    oldest_first = sorted(registry.tags(), key=lambda tag: readable[tag].created if tag in readable else "")
    for tag in reversed(oldest_first):
        row: dict[str, Any] = {
            "tag": tag,
            "state": "champion" if champion and champion.tag == tag else registry.check(tag) or "whole",
            "created": readable[tag].created if tag in readable else None,
            "champion_since": made[tag].at if tag in made else None,
        }
        figures = measured.get(tag, {})
        found.append({**row, "figures": figures, "labels": readable[tag].labels if tag in readable else {}})
        rows.append(
            [
                short(tag),
                str(row["state"]),
                *(_minute(row[key]) for key in ("created", "champion_since")),
                ", ".join(f"{key.replace('_', ' ')} {_shown(figures[key])}" for key in _LISTED if key in figures),
            ]
        )
    empty = "no versions yet; `python -m pipeline.promote` makes the first"
    summary = {"champion": champion.tag if champion else None, "damage": damage, "versions": found}
    return summary, _table(rows) if found else empty


def _show(registry: Registry, wanted: argparse.Namespace) -> tuple[object, str]:
    version = registry.get(wanted.version)
    damage = registry.check(version.tag)
    moves = [entry for entry in registry.history() if version.tag in (entry.from_, entry.to)]
    found = {
        **asdict(version),
        "folder": str(version.folder),
        "state": damage or "whole",
        "files": _sizes(version),
        "history": [entry.as_json() for entry in moves],
    }
    rows = [[key, _shown(value)] for key, value in _flat({**found, "history": {}}).items()]
    return found, "\n\n".join([_table(rows), _history_table(moves)])


def _diff(registry: Registry, wanted: argparse.Namespace) -> tuple[object, str]:
    old, new = registry.get(wanted.a), registry.get(wanted.b)
    sides = [_flat(_facts(registry, version)) for version in (old, new)]
    keys = dict.fromkeys([*sides[0], *sides[1]])
    differences = {key: [side.get(key) for side in sides] for key in keys if sides[0].get(key) != sides[1].get(key)}
    data, why_not, text = _data_diff(old, new)
    rows = [["", short(old.tag), short(new.tag)], *([key, *map(_shown, both)] for key, both in differences.items())]
    found = {"a": old.tag, "b": new.tag, "differences": differences, "data": data, "data_why_not": why_not}
    return found, f"{_table(rows)}\n\n{text or f'data: {why_not}'}"


def _rollback(registry: Registry, wanted: argparse.Namespace) -> tuple[object, str]:
    entry = registry.rollback(wanted.version, wanted.why)
    before = short(entry.from_) if entry.from_ else "a damaged pointer"
    return entry.as_json(), escape.terminal(f"the champion is {short(str(entry.to))}, after {before}: {entry.why}")


def _delete(registry: Registry, wanted: argparse.Namespace) -> tuple[object, str]:
    registry.delete(wanted.version)
    entry = registry.history()[-1]
    return entry.as_json(), escape.terminal(f"deleted {short(str(entry.from_))}: {entry.why}")


def _prune(registry: Registry, _: argparse.Namespace) -> tuple[object, str]:
    gone = registry.prune()
    entries = registry.history()[-len(gone) :] if gone else []
    return gone, "\n".join(
        f"deleted {short(str(entry.from_))}: {entry.why}" for entry in entries
    ) or "nothing to delete: each version is among the last champions"


def _forget(registry: Registry, wanted: argparse.Namespace) -> tuple[object, str]:
    left = registry.forget(wanted.folder)
    lines = [f"forgot the project that was in {wanted.folder}"]
    lines += [f"nobody uses {tag} now; `bentoml models delete {tag}` frees its space" for tag in left]
    return left, "\n".join(lines)


def _tell(registry: Registry, _: argparse.Namespace) -> tuple[object, str]:
    entries = registry.history()
    return [entry.as_json() for entry in entries], _history_table(entries) if entries else "nothing has happened yet"


_COMMANDS = {
    "list": _list,
    "show": _show,
    "diff": _diff,
    "rollback": _rollback,
    "delete": _delete,
    "prune": _prune,
    "forget": _forget,
    "history": _tell,
}


def _measured(registry: Registry) -> dict[str, dict[str, float | str | None]]:
    """Return by tag the figures of the last time that it was judged; a rollback judges nothing."""
    return {str(entry.to): entry.figures for entry in registry.history() if entry.action in MOVES and entry.figures}


def _facts(registry: Registry, version: Version) -> dict[str, Any]:
    """Return all by which two versions may differ."""
    path = version.folder / paths.MANIFEST.name
    try:
        manifest = storage.read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}); add the same model again, or compare other versions") from None
    return {
        "labels": version.labels,
        "figures": _measured(registry).get(version.tag, {}),
        "metadata": version.metadata,
        "manifest": manifest,
        "files": {
            name: f"{size:,} bytes, SHA-256 {sha256(version.folder / name)[:8]}…"
            for name, size in _sizes(version).items()
        },
    }


def _sizes(version: Version) -> dict[str, int]:
    return {name: (version.folder / name).stat().st_size for name in model_files(version.folder)}


def _data_diff(old: Version, new: Version) -> tuple[dict[str, Any] | None, str | None, str]:
    """Return what changed in the data, as numbers and as a table, or why that cannot be said."""
    from pipeline.data_diff import compare, render, resolve

    try:
        with resolve.clean_data_file(str(old.folder)) as before, resolve.clean_data_file(str(new.folder)) as after:
            found = compare.diff(before, after, names=(old.tag, new.tag))
    except UserError as error:
        return None, str(error), ""
    return found.as_json(), None, render.table(found)


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested values under keys like `params.finetune.epochs`."""
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flat(part, f"{above}{key}.") if isinstance(part, Mapping) else {f"{above}{key}": part}
    return flat


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)


def _history_table(entries: Sequence[Entry]) -> str:
    from pipeline.reporting.text_table import wrap

    shown = []
    for entry in entries:
        moved = " -> ".join(short(tag) for tag in (entry.from_, entry.to) if tag)
        shown.append(f"{entry.serial:<3} {_minute(entry.at)} UTC  {entry.action:<8}  {moved}".rstrip())
        shown.append(wrap(f"{entry.who}: {entry.why}", "    ", "    "))
    return "\n".join(shown)


def _minute(at: object) -> str:
    """Return a UTC time of ISO 8601 to the minute; empty for None."""
    return str(at)[:16].replace("T", " ") if at else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    from pipeline.reporting.text_table import table  # not in a bento, where nobody runs this module's command

    return table(rows)
