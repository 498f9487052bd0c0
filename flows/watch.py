"""The flow `watch`: it appends dropped files to the corpus, measures drift, and starts `retrain`.

It trains nothing itself, and starts nothing while the workspace is in use: a later run finds what it found then. What
it has seen is kept by `flows.runtime.watch_state`. `flows.runtime.watcher` starts it only when it has work.
"""

import hashlib
import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
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

from flows.runtime import drop_folder, runs, watch_state
from flows.runtime.prefect_internals import hide_failed_run_tracebacks
from flows.runtime.watch_state import ROOT
from flows.triggers import new_rows as count_new_rows
from pipeline import escape, params, paths, workspace
from pipeline.command import UserError
from pipeline.registry.store import Registry

_CLAIM = "the watch, which appends dropped files,"


@flow(name="watch", validate_parameters=True)
def watch(
    new_rows: Annotated[int, Field(ge=0)] = 0,
    texts: str = "",
    deployment: Annotated[str, Field(min_length=1)] = "retrain/retrain",
) -> State[None]:
    """Append dropped files to the corpus; start a retraining for new rows or drift.

    A file counts once it has not changed between two checks.

    Args:
        new_rows: How many new rows start a retraining at once. 1: any change of the corpus does. More: fewer rows wait
            for the nightly run unless they drift. 0: watch.new_rows in params.yaml.
        texts: A file of texts, in the form of the corpus, whose drift is measured too, for instance what users wrote.
            Empty: only new rows of the corpus.
        deployment: The deployment to start.
    """
    hide_failed_run_tracebacks()
    try:
        with watch_state.exclusive():
            config = params.load(ROOT / paths.PARAMS)
            return _Check(config, new_rows or config.watch.new_rows, texts, deployment).run()
    except UserError as error:
        return Failed(message=str(error))


class _Check:
    """One run's check of the drop folder, the corpus and the texts."""

    def __init__(self, config: params.Params, new_rows: int, texts: str, deployment: str) -> None:
        self._config, self._new_rows, self._texts, self._deployment = config, new_rows, texts, deployment
        self._memory = watch_state.load_memory()
        self._snapshot = self._memory.get("due")  # what `pending_reason` found
        self._report: list[str] = []
        self._has_appended = self._has_started = False

    def run(self) -> State[None]:
        """Check all three; return the flow's final state."""
        problems: list[str] = []
        try:
            for check in (self._check_drop_folder, self._check_corpus, self._check_texts):
                try:
                    check()
                except workspace.Busy:
                    raise
                except UserError as error:  # the other checks still run
                    problems.append(str(error))
                except Exception as error:
                    get_run_logger().error("the check failed: %s", escape.visible(traceback.format_exc()))
                    problems.append(f"{type(error).__name__}: {drop_folder.printable(str(error))}")
            self._remember(looked=self._snapshot)
        except workspace.Busy as busy:
            self._report.append(f"waiting: {busy}")
        if problems:
            return Failed(message="; ".join([*self._report, *problems]))
        if not self._report:
            return Completed(name="NothingNew", message="nothing changed")
        return Completed(name="Started" if self._has_started else None, message="; ".join(self._report))

    def _check_drop_folder(self) -> None:
        """Append the complete files of the drop folder to the corpus."""
        inbox = self._config.watch.inbox
        files, skipped = drop_folder.pending_files(ROOT / inbox), drop_folder.skipped_files(ROOT / inbox)
        before = self._memory.get("inbox", {})
        complete = [name for name, stamp in files.items() if before.get(name) == stamp and name not in skipped]
        self._report += [why for name, why in skipped.items() if name not in self._memory.get("stays", {})]
        self._remember(inbox=files, stays=skipped)
        self._report += [
            f"{drop_folder.printable(name)} is in {inbox}: imported if the next check finds it unchanged"
            for name in files
            if name not in complete and name not in skipped
        ]
        if not complete and not drop_folder.has_unfinished_import(ROOT, self._config):
            return
        with workspace.claim(ROOT, _CLAIM):
            imported = drop_folder.import_files(ROOT, self._config, complete)
        for file in imported:
            name, location = drop_folder.printable(file.name), drop_folder.printable(file.place)
            if file.refused:
                get_run_logger().error(file.refused)
                self._report.append(f"refused {name}: {file.refused} (moved to {location})")
            else:
                self._report.append(f"appended {file.rows:,} rows of {name} (moved to {location})")
        self._has_appended = any(not file.refused for file in imported)

    def _check_corpus(self) -> None:
        """Start a retraining if the corpus is complete and differs from what was validated and checked last."""
        corpus = ROOT / self._config.data.path
        stamp = watch_state.stamp(corpus)
        is_complete = self._has_appended or self._memory.get("corpus") == stamp
        self._remember(corpus=stamp)
        decided = self._memory.get("decided", {})
        if decided.get("stamp") == stamp:
            return
        if not is_complete:
            self._report.append(f"{corpus} is new or changed: used if the next check finds it unchanged")
            return
        watch_state.raise_if_busy()
        md5 = watch_state.file_md5(corpus)
        if md5 not in (watch_state.validated_md5(), decided.get("md5")):
            reason = self._reason_to_retrain()
            if reason:
                self._start(reason, md5)
        self._remember(decided={"stamp": stamp, "md5": md5})

    def _reason_to_retrain(self) -> str | None:
        """Return why the changed corpus needs a retraining at once; None if it can wait for the schedule."""
        line, figures = count_new_rows(ROOT, self._config)
        is_unknown = figures["before"] is None or figures["now"] is None
        if self._new_rows == 1 or is_unknown or figures["new"] >= self._new_rows:
            return line
        from flows import drift

        drifted = self._measure_drift("the corpus's new rows", drift.new_rows(ROOT, self._config))
        if drifted:
            return drifted
        self._report.append(f"{line}: fewer than {self._new_rows:,}, so they wait for the schedule")
        return None

    def _check_texts(self) -> None:
        """Measure the drift of the file of texts if it, or the champion, changed."""
        if not self._texts:
            return
        from flows import drift

        path = ROOT / self._texts
        stamp = watch_state.texts_stamp(path, self._config)
        if self._memory.get("texts") == stamp:
            return
        drifted = self._measure_drift(str(path), drift.read_rows(path, self._config))
        if drifted:
            md5 = watch_state.file_md5(ROOT / self._config.data.path)
            if md5 != watch_state.validated_md5():
                watch_state.raise_if_busy()
                self._start(drifted, md5)
            else:
                self._report.append(
                    f"{drifted}, in {path}, but the corpus has no new rows to learn from: put such texts into "
                    f"{self._config.watch.inbox}"
                )
        self._remember(texts=stamp)

    def _measure_drift(self, source: str, rows: list[Mapping[str, Any]]) -> str | None:
        """Measure, record and show the drift of rows; return it as a sentence if it is beyond noise."""
        from flows import drift

        champion = Registry(ROOT, self._config.registry.name).champion()
        result = drift.measure_drift(rows, self._config, champion) if champion else None
        if result is None:
            return None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._remember(drift={"at": at, "of": source, **asdict(result)})
        description = escape.markdown(f"{result.sentence}, in {source}")
        create_markdown_artifact(result.markdown(source), key="drift", description=description)
        if not result.drifted:
            self._report.append(f"{result.sentence}, in {source}")
            return None
        emit_event(
            "corpus.drifted",
            resource={"prefect.resource.id": f"corpus.{self._config.data.path}"},
            payload={"of": source, **asdict(result)},
        )
        return result.sentence

    def _start(self, reason: str, md5: str) -> None:
        """Start the retraining, once for each change of the corpus, whose MD5 is `md5`.

        A run that is killed before it remembers this starts again with the same key, for which Prefect returns the same
        run. The key holds the file's stamp as well: rows that were deleted and come back are a change.
        """
        change = json.dumps([self._deployment, str(ROOT.resolve()), watch_state.stamp(ROOT / self._config.data.path)])
        key = f"watch-{md5}-{hashlib.sha256(change.encode()).hexdigest()[:12]}"
        try:
            started = run_deployment(
                self._deployment,
                parameters={"reason": reason[:500]},
                timeout=0,
                idempotency_key=key,
                flow_run_name=runs.run_name(reason),
                tags=["watch"],
                as_subflow=False,  # cancelling this run must not cancel the training
            )
        except ObjectNotFound:
            raise UserError(
                f"there is no deployment {self._deployment!r} to start; `fresh up` deploys retrain/retrain"
            ) from None
        assert isinstance(started, FlowRun)  # a coroutine only where there is an event loop
        self._has_started = True
        self._report.append(f"started {started.name}: {reason}")

    def _remember(self, **values: Any) -> None:
        self._memory |= values
        watch_state.save_memory(self._memory)
