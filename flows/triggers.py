"""Why a retraining would run now, or why not, in one line: `fresh why`. It runs and changes nothing.

DVC reports what changed since each stage ran. The registry and the last verdict tell whether the candidate was judged.
New rows are counted by the intake's reader and compared with the rows that `validate` counted last.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import params, paths, storage
from pipeline.command import UserError, warn
from pipeline.dvc_repo import ABSENT, Dependency, stage_statuses
from pipeline.intake.reader import read_chunks
from pipeline.intake.sniff import sniff_format
from pipeline.registry.model_version import content_version, is_same_version, short
from pipeline.registry.store import Registry

_ROWS_SPEED = 60e6  # bytes read per second, for the estimate that is printed for large files
_MAX_LISTED = 4  # changes of one kind; more are only counted
_MAX_MESSAGE = 400  # characters of an error message or a person's reason
_CODE = (".py", ".html", ".yaml", "")  # suffixes of files that hold code; "" is a folder


@dataclass(frozen=True)
class Reason:
    """Whether a retraining would find something to do, and why.

    Args:
        run: Whether it would.
        sentence: Why, or why not, in one line.
        kinds: Which of person, rows, params, code, files, unfinished, missing, by_hand, candidate, verdict apply.
        details: The figures behind the sentence, for JSON.
    """

    run: bool
    sentence: str
    kinds: tuple[str, ...]
    details: dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """What started a run: a person, with a reason that is enough by itself, or a trigger such as "schedule"."""

    person: str | None = None
    trigger: str | None = None


@dataclass
class _Changes:
    """What changed since the stages ran."""

    corpus: bool = False
    params: dict[str, list[Any]] = field(default_factory=dict)  # key -> recorded value, current value
    code: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # dependencies other than the corpus and code
    missing: list[str] = field(default_factory=list)  # outputs
    by_hand: list[str] = field(default_factory=list)  # outputs that differ from what the stage wrote
    unfinished: list[str] = field(default_factory=list)  # stages that have not run on their current inputs


def find_reason(root: Path = Path(), origin: Origin = Origin()) -> Reason:
    """Return why a retraining in `root` would run now, or why not.

    Takes about a second, and one more for each 60 MB of a corpus that changed. Raises UserError where params.yaml, the
    pipeline or the registry cannot be read.
    """
    config = params.load(root / paths.PARAMS)
    version = _candidate_version(root)
    news: dict[str, str] = {}
    details: dict[str, Any] = {"candidate": version}
    if version is None:
        news["candidate"] = "no candidate yet"
    else:
        changes = _changes(root, config)
        if changes.corpus:
            news["rows"], details["rows"] = new_rows(root, config)
        news |= _describe(changes)
        details |= {kind: value for kind, value in asdict(changes).items() if value and kind != "corpus"}
    nothing_new = ""
    if not news and version is not None:
        is_judged, sentence = _last_verdict(root, config, version)
        if is_judged:
            nothing_new = sentence
        else:
            news["verdict"] = sentence
    kinds = tuple(news) if origin.person is None else ("person", *news)
    return Reason(bool(kinds), _sentence(origin, list(news.values()), nothing_new), kinds, details)


def _sentence(origin: Origin, news: list[str], nothing_new: str) -> str:
    """Return what started the run, followed by the news or by `nothing_new`."""
    text = "; ".join(part for part in news if part != origin.trigger)
    if origin.person is not None:
        return f'a person: "{_one_line(origin.person)}"; {text or nothing_new}'
    if origin.trigger is None:
        return text or nothing_new
    if nothing_new:
        return f"{origin.trigger}: {nothing_new}"
    return f"{origin.trigger} and {text}" if text else origin.trigger


def run_origin(tags: Iterable[str], reason: str | None) -> Origin:
    """Return what started a flow run, from its tags and its parameter `reason`.

    Prefect tags runs of a schedule, `flows.watch` tags the runs it starts, and the automation in prefect.yaml gives a
    reason that begins with "an event".
    """
    tags = set(tags)
    if "auto-scheduled" in tags:
        return Origin(trigger="schedule")
    if "watch" in tags or (reason or "").startswith("an event "):
        return Origin(trigger=reason)
    return Origin(person=reason)


def new_rows(root: Path, config: params.Params) -> tuple[str, dict[str, Any]]:
    """Compare the corpus's rows with those of the last validate; return a line, and figures.

    The figures are `path`, `before` (None if the last validate read another corpus or refused this one), `now` and
    `new` (None if the file cannot be read: the line then gives the error, with which a run will fail).
    """
    path = config.data.path
    metrics = _read_json(root / paths.VALIDATE_METRICS)  # None after a validate that refused the corpus
    before = metrics["rows_in"] if metrics and _is_same_file(root, metrics["corpus"], path) else None
    figures: dict[str, Any] = {"path": path, "before": before, "now": None, "new": None}
    try:
        now = _count_rows(root / path, config.data)
    except UserError as error:
        return f"the corpus changed and cannot be read, so a run will fail: {_one_line(str(error))}", figures
    figures |= {"now": now, "new": now - (before or 0)}
    if before is None:
        return f"{'another corpus' if metrics else 'the corpus changed'}: {now:,} rows ({path})", figures
    if now > before:
        return f"new rows: {now - before:,} ({path})", figures
    if now < before:
        return f"fewer rows: {before:,} -> {now:,} ({path})", figures
    return f"rows changed: {now:,} as before ({path})", figures


def _is_same_file(root: Path, one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(root / one) == os.path.realpath(root / other)


def _count_rows(path: Path, data: params.Data) -> int:
    """Return how many rows the corpus has, as `validate` counts them."""
    file = sniff_format(path, data)
    seconds = path.stat().st_size / _ROWS_SPEED
    if seconds > 5 and file.format != "parquet":
        warn(f"counting the rows of {path} takes about {seconds:.0f} s")
    return sum(len(chunk.rows) for chunk in read_chunks(file, data))


def _candidate_version(root: Path) -> str | None:
    """Return the candidate's version, None if there is none; from the metrics if possible, which is cheap."""
    if not (root / paths.MANIFEST).is_file():
        return None
    version = (_read_json(root / paths.EVALUATE_METRICS) or {}).get("candidate", {}).get("version")
    return str(version) if version else content_version(root / paths.CANDIDATE)


def _changes(root: Path, config: params.Params) -> _Changes:
    """Return what DVC reports as changed."""
    changes = _Changes()
    statuses = stage_statuses(root)
    outputs = [path for status in statuses for path in status.output_paths]
    for status in statuses:
        if not status.has_run:
            changes.unfinished.append(status.name)
        if status.command_changed:
            changes.code.append(f"the command of {status.name}")
        for key, (recorded, current) in status.params.items():
            for name, *values in _differences(key, recorded, current):
                changes.params[name] = [None if value is ABSENT else value for value in values]
        for dependency in status.dependencies:
            _add(changes, status.name, dependency, root / config.data.path, outputs)
        for path, word in status.outputs.items():
            if word in ("deleted", "not in cache"):
                changes.missing.append(path)
            elif word == "modified":
                changes.by_hand.append(path)
    return changes


def _add(changes: _Changes, stage: str, dependency: Dependency, corpus: Path, outputs: list[Path]) -> None:
    """File a changed dependency of `stage` under the kind of change it is."""
    path = dependency.path
    if _is_same_file(Path(), path, corpus):
        changes.corpus = True
    elif any(path.is_relative_to(output) or output.is_relative_to(path) for output in outputs):
        if stage not in changes.unfinished:
            changes.unfinished.append(stage)
    else:
        names = changes.code if path.suffix in _CODE else changes.files
        if dependency.name not in names:
            names.append(dependency.name)


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old value, new value) for each difference, within nested sections too."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            yield from _differences(f"{key}.{name}", old.get(name, ABSENT), new.get(name, ABSENT))
    elif old != new:
        yield key, old, new


def _describe(changes: _Changes) -> dict[str, str]:
    """Return a line for each kind of change except rows.

    Outputs and unfinished stages are named only where no input changed: with changed inputs they are made anyway.
    """
    settings = [f"{key} {_value(old)} -> {_value(new)}" for key, (old, new) in changes.params.items()]
    inputs = {
        "params": f"params.yaml: {_listed(settings)}",
        "code": f"code changed: {_listed(changes.code)}",
        "files": f"files changed: {_listed(changes.files)}",
    }
    outputs = {
        "unfinished": f"an earlier run ended before {_listed(changes.unfinished)}",
        "missing": f"outputs missing: {_listed(changes.missing)}",
        "by_hand": f"outputs changed by hand: {_listed(changes.by_hand)}",
    }
    lines = {kind: line for kind, line in inputs.items() if getattr(changes, kind)}
    if lines or changes.corpus:
        return lines
    return {kind: line for kind, line in outputs.items() if getattr(changes, kind)}


def _last_verdict(root: Path, config: params.Params, version: str) -> tuple[bool, str]:
    """Return whether the verdict on the candidate was carried out, and a line that names the verdict."""
    registry = Registry(root, config.registry.name)
    entries = [
        entry
        for entry in registry.history()
        if entry.action in ("promote", "force", "refuse") and is_same_version(str(entry.to), version)
    ]
    if entries:
        outcome = entries[-1].why
        if rollback := registry.rolled_back(version):
            outcome = f"promoted, then rolled back: {rollback.why}"
        return True, f"nothing new since the verdict of {_local_time(entries[-1].at)} ({_clause(outcome)})"
    verdict = _read_json(root / paths.VERDICT) or {}
    if verdict.get("candidate", {}).get("version") != version:
        return False, f"the candidate {short(version)} has no verdict yet"
    if verdict["promoted"]:
        return False, f"the candidate {short(version)} passed on {_local_time(verdict['at'])} and was not promoted"
    outcome = f"not promoted: {' '.join(verdict['reasons'])}"
    return True, f"nothing new since the verdict of {_local_time(verdict['at'])} ({_clause(outcome)})"


def _clause(sentence: str) -> str:
    """Return a sentence in the form that fits within brackets."""
    line = _one_line(sentence).removesuffix(".")
    return line[:1].lower() + line[1:]


def _local_time(at: str) -> str:
    """Return a UTC time of the registry in this machine's time zone."""
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 1] + "…"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    text = value if isinstance(value, str) and value and not value.split()[1:] else json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object that a stage wrote; None if there is none or the stage was killed while writing."""
    try:
        content = storage.read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
