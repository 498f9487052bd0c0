"""What the flow `watch` has seen, in `registry/watch.json`, and a cheap check whether it has something to do.

A file counts only once two checks in a row find it unchanged, so that files which are still being written are left
alone. What a run of `watch` has seen and could not settle is a reason again only when something about it changes.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.runtime import drop_folder
from pipeline import params, paths, storage, workspace
from pipeline.command import UserError
from pipeline.registry.store import Registry

ROOT = Path()  # the deployment's working folder
MEMORY = paths.REGISTRY / "watch.json"
_LOCK = paths.REGISTRY / "watch.lock"

Stamp = list[Any]  # of a file: path, inode, size, time of change in ns; equal stamps mean equal content
Pending = dict[str, tuple[Any, str]]  # what is to be done -> what identifies it, the reason as a sentence


def load_memory() -> dict[str, Any]:
    """Return what earlier checks and runs remembered; an empty dict at first."""
    return _read_object(ROOT / MEMORY)


def save_memory(memory: dict[str, Any]) -> None:
    """Replace what is remembered."""
    storage.write_atomic(ROOT / MEMORY, json.dumps(memory, indent=2) + "\n")


@contextmanager
def exclusive() -> Iterator[None]:
    """Allow one check or run at a time; raises UserError if there is another one."""
    try:
        with storage.exclusive_lock(ROOT / _LOCK, timeout=0, holder="the watch"):
            yield
    except storage.LockHeld:
        raise UserError("another run of watch is in progress; wait for it, or cancel it") from None


def raise_if_busy() -> None:
    """Raise Busy if the workspace is in use: a retraining started now would end as Busy, and the change be lost."""
    with workspace.claim(ROOT, "the watch"):
        pass


def validated_md5() -> str | None:
    """Return the MD5 of the corpus that was validated last."""
    md5: str | None = _read_object(ROOT / paths.VALIDATE_METRICS).get("corpus_md5")
    return md5


def file_md5(path: Path) -> str:
    """Return the MD5 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def stamp(path: Path, setting: str = "params.yaml: data.path") -> Stamp:
    """Return the stamp of a file that `setting` names; raises UserError if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        hint = paths.meant(path)
        raise UserError(f"{setting}: there is no file {str(path)!r}; {hint}put it there, or name another one") from None
    return [str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns]


def texts_stamp(path: Path, config: params.Params) -> Stamp:
    """Return what the drift of a file of texts depends on: the file and the champion."""
    champion = Registry(ROOT, config.registry.name).champion()
    return [*stamp(path, "the watch's texts"), champion.tag if champion else None]


def pending_reason(config: params.Params, texts: str) -> str | None:
    """Return why `watch` should run now, as a run's name; None if it has nothing to do or the workspace is in use.

    Reads no file except a corpus that changed, once, for its hash. Raises UserError if a run of `watch` is in progress.
    """
    with exclusive():
        memory = load_memory()
        snapshot, reasons = _pending_work(config, texts, memory)
        if not reasons or memory.get("looked") == snapshot:
            return None
        try:
            raise_if_busy()
        except workspace.Busy:
            return None
        save_memory({**memory, "due": snapshot})
    return "; ".join(reasons)


def _pending_work(config: params.Params, texts: str, memory: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what is to be done, and a reason for each part; update `memory` with the files' stamps."""
    snapshot: dict[str, Any] = {"params": stamp(ROOT / paths.PARAMS)}
    reasons: list[str] = []
    before = dict(memory)

    def find_in_drop_folder() -> Pending:
        return _pending_files(config, memory)

    def find_in_corpus() -> Pending:
        return _changed_corpus(config, memory)

    def find_in_texts() -> Pending:
        if not texts or (now := texts_stamp(ROOT / texts, config)) == memory.get("texts"):
            return {}
        return {"texts": (now, f"drift of {texts} is to be measured")}

    for find in (find_in_drop_folder, find_in_corpus, find_in_texts):
        try:
            pending = find()
        except UserError as error:  # a run of `watch` reports it
            pending = {find.__name__: (str(error), str(error))}
        for part, (identity, reason) in pending.items():
            snapshot[part] = identity
            reasons.append(reason)
    if memory != before:
        save_memory(memory)
    return snapshot, reasons


def _pending_files(config: params.Params, memory: dict[str, Any]) -> Pending:
    """Return files of the drop folder that are complete, or that are skipped for a reason not reported yet."""
    folder = ROOT / config.watch.inbox
    files, skipped = drop_folder.pending_files(folder), drop_folder.skipped_files(folder)
    before = memory.get("inbox", {})
    memory["inbox"] = files
    pending: Pending = {}
    if complete := {name: now for name, now in files.items() if before.get(name) == now and name not in skipped}:
        pending["inbox"] = (complete, f"in {config.watch.inbox}: {', '.join(complete)}")
    elif drop_folder.has_unfinished_import(ROOT, config):
        pending["inbox"] = ("unfinished", f"an import from {config.watch.inbox} was interrupted")
    if unreported := [name for name in skipped if name not in memory.get("stays", {})]:
        pending["stays"] = (unreported, f"skipped in {config.watch.inbox}: {', '.join(unreported)}")
    return pending


def _changed_corpus(config: params.Params, memory: dict[str, Any]) -> Pending:
    """Return the corpus if it changed, is complete, and no retraining was started for it."""
    corpus = ROOT / config.data.path
    now, decided = stamp(corpus), memory.get("decided", {})
    is_complete = memory.get("corpus") == now
    memory["corpus"] = now
    if not is_complete or decided.get("stamp") == now:
        return {}
    if memory.get("hashed", {}).get("stamp") != now:
        memory["hashed"] = {"stamp": now, "md5": file_md5(corpus)}
    if (md5 := memory["hashed"]["md5"]) in (validated_md5(), decided.get("md5")):
        memory["decided"] = {"stamp": now, "md5": md5}  # the same bytes with another time, or trained on already
        return {}
    return {"corpus": (now, f"{config.data.path} is new or changed")}


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if there is none, or the process that wrote it was killed."""
    try:
        content = storage.read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
