"""The registry: versions of the model, which of them is the champion, and how it became that.

The files of a version lie in BentoML's model store, `BENTOML_HOME/models/<name>/<version>`; the version is a hash of
the model's files. `registry/champion.json` names the champion, `registry/history.jsonl` records every change. Nothing
here loads a model.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pipeline.command import UserError
from pipeline.registry import bentoml_store, versions
from pipeline.registry.change import Change, begin_change, refuse_incomplete
from pipeline.registry.history import MOVES, Action, Entry, Figures, History, State
from pipeline.registry.model_version import is_same_version
from pipeline.registry.shared_store import ProjectSettings, SharedStore
from pipeline.registry.versions import DamagedVersion, Version

_COMMAND = "fresh registry"


class Registry:
    """The versions, the champion and the history of the project in `root`."""

    def __init__(self, root: Path = Path(), name: str | None = None) -> None:
        """Touch nothing yet; `name`, of the versions, is `registry.name` of params.yaml by default."""
        self._settings = ProjectSettings(root, name)
        self._history = History(self._settings.folder)
        self._store = SharedStore(self._settings)

    # Reading

    def champion(self) -> Version | None:
        """Return the version to be served, None when nothing was ever promoted.

        Raises UserError, with the last good version and the command that goes back to it, where the pointer or the
        version is damaged. Of files above 1 MB only the size is checked; `verify` reads every byte.
        """
        state = self._history.state()
        if state.damage:
            raise _damaged(state.damage, state)
        if state.champion is None:
            return None
        self._check(state.champion, state, thorough=False)
        return versions.load(state.champion)

    def since(self, tag: str) -> str:
        """Return when `tag` last became champion: UTC, ISO 8601."""
        return next(entry.at for entry in reversed(self.history()) if entry.action in MOVES and entry.to == tag)

    def history(self) -> list[Entry]:
        """Return every entry, oldest first; raises UserError with the line where one is damaged."""
        return self._history.state().entries

    def versions(self) -> list[Version]:
        """Return the readable versions of this registry, oldest first; `check` says what is wrong with the others.

        Other projects may keep versions in the same store, even of the same name: they are not listed.
        """
        readable = [version for tag in self.tags() if (version := versions.find(tag))]
        return sorted(readable, key=lambda version: version.created)

    def tags(self) -> list[str]:
        """Return the tags of this registry's versions, damaged ones too: champions of any time, then merely added."""
        trash = self._store.trash  # a deletion that was killed before it reached the history
        known = [tag for tag in self._history.state().known_tags if not trash.joinpath(*tag.split(":")).exists()]
        added = sorted(self._store.used_tags())
        return [*known, *(tag for tag in added if tag not in known and bentoml_store.version_folder(tag).is_dir())]

    def get(self, name: str) -> Version:
        """Return the version called `name`: a tag, a version, the unique beginning of one, champion or previous.

        Raises UserError where there is none, more than one, or only its remains.
        """
        tag = self._resolve(name)
        try:
            return versions.load(tag)
        except DamagedVersion as error:
            raise _damaged(error, self._history.state()) from None

    def check(self, tag: str) -> str:
        """Return what is damaged in a version, with large files unread, as a sentence; empty when nothing is."""
        try:
            versions.check(tag, thorough=False)
        except DamagedVersion as error:
            return str(error)
        return ""

    def verify(self, version: str) -> None:
        """Read every byte of a version (any name that `get` takes); raises UserError with the first damaged file."""
        self._check(self._resolve(version), self._history.state(), thorough=True)

    def rolled_back(self, version: str) -> Entry | None:
        """Return the rollback that left `version` (or its tag), if nothing moved to or from it since."""
        for entry in reversed(self.history()):
            is_left, is_reached = (is_same_version(version, tag or "") for tag in (entry.from_, entry.to))
            if entry.action in MOVES and (is_left or is_reached):
                return entry if entry.action == "rollback" and is_left and not is_reached else None
        return None

    # Changing

    def add(self, folder: Path, labels: Mapping[str, str], metadata: Mapping[str, Any]) -> Version:
        """Copy the model in `folder` into the store and return its version; the same content is one version.

        A version keeps its first labels and metadata; a damaged version is made whole.

        Raises:
            UserError: The folder holds links or no whole model, the store cannot be written, or it holds other files
                under the same version.
        """
        refuse_incomplete(folder)
        with self._change() as change:
            return versions.load(change.add(folder, labels, metadata))

    def move(
        self,
        to: Version,
        *,
        expected: str | None,
        action: Action,
        why: str,
        who: str | None = None,
        figures: Figures | None = None,
    ) -> Entry:
        """Make `to` the champion and return the history's new entry.

        Args:
            to: A version of this registry.
            expected: The tag of the present champion, as the caller knows it; None where there is none.
            action: "promote", "force" or "rollback".
            why: The reason, for the history.
            who: Who decided; user@host by default.
            figures: The figures that the decision rests on.

        Raises:
            UserError: Another version is the champion by now, `to` is not whole, or the pointer is damaged.
        """
        with self._change() as change:
            state = change.state
            if state.damage:
                raise _damaged(state.damage, state)
            if state.champion != expected:
                raise UserError(
                    f"the champion changed from {expected or 'none'} to {state.champion or 'none'} while {to.tag} was "
                    "being judged; run it again"
                )
            self._check(to.tag, state, thorough=True)
            return change.set_champion(to.tag, action, why, who, figures)

    def rollback(self, to: str | None, why: str) -> Entry:
        """Make `to` the champion again, by default the previous one; return the history's new entry.

        A promotion pushes onto a stack of champions and a rollback pops, so that two in a row go back by two. With a
        damaged pointer it goes back to the champion that the history names last. Raises UserError where there is
        nothing to go back to.
        """
        with self._change() as change:
            state = change.state
            target = _rollback_target(state) if to is None else self._resolve(to)
            if state.champion == target:
                raise UserError(f"{target} is the champion; name another version, `{_COMMAND} list` shows them")
            self._check(target, state, thorough=True)
            return change.set_champion(target, "rollback", why)

    def refuse(self, version: str, why: str, figures: Figures) -> Entry:
        """Record that the verdict on `version`, which is in no store, was no."""
        with self._change() as change:
            return change.refuse(version, why, figures)

    def delete(self, name: str) -> None:
        """Delete a version; raises UserError for the champion and the last `registry.keep` ones."""
        with self._change() as change:
            tag = self._resolve(name)
            if reason := self._protected(change.state).get(tag):
                raise UserError(f"{tag} {reason} and is never deleted; `{_COMMAND} prune` deletes what may go")
            change.delete(tag, "requested")

    def prune(self) -> list[str]:
        """Delete every version of this registry that is not protected; return their tags."""
        with self._change() as change:
            protected = self._protected(change.state)
            tags = [tag for tag in self.tags() if tag not in protected]
            for tag in tags:
                change.delete(tag, f"pruned: not among the last {self._settings.keep} champions")
            return tags

    def forget(self, project: Path) -> list[str]:
        """Release what the project that was in the folder `project` used; return the tags that nobody uses now.

        Raises UserError where the store knows no such project, or where it still exists.
        """
        with self._change() as change:
            return change.forget(project)

    def _change(self) -> AbstractContextManager[Change]:
        return begin_change(self._history, self._store)

    def _check(self, tag: str, state: State, thorough: bool) -> None:
        """Raise UserError, with the way back, where a version is damaged."""
        try:
            versions.check(tag, thorough)
        except DamagedVersion as error:
            raise _damaged(error, state) from None

    def _protected(self, state: State) -> dict[str, str]:
        """Return the versions that must not be deleted, with the reason."""
        if state.damage:
            raise _damaged(f"{state.damage}; nothing is deleted before that is fixed", state)
        keep = self._settings.keep
        recent = state.past_champions[:keep]
        protected = dict.fromkeys(recent, f"is among the last {keep} champions (registry.keep in params.yaml)")
        return protected | ({state.champion: "is the champion"} if state.champion else {})

    def _resolve(self, name: str) -> str:
        """Return the tag that `name` stands for."""
        if name == "champion":
            champion = self.champion()
            if champion is None:
                raise UserError("there is no champion yet; `fresh promote` makes the first")
            return champion.tag
        if name == "previous":
            stack = self._history.state().stack
            if len(stack) < 2:
                raise UserError(f"there is no champion before the present one; `{_COMMAND} list` shows what there is")
            return stack[-2]
        tags = self.tags()
        matches = [tag for tag in tags if name in (tag, tag.partition(":")[2])]
        matches = matches or [tag for tag in tags if _is_abbreviated(tag, name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UserError(f"{name!r} is the beginning of {', '.join(matches)}; write one more digit")
        deleted = [entry for entry in self.history() if entry.action == "delete" and name in str(entry.from_)]
        if name and deleted:
            raise UserError(
                f"{deleted[-1].from_} was deleted at {deleted[-1].at}; `{_COMMAND} list` shows what is left"
            )
        raise UserError(
            f"there is no version {name!r} in this registry; expected champion, previous or one of: "
            f"{', '.join(tags) or 'none yet, `fresh promote` makes the first'}"
        )


def _is_abbreviated(tag: str, name: str) -> bool:
    """Return whether `name` is the beginning of a version, with the model's name before it or not."""
    model, _, digits = name.rpartition(":")
    version = versions.find(tag)
    whole = version.version if version else tag.partition(":")[2]
    return bool(digits) and model in ("", tag.partition(":")[0]) and whole.startswith(digits)


def _rollback_target(state: State) -> str:
    """Return the champion to go back to: the previous one, or with a damaged pointer the last of the history."""
    stack = state.stack
    if not stack:
        raise UserError("there is no champion yet, so there is none to go back to; run `make model` and promote")
    if state.damage:
        return stack[-1]
    if len(stack) == 1:
        raise UserError(f"there is no champion before {stack[-1]}; name a version that `{_COMMAND} list` shows")
    return stack[-2]


def _damaged(damage: object, state: State) -> UserError:
    """Return the error for a damage, with the way back as the end of its sentence."""
    good = next((tag for tag in state.past_champions if versions.is_whole(tag)), None)
    if good is None:
        fix = (
            "no version in the history is whole, so move the folder registry/ away and make a new champion with "
            "`fresh promote`"
        )
    elif good == state.champion:
        fix = f"the champion, {good}, is whole; add the same model again, or `{_COMMAND} delete` what is left of it"
    else:
        fix = f'the last good version is {good}: `{_COMMAND} rollback {good.partition(":")[2]} --why "..."`'
    return UserError(f"{damage}; {fix}")
