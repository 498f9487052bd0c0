"""Changes of the registry, which survive a kill at any moment.

A version is made aside and put in its place by one rename; the pointer is replaced by one rename and holds its own
entry of the history, which the next change appends where it is missing; a version is renamed away before it is deleted.
All of it happens under the locks of the registry and of the store.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline import paths, storage
from pipeline.command import UserError
from pipeline.registry import bentoml_store, versions
from pipeline.registry.history import Action, Entry, Figures, History, now, user_name
from pipeline.registry.model_version import MODEL_YAML, REQUIRED_FILES, file_hashes, model_files
from pipeline.registry.shared_store import SharedStore
from pipeline.registry.versions import DamagedVersion, Record, StoredFile

LOCK_TIMEOUT = 10.0  # seconds that a change waits for another one


class Change:
    """A change in progress: this process holds the locks, and what a killed command left is finished."""

    def __init__(self, history: History, store: SharedStore) -> None:
        """Finish what a killed command began."""
        self._history = history
        self._store = store
        for left in store.folder.glob("new-*"):  # under the store's lock nobody else writes there
            shutil.rmtree(left)
        self.state = history.repair()
        for trash in sorted(store.trash.glob("*/*")):
            self._finish_delete(trash, "requested, then interrupted")
        self._record_use()

    def add(self, model: Path, labels: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
        """Copy a model into the store unless it is there and whole; return its tag."""
        hashes = file_hashes(model)
        tag = versions.tag_of(self._store.name, hashes)
        if not self._holds(tag, hashes):
            with self._staged(model, labels, metadata) as (tag, staged):
                self._record_use(tag)
                folder = bentoml_store.version_folder(tag)
                folder.parent.mkdir(parents=True, exist_ok=True)
                if folder.exists():  # damaged: none of it is worth keeping
                    folder.rename(staged.parent / "damaged")
                staged.rename(folder)
                storage.fsync(folder.parent)
        self._record_use(tag)
        bentoml_store.set_latest(tag)
        return tag

    def _holds(self, tag: str, hashes: Mapping[str, str]) -> bool:
        """Return whether the store holds this model, whole; raises UserError where it holds another one as `tag`."""
        try:
            versions.check(tag, thorough=True)
        except DamagedVersion:
            return False
        if versions.read_record(tag).hashes != hashes:
            raise UserError(
                f"{tag}: the store holds another model under this version, with other files in "
                f"{bentoml_store.version_folder(tag)}; two models were made to have one version, so trust neither"
            )
        return True

    @contextmanager
    def _staged(
        self, model: Path, labels: Mapping[str, str], metadata: Mapping[str, Any]
    ) -> Iterator[tuple[str, Path]]:
        """Yield the tag of a copy of `model`, and the folder in which it was made: synced, and not yet in its place."""
        aside = Path(tempfile.mkdtemp(prefix="new-", dir=self._store.folder))
        try:
            staged = aside / "version"
            for name in model_files(model):
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(model / name, staged / name)
            files = {name: StoredFile.of(staged / name) for name in model_files(staged)}
            tag = versions.tag_of(self._store.name, {name: file.sha256 for name, file in files.items()})
            created = bentoml_store.write_model_yaml(staged, tag, labels, metadata)
            files[MODEL_YAML] = StoredFile.of(staged / MODEL_YAML)
            record = Record(created, self._store.project_id, dict(labels), dict(metadata), files)
            versions.write_record(staged, record)
            for path in (*staged.rglob("*"), staged):
                storage.fsync(path)
            yield tag, staged
        finally:
            shutil.rmtree(aside)

    def set_champion(
        self, tag: str, action: Action, why: str, who: str | None = None, figures: Figures | None = None
    ) -> Entry:
        """Point at a version that is whole."""
        entry = self.state.next_entry(action, self.state.champion, tag, why, who, figures)
        self._record_use(tag)
        self._history.set_pointer(entry)
        return entry

    def refuse(self, version: str, why: str, figures: Figures) -> Entry:
        """Record a refusal of `version`, which is in no store."""
        entry = self.state.next_entry(
            "refuse", self.state.champion, f"{self._store.name}:{version}", why, figures=figures
        )
        self._history.append(entry)
        return entry

    def delete(self, tag: str, why: str) -> None:
        """Rename a version away, record that, then delete its files; they stay where another project uses them."""
        if user := self._store.other_user(tag):
            self._record_use(dropped=tag)
            self._append_deletion(tag, f"{why}; the files stay, {user}")
            return
        trash = self._store.trash.joinpath(*tag.split(":"))
        trash.parent.mkdir(parents=True, exist_ok=True)
        folder = bentoml_store.version_folder(tag)
        if folder.exists():
            folder.rename(trash)
        else:
            trash.mkdir()
        storage.fsync(trash.parent)
        self._finish_delete(trash, why)

    def _finish_delete(self, trash: Path, why: str) -> None:
        name, version = trash.parts[-2:]
        tag = f"{name}:{version}"
        bentoml_store.repair_latest(name)
        last = self.state.entries[-1] if self.state.entries else None
        if last is None or (last.action, last.from_) != ("delete", tag):  # else it was killed after this
            self._append_deletion(tag, why)
        self._record_use(dropped=tag)
        shutil.rmtree(trash)

    def _append_deletion(self, tag: str, why: str) -> None:
        entry = self.state.next_entry("delete", tag, None, why)
        self._history.append(entry)
        self.state.entries.append(entry)

    def forget(self, folder: Path) -> list[str]:
        """Forget the projects that were in `folder`; return the versions that nobody uses now."""
        return self._store.forget(folder)

    def _record_use(self, *added: str, dropped: str | None = None) -> None:
        self._store.record_use({*self._store.used_tags(), *self.state.known_tags, *added} - {dropped})


@contextmanager
def begin_change(history: History, store: SharedStore) -> Iterator[Change]:
    """Yield a change under the locks of the registry and of the store; raises UserError where they cannot be written.

    Raises LockHeld where another change takes longer than LOCK_TIMEOUT.
    """
    holder = f"process {os.getpid()} of {user_name()} since {now()}"
    try:
        with ExitStack() as locks:
            for folder in (history.folder, store.folder):
                locks.enter_context(storage.exclusive_lock(folder / "lock", LOCK_TIMEOUT, holder))
            store.identify()
            yield Change(history, store)
    except OSError as error:
        where = error.filename or f"{history.folder} or {bentoml_store.home()}"
        raise UserError(
            f"{where}: {error.strerror}; the champion is the one that `fresh registry history` names; fix "
            "that and run it again"
        ) from error


def refuse_incomplete(model: Path) -> None:
    """Raise UserError unless the folder `model` holds a whole model in files of its own."""
    if not model.is_dir():
        raise UserError(
            f"{model}: there is no such folder, so there is no model to add; {paths.meant(model)}make one with "
            "`dvc repro`"
        )
    links = [path.relative_to(model).as_posix() for path in sorted(model.rglob("*")) if path.is_symlink()]
    if links:
        raise UserError(
            f"{model}: {', '.join(links)}: a link is no copy, and would follow what it leads to; put the files "
            "themselves there with `dvc config cache.type copy` and `dvc checkout --relink`"
        )
    if missing := [name for name in (*REQUIRED_FILES, paths.MANIFEST.name) if not (model / name).is_file()]:
        raise UserError(f"{model}: lacks {', '.join(missing)}, so it holds no whole model; make one with `dvc repro`")
