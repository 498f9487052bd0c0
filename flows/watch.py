"""The flow `watch`: looks for new rows, in the corpus or the inbox, and for drift, and starts `retrain`.

It trains nothing itself, and starts nothing while somebody is at work in the folder: what it found then waits for a
later look. What it saw is in `registry/watch.json`. `due` says cheaply whether a look would find something to do:
`flows.runtime.watcher` asks it every minute and runs the flow only then.
"""

import fcntl
import hashlib
import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from pydantic import Field

from flows.runtime import drop_folder, runs
from flows.triggers import rows_since
from pipeline import escape, params, paths, storage, workspace
from pipeline.command import UserError
from pipeline.registry.store import Registry

ROOT = Path()  # a deployment's working folder
MEMORY = paths.REGISTRY / "watch.json"
_LOCK = paths.REGISTRY / "watch.lock"
_WHO = "the watch, which appends the inbox's rows,"


@flow(name="watch", validate_parameters=True)
def watch(
    new_rows: Annotated[int, Field(ge=0)] = 0,
    texts: str = "",
    deployment: Annotated[str, Field(min_length=1)] = "retrain/retrain",
) -> State[None]:
    """Look once: append the inbox's files to the corpus; start a retraining for new rows or drift.

    A file counts once it has not changed between two looks.

    Args:
        new_rows: How many rows it takes to start a retraining at once. 1: any change of the corpus does. More: fewer
            rows wait for the night, unless they drift. 0: watch.new_rows in params.yaml.
        texts: A file of texts, read like the corpus, to be watched for drift too, for instance what users wrote.
            Empty: only rows of the corpus that are new.
        deployment: What is started.
    """
    runs.end_without_traceback()
    try:
        with _alone():
            wanted = params.load(ROOT / paths.PARAMS)
            return _Look(wanted, new_rows or wanted.watch.new_rows, texts, deployment).state()
    except UserError as error:
        return Failed(message=str(error))


def pending_reason(wanted: params.Params, texts: str) -> str | None:
    """Return why a look is due, as a run's name; None where it would find nothing to do, or the folder is in use.

    Like a look it takes files for whole that are the same at two calls. It reads no file but a corpus that changed,
    once, for its hash. What a look has seen and could not settle (a corpus that takes no rows, say) is due again only
    once something of it changes.
    Raises UserError where another look is under way.
    """
    with _alone():
        memory = _read(ROOT / MEMORY)
        state, reasons = _unseen(wanted, texts, memory)
        if not reasons or memory.get("looked") == state:
            return None
        try:
            _raise_if_busy()
        except workspace.Busy:
            return None
        _write({**memory, "due": state})
    return "; ".join(reasons)


def _unseen(wanted: params.Params, texts: str, memory: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what rests and no look has settled, with a reason for each; remember what is there now."""
    state: dict[str, Any] = {"params": _stamp(ROOT / paths.PARAMS)}
    reasons: list[str] = []
    seen = dict(memory)
    for look_at in (_unseen_in_inbox, _unseen_in_corpus):
        try:
            for what, (stamp, reason) in look_at(wanted, seen).items():
                state[what] = stamp
                reasons.append(reason)
        except UserError as error:
            state[look_at.__name__] = str(error)
            reasons.append(str(error))
    try:
        if texts and (now := _texts_stamp(ROOT / texts, wanted)) != memory.get("texts"):
            state["texts"] = now
            reasons.append(f"drift of {texts} is to be measured")
    except UserError as error:
        state["texts"] = str(error)
        reasons.append(str(error))
    if seen != memory:
        _write(seen)
        memory |= seen
    return state, reasons


def _unseen_in_inbox(wanted: params.Params, seen: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return stamp and reason of files that wait whole, or stay and were not told of; put into `seen` what is there."""
    folder = ROOT / wanted.watch.inbox
    there, stays = drop_folder.pending_files(folder), drop_folder.skipped_files(folder)
    before = seen.get("inbox", {})
    seen["inbox"] = there
    found: dict[str, tuple[Any, str]] = {}
    if whole := {name: stamp for name, stamp in there.items() if before.get(name) == stamp and name not in stays}:
        found["inbox"] = (whole, f"in the inbox: {', '.join(whole)}")
    elif drop_folder.has_unfinished_import(ROOT, wanted):
        found["inbox"] = ("unfinished", "a file was being taken from the inbox when something ended that")
    if untold := [name for name in stays if name not in seen.get("stays", {})]:
        found["stays"] = (untold, f"stays in the inbox: {', '.join(untold)}")
    return found


def _unseen_in_corpus(wanted: params.Params, seen: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return stamp and reason of a corpus that changed and rests; put into `seen` what it is."""
    corpus = ROOT / wanted.data.path
    stamp, decided = _stamp(corpus), seen.get("decided", {})
    rests = seen.get("corpus") == stamp
    seen["corpus"] = stamp
    if not rests or decided.get("stamp") == stamp:
        return {}
    if seen.get("hashed", {}).get("stamp") != stamp:
        seen["hashed"] = {"stamp": stamp, "md5": _md5(corpus)}
    if (md5 := seen["hashed"]["md5"]) in (_validated(), decided.get("md5")):
        seen["decided"] = {"stamp": stamp, "md5": md5}  # only touched, or trained on already
        return {}
    return {"corpus": (stamp, f"{wanted.data.path} is new or changed")}


def _texts_stamp(path: Path, wanted: params.Params) -> list[Any]:
    champion = Registry(ROOT, wanted.registry.name).champion()
    return [*_stamp(path, "the watch's texts"), champion.tag if champion else None]


class _Look:
    """One look, and what it did, in words."""

    def __init__(self, wanted: params.Params, new_rows: int, texts: str, deployment: str) -> None:
        self._wanted, self._new_rows, self._texts, self._deployment = wanted, new_rows, texts, deployment
        self._memory: dict[str, Any] = _read(ROOT / MEMORY)
        self._due = self._memory.get("due")
        self._said: list[str] = []
        self._appended = self._started = False

    def state(self) -> State[None]:
        """Look at the inbox, the corpus and the texts; return how it ended."""
        problems = []
        try:
            for step in (self._empty_the_inbox, self._look_at_the_corpus, self._look_at_texts):
                try:
                    step()
                except workspace.Busy:
                    raise
                except UserError as error:  # of one of the three, which keeps none of the others
                    problems.append(str(error))
                except Exception as error:  # nor does a fault of ours, which the log shows whole
                    get_run_logger().error("the look failed: %s", escape.visible(traceback.format_exc()))
                    problems.append(f"{type(error).__name__}: {drop_folder.printable(str(error))}")
            self._remember(looked=self._due)
        except workspace.Busy as busy:
            self._said.append(f"waits: {busy}")
        if problems:
            return Failed(message="; ".join([*self._said, *problems]))
        if not self._said:
            return Completed(name="NothingNew", message="nothing changed")
        return Completed(name="Started" if self._started else None, message="; ".join(self._said))

    def _empty_the_inbox(self) -> None:
        """Append what lies whole in the inbox to the corpus."""
        folder = ROOT / self._wanted.watch.inbox
        there, stays = drop_folder.pending_files(folder), drop_folder.skipped_files(folder)
        before = self._memory.get("inbox", {})
        whole = [name for name, stamp in there.items() if before.get(name) == stamp and name not in stays]
        self._said += [why for name, why in stays.items() if name not in self._memory.get("stays", {})]
        self._remember(inbox=there, stays=stays)
        self._said += [
            f"{drop_folder.printable(name)} is in the inbox: taken if it is the same at the next look"
            for name in there
            if name not in whole and name not in stays
        ]
        if not whole and not drop_folder.has_unfinished_import(ROOT, self._wanted):
            return
        with workspace.claim(ROOT, _WHO):
            taken = drop_folder.import_files(ROOT, self._wanted, whole)
        for file in taken:
            name, place = drop_folder.printable(file.name), drop_folder.printable(file.place)
            if file.refused:
                get_run_logger().error(file.refused)
                self._said.append(f"refused {name}: {file.refused} (it is in {place})")
            else:
                self._said.append(f"appended {file.rows:,} rows of {name} (it is in {place})")
        self._appended = any(not file.refused for file in taken)

    def _look_at_the_corpus(self) -> None:
        """Start a retraining if the corpus changed since the last validate and the last look, and has come to rest."""
        corpus = ROOT / self._wanted.data.path
        stamp = _stamp(corpus)
        rests = self._appended or self._memory.get("corpus") == stamp
        self._remember(corpus=stamp)
        decided = self._memory.get("decided", {})
        if decided.get("stamp") == stamp:
            return
        if not rests:
            self._said.append(f"{corpus} is new or changed: looked at if it is the same at the next look")
            return
        _raise_if_busy()
        md5 = _md5(corpus)
        if md5 not in (_validated(), decided.get("md5")):
            reason = self._reason()
            if reason:
                self._start(reason, md5)
        self._remember(decided={"stamp": stamp, "md5": md5})

    def _reason(self) -> str | None:
        """Return why the changed corpus is to be trained on at once; None where it may wait."""
        line, figures = rows_since(ROOT, self._wanted)
        enough = self._new_rows == 1 or figures["before"] is None or figures["now"] is None
        if enough or figures["new"] >= self._new_rows:
            return line
        from flows import drift

        found = self._drift("the corpus's new rows", drift.new_texts(ROOT, self._wanted))
        if found:
            return found
        self._said.append(f"{line}: fewer than {self._new_rows:,}, so they wait for the schedule")
        return None

    def _look_at_texts(self) -> None:
        """Measure the drift of the file of texts when it, or the champion, is another one."""
        if not self._texts:
            return
        from flows import drift

        path = ROOT / self._texts
        stamp = _texts_stamp(path, self._wanted)
        if self._memory.get("texts") == stamp:
            return
        sentence = self._drift(str(path), drift.read_texts(path, self._wanted))
        if sentence:
            md5 = _md5(ROOT / self._wanted.data.path)
            if md5 != _validated():
                _raise_if_busy()
                self._start(sentence, md5)
            else:
                self._said.append(
                    f"{sentence}, in {path}, but the corpus has no new rows to learn from: put such texts in "
                    f"{self._wanted.watch.inbox}"
                )
        self._remember(texts=stamp)

    def _drift(self, what: str, texts: list[str]) -> str | None:
        """Measure, record and tell the drift of texts; return its sentence if there is any beyond noise."""
        from flows import drift

        champion = Registry(ROOT, self._wanted.registry.name).champion()
        found = drift.measure_drift(texts, self._wanted, champion) if champion else None
        if found is None:
            return None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._remember(drift={"at": at, "of": what, **asdict(found)})
        create_markdown_artifact(
            found.markdown(what), key="drift", description=escape.markdown(f"{found.sentence}, in {what}")
        )
        if not found.drifted:
            self._said.append(f"{found.sentence}, in {what}")
            return None
        emit_event(
            "corpus.drifted",
            resource={"prefect.resource.id": f"corpus.{self._wanted.data.path}"},
            payload={"of": what, **asdict(found)},
        )
        return found.sentence

    def _start(self, reason: str, md5: str) -> None:
        """Start the retraining, once for each change of the corpus, whose MD5 is given.

        A look that was killed before it could remember this gives the same key, for which Prefect gives the same run.
        Content alone is no key: rows that were taken out and come back are a change.
        """
        change = json.dumps([self._deployment, str(ROOT.resolve()), _stamp(ROOT / self._wanted.data.path)])
        key = f"watch-{md5}-{hashlib.sha256(change.encode()).hexdigest()[:12]}"
        try:
            started = run_deployment(
                self._deployment,
                parameters={"reason": reason[:500]},
                timeout=0,
                idempotency_key=key,
                flow_run_name=runs.run_title(reason),
                tags=["watch"],
                as_subflow=False,  # a look that is cancelled takes no training along
            )
        except ObjectNotFound:
            raise UserError(
                f"there is no deployment {self._deployment!r} to start; `make up` deploys retrain/retrain"
            ) from None
        assert isinstance(started, FlowRun)  # a coroutine where there is an event loop: not in this flow
        self._started = True
        self._said.append(f"started {started.name}: {reason}")

    def _remember(self, **what: Any) -> None:
        self._memory |= what
        _write(self._memory)


def _write(memory: dict[str, Any]) -> None:
    storage.write_atomic(ROOT / MEMORY, json.dumps(memory, indent=2) + "\n")


def _raise_if_busy() -> None:
    """Raise Busy while somebody is at work: what starts now would give way, and the change would be forgotten."""
    with workspace.claim(ROOT, "the watch"):
        pass


def _validated() -> str | None:
    """Return the MD5 of the corpus that was validated last."""
    found: str | None = _read(ROOT / paths.VALIDATE_METRICS).get("corpus_md5")
    return found


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _stamp(path: Path, named_by: str = "params.yaml: data.path") -> list[Any]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        hint = paths.meant(path)
        raise UserError(f"{named_by}: there is no file {str(path)!r}; {hint}put it there or name another") from None
    return [str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = storage.read_json(path)
    except (FileNotFoundError, ValueError):
        return {}  # of a first look, or of a stage that was killed
    return found if isinstance(found, dict) else {}


@contextmanager
def _alone() -> Iterator[None]:
    """Hold off another look while one is under way; raises UserError where there is one."""
    (ROOT / _LOCK).parent.mkdir(parents=True, exist_ok=True)
    with storage.open_lock(ROOT / _LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another look of the watch is under way; wait for it, or cancel it") from None
        yield
