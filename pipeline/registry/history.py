"""The registry's history and its pointer: `registry/history.jsonl`, append-only, and `registry/champion.json`.

A move of the champion replaces the pointer first and appends to the history then. The pointer is the move's own entry,
so the next change completes a history whose writer was killed in between.
"""

import getpass
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline import storage
from pipeline.command import UserError, warn
from pipeline.registry.versions import TAG

MOVES = ("promote", "force", "rollback")  # the actions that set the pointer

Action = Literal["promote", "force", "rollback", "refuse", "delete"]
Figures = Mapping[str, float | str | None]


@dataclass(frozen=True)
class Entry:
    """A line of the history; in JSON `from_` is `from`.

    A promotion, a forced one and a rollback move the champion from one tag to another. A refusal has the champion as
    `from_` and the refused version as `to`, a deletion the deleted version as `from_`.
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
        """Return the entry with the keys of the history."""
        content: dict[str, Any] = _ENTRY.dump_python(self, by_alias=True)
        return content


_ENTRY = TypeAdapter(Entry)


@dataclass
class State:
    """The history and the pointer at one moment."""

    entries: list[Entry] = field(default_factory=list)  # the pointer's own entry among them
    pointer: Entry | None = None
    damage: str = ""  # of the pointer, as a sentence; empty when it is whole, or when nothing was ever promoted

    @property
    def champion(self) -> str | None:
        """The champion's tag."""
        return self.pointer.to if self.pointer else None

    @property
    def past_champions(self) -> list[str]:
        """The tags that were champion and have not been deleted since, the most recent first."""
        recent_first = dict.fromkeys(str(entry.to) for entry in reversed(self.entries) if entry.action in MOVES)
        known = set(self.known_tags)
        return [tag for tag in recent_first if tag in known]

    @property
    def known_tags(self) -> list[str]:
        """The same tags in the order in which they first were champion."""
        return known_tags(self.entries)

    @property
    def stack(self) -> list[str]:
        """The champions, the present one last: a promotion pushes onto the stack, a rollback pops."""
        stack: list[str] = []
        for entry in self.entries:
            if entry.action == "delete":
                stack = [tag for tag, _ in groupby(tag for tag in stack if tag != entry.from_)]
            elif entry.action in MOVES:
                if entry.action == "rollback" and entry.to in stack:
                    while stack[-1] != entry.to:
                        stack.pop()
                elif stack[-1:] != [entry.to]:
                    stack.append(str(entry.to))
        return stack

    def next_entry(
        self,
        action: Action,
        from_: str | None,
        to: str | None,
        why: str,
        who: str | None = None,
        figures: Figures | None = None,
    ) -> Entry:
        """Return the entry that follows; raises UserError where `why` is blank."""
        if not why.strip():
            raise UserError(f'a {action} needs a reason, for the history; give one: --why "..."')
        serial = self.entries[-1].serial + 1 if self.entries else 1
        values = {
            key: value if value is None or isinstance(value, str) else float(value)
            for key, value in (figures or {}).items()
        }
        return Entry(serial, now(), who or user_name(), action, from_, to, " ".join(why.split()), values)


def known_tags(entries: Iterable[Entry]) -> list[str]:
    """Return the tags that were champion and have not been deleted since, oldest first."""
    tags: dict[str, None] = {}
    for entry in entries:
        if entry.action in MOVES:
            tags[str(entry.to)] = None
        elif entry.action == "delete":
            tags.pop(str(entry.from_), None)
    return list(tags)


class History:
    """The history and the pointer in a project's folder `registry/`."""

    def __init__(self, folder: Path) -> None:
        """Touch nothing yet."""
        self.folder = folder
        self._path = folder / "history.jsonl"
        self._pointer_path = folder / "champion.json"

    def state(self) -> State:
        """Return what the files say; raises UserError for a damaged line of the history."""
        for _ in range(3):  # a change may come between reading the one file and the other
            entries = self.entries()  # first: of two moves the pointer may then be ahead by one, never behind
            state = self._read_pointer(entries)
            if not state.damage:
                break
            time.sleep(0.01)
        return state

    def entries(self) -> list[Entry]:
        """Return the lines of the history, without the pointer's entry where that is not appended yet."""
        *lines, rest = self._read().split(b"\n")
        entries: list[Entry] = []
        for number, line in enumerate(lines, 1):
            try:
                entries.append(_ENTRY.validate_json(line))
            except ValidationError as error:
                raise UserError(
                    f"{self._path}: line {number} is damaged ({storage.first_problem(error)}); put it right, from a "
                    "copy where there is one, or take the line out"
                ) from None
            if number > 1 and entries[-1].serial <= entries[-2].serial:
                raise UserError(
                    f"{self._path}: line {number} has the serial {entries[-1].serial} after {entries[-2].serial}; "
                    "lines are only ever added at the end, so put it right from a copy, or take the line out"
                )
        if rest:
            try:
                entries.append(_ENTRY.validate_json(rest))  # only its line end is missing
            except ValidationError:
                warn(f"warning: {self._path}: its last line is cut off; the next change keeps it aside")
        return entries

    def _read(self) -> bytes:
        try:
            return storage.read_bytes(self._path)
        except FileNotFoundError:
            return b""
        except ValueError as error:
            raise UserError(f"{error}; move it away, and put the history back from a copy") from None

    def _read_pointer(self, entries: list[Entry]) -> State:
        """Return the state for these lines of the history: the pointer is their last move, or one that follows."""
        moves = [entry for entry in entries if entry.action in MOVES]

        def damaged(problem: str) -> State:
            return State(entries, None, f"{self._pointer_path}: {problem}")

        try:
            pointer = _ENTRY.validate_json(storage.read_bytes(self._pointer_path))
        except FileNotFoundError:
            return damaged(f"is missing, though {moves[-1].to} was made the champion") if moves else State(entries)
        except ValueError as error:
            return damaged(f"is damaged ({storage.first_problem(error)})")
        if pointer.action not in MOVES or not TAG.fullmatch(pointer.to or ""):
            return damaged(f"is damaged (it is of a {pointer.action} to {pointer.to!r}, but should name a version)")
        if moves and pointer == moves[-1]:
            return State(entries, pointer)
        if pointer.serial == (entries[-1].serial if entries else 0) + 1:
            return State([*entries, pointer], pointer)
        last = f"{moves[-1].to} in entry {moves[-1].serial}" if moves else "none"
        return damaged(
            f"names {pointer.to} of entry {pointer.serial}, but by the history the champion is {last}; it was edited "
            "or put back"
        )

    def repair(self) -> State:
        """Finish what a killed writer began, and return the state; call it under the registry's lock."""
        self._set_torn_line_aside()
        state = self.state()
        if state.pointer and not state.damage and len(self.entries()) < len(state.entries):
            self.append(state.pointer)
        return state

    def _set_torn_line_aside(self) -> None:
        """Complete a last line that lacks only its end; move any other torn line to history.torn."""
        content = self._read()
        start = content.rfind(b"\n") + 1
        torn = content[start:]
        if not torn:
            return
        try:
            _ENTRY.validate_json(torn)
        except ValidationError:
            aside = self._path.with_suffix(".torn")
            storage.append(aside, torn + b"\n")
            storage.truncate(self._path, start)
            warn(f"warning: {self._path}: its last line was cut off; it is kept in {aside}")
        else:
            storage.append(self._path, b"\n")
        storage.fsync(self._path)

    def set_pointer(self, entry: Entry) -> None:
        """Make the move `entry` the pointer, then append it."""
        storage.write_atomic(self._pointer_path, _line(entry))
        self.append(entry)

    def append(self, entry: Entry) -> None:
        """Add a line to the history."""
        storage.append(self._path, _line(entry))


def _line(entry: Entry) -> bytes:
    line = _ENTRY.dump_json(entry, by_alias=True)
    _ENTRY.validate_json(line)  # refuses what could not be read back while nothing is written
    return line + b"\n"


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user_name() -> str:
    """Return user@host, for the history and the locks."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}".encode("utf-8", "backslashreplace").decode()  # the environment's bytes
