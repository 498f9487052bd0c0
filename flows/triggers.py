"""Why a retraining would run now, or why not, in a line: `python -m flows.triggers`. It runs nothing, changes nothing.

DVC says what changed since each stage ran; the registry and the last verdict say whether what the stages made was
judged. New rows are counted by the intake's own reader, against the rows that `validate` counted last.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

from pipeline import params, paths, storage
from pipeline.command import NO, UserError, arg_parser, echo, echo_json, run, warn
from pipeline.dvc_repo import open_repo
from pipeline.intake.reader import read_chunks
from pipeline.intake.sniff import sniff_format
from pipeline.registry.model_version import content_version, is_same_version, short
from pipeline.registry.store import Registry

_BYTES_A_SECOND = 60e6  # that are counted; 90e6 were seen. Only said, for files that take some time
_LISTED = 4  # changes of a kind; more are counted
_LONGEST = 400  # characters of another's sentence
_CODE = (".py", ".html", ".yaml", "")  # a folder has no suffix: those that stages hang on hold code
_ABSENT = object()


@dataclass(frozen=True)
class Reason:
    """Whether a run would find anything to do, and the line that says why.

    `kinds` has what of: person, rows, params, code, files, unfinished, missing, by_hand, candidate, verdict.
    `details` has the figures behind the line, for JSON.
    """

    run: bool
    sentence: str
    kinds: tuple[str, ...]
    details: dict[str, Any]


@dataclass
class _Changes:
    """What changed since the stages ran."""

    corpus: bool = False
    params: dict[str, list[Any]] = field(default_factory=dict)  # key → the value then, the value now
    code: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # other files that stages read
    missing: list[str] = field(default_factory=list)  # outputs
    by_hand: list[str] = field(default_factory=list)  # outputs that are not what the stage wrote
    unfinished: list[str] = field(default_factory=list)  # stages that have not run on what those before them made


def find_reason(root: Path = Path(), *, asked: str | None = None, trigger: str | None = None) -> Reason:
    """Return why a retraining in `root` would run now, or why not.

    `asked` is the reason that a person gave, which is one by itself; `trigger` what else started the run: "schedule",
    or the sentence of `flows.watch`. Takes about a second, and one more for each 60 MB of a corpus that changed. Raises
    UserError where params.yaml, the pipeline or the registry cannot be read.
    """
    wanted = params.load(root / paths.PARAMS)
    version = _candidate(root)
    news: dict[str, str] = {}
    details: dict[str, Any] = {"candidate": version}
    if version is None:
        news["candidate"] = "no candidate yet"
    else:
        changes = _changes(root, wanted)
        if changes.corpus:
            news["rows"], details["rows"] = rows_since(root, wanted)
        news |= _told(changes)
        details |= {kind: found for kind, found in asdict(changes).items() if found and kind != "corpus"}
    nothing = ""
    if not news and version is not None:
        judged, sentence = _verdict(root, wanted, version)
        if judged:
            nothing = sentence
        else:
            news["verdict"] = sentence
    parts = [part for part in news.values() if part != trigger]
    kinds = tuple(news)
    if asked is not None:
        kinds = ("person", *kinds)
        sentence = f'a person: "{_line(asked)}"; {"; ".join(parts) or nothing}'
    elif trigger is not None:
        rest = "; ".join(parts)
        sentence = f"{trigger}: {nothing}" if nothing else f"{trigger} and {rest}" if rest else trigger
    else:
        sentence = "; ".join(parts) or nothing
    return Reason(bool(news) or asked is not None, sentence, kinds, details)


def run_origin(tags: Iterable[str], reason: str | None) -> dict[str, str | None]:
    """Return `why`'s `asked` and `trigger` for a flow run of these tags with this reason.

    Prefect tags what a schedule started, `flows.watch` what it starts; the automation of `prefect.yaml` gives a reason
    that begins with "an event".
    """
    tags = set(tags)
    if "auto-scheduled" in tags:
        return {"trigger": "schedule"}
    if "watch" in tags or (reason or "").startswith("an event "):
        return {"trigger": reason}
    return {"asked": reason}


def rows_since(root: Path, wanted: params.Params) -> tuple[str, dict[str, Any]]:
    """Return how the corpus's rows differ from those of the last validate, as a line and as figures.

    Figures are `path`, `before` (None where the last validate was of another corpus, or refused it), `now` and `new`
    (None where the file cannot be read: then the line says why, and that a run will fail with it).
    """
    path = wanted.data.path
    metrics = _json(root / paths.VALIDATE_METRICS)  # none after a validate that refused the corpus
    before = metrics["rows_in"] if metrics and _is_same(root, metrics["corpus"], path) else None
    figures: dict[str, Any] = {"path": path, "before": before, "now": None, "new": None}
    try:
        now = _count(root / path, wanted.data)
    except UserError as error:
        return f"the corpus changed and cannot be read, a run will fail with it: {_line(str(error))}", figures
    figures |= {"now": now, "new": now - (before or 0)}
    if before is None:
        return f"{'another corpus' if metrics else 'the corpus changed'}: {now:,} rows ({path})", figures
    if now > before:
        return f"new rows: {now - before:,} ({path})", figures
    if now < before:
        return f"fewer rows: {before:,} -> {now:,} ({path})", figures
    return f"rows changed: {now:,} as before ({path})", figures


def _is_same(root: Path, one: str | Path, other: str | Path) -> bool:
    """Tell whether two paths name one file, however they are written."""
    return os.path.realpath(root / one) == os.path.realpath(root / other)


def _count(path: Path, wanted: params.Data) -> int:
    """Return how many rows the corpus has, as `validate` counts them."""
    seen = sniff_format(path, wanted)
    seconds = path.stat().st_size / _BYTES_A_SECOND
    if seconds > 5 and seen.format != "parquet":
        warn(f"counting the rows of {path} takes about {seconds:.0f} s")
    return sum(len(chunk.rows) for chunk in read_chunks(seen, wanted))


def _candidate(root: Path) -> str | None:
    """Return the candidate's version, None where there is none; of the figures where they have it: that is cheap."""
    if not (root / paths.MANIFEST).is_file():
        return None
    measured = (_json(root / paths.EVALUATE_METRICS) or {}).get("candidate", {}).get("version")
    return str(measured) if measured else content_version(root / paths.CANDIDATE)


def _changes(root: Path, wanted: params.Params) -> _Changes:
    """Return what DVC sees changed; raises UserError with DVC's own words where it cannot look."""
    found = _Changes()
    corpus = root / wanted.data.path
    try:
        with open_repo(root) as repo:
            plan = plan_repro(get_active_graph(repo.index.graph), collect_stages(repo, ["dvc.yaml"]))
            stages = [stage for stage in plan if not stage.is_data_source]  # the data is what stages read
            made = [Path(out.fs_path) for stage in stages for out in stage.outs]
            changed = {str(out): status for stage in stages for out in stage.outs for status in out.status().values()}
            for stage in stages:
                if not any(dep.hash_info for dep in stage.deps):
                    found.unfinished.append(stage.name)
                    continue
                if stage.changed_stage():
                    found.code.append(f"the command of {stage.name}")
                for dep in [] if stage.frozen else stage.deps:
                    _add(found, stage.name, dep, corpus, made)
    except DvcException as error:
        raise UserError(f"dvc cannot tell what changed: {error}") from None
    for path, status in changed.items():
        # Of a stage that is to run anyway it says nothing more.
        if status in ("deleted", "not in cache"):
            found.missing.append(path)
        elif status == "modified":
            found.by_hand.append(path)
    return found


def _add(found: _Changes, stage: str, dep: Any, corpus: Path, made: list[Path]) -> None:
    """Put what changed of a stage's dependency where it belongs."""
    if isinstance(dep, ParamsDependency):
        then, now = dep.hash_info.value or {}, dep.read_params()
        changed = [key for keys in dep.status().values() for key in keys]
        for key in changed:
            for name, old, new in _differences(key, then.get(key, _ABSENT), now.get(key, _ABSENT)):
                found.params[name] = [None if value is _ABSENT else value for value in (old, new)]
        return
    if not dep.status():
        return
    path = Path(dep.fs_path)
    if _is_same(Path(), path, corpus):
        found.corpus = True
    elif any(path.is_relative_to(output) or output.is_relative_to(path) for output in made):
        if stage not in found.unfinished:
            found.unfinished.append(stage)
    else:
        names = found.code if path.suffix in _CODE else found.files
        if str(dep) not in names:
            names.append(str(dep))


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key with dots, old value, new value) of what differs in sections within sections."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            yield from _differences(f"{key}.{name}", old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif old != new:
        yield key, old, new


def _told(changes: _Changes) -> dict[str, str]:
    """Return a line for each kind of change but the rows."""
    settings = [f"{key} {_value(old)} -> {_value(new)}" for key, (old, new) in changes.params.items()]
    lines = {
        "params": f"params.yaml: {_listed(settings)}",
        "code": f"code changed: {_listed(changes.code)}",
        "files": f"files changed: {_listed(changes.files)}",
    }
    told = {kind: line for kind, line in lines.items() if getattr(changes, kind)}
    if told or changes.corpus:
        return told  # what was not made or is gone will be made on the way
    lines = {
        "unfinished": f"an earlier run ended before {_listed(changes.unfinished)}",
        "missing": f"outputs missing: {_listed(changes.missing)}",
        "by_hand": f"outputs changed by hand: {_listed(changes.by_hand)}",
    }
    return {kind: line for kind, line in lines.items() if getattr(changes, kind)}


def _verdict(root: Path, wanted: params.Params, version: str) -> tuple[bool, str]:
    """Return whether there is a verdict on the candidate that was carried out, and the line that says which."""
    registry = Registry(root, wanted.registry.name)
    entries = [
        entry
        for entry in registry.history()
        if entry.action in ("promote", "force", "refuse") and is_same_version(str(entry.to), version)
    ]
    if entries:
        outcome = entries[-1].why
        if left := registry.rolled_back(version):
            outcome = f"promoted, then rolled back: {left.why}"
        return True, f"nothing new since the verdict of {_local(entries[-1].at)} ({_ending(outcome)})"
    verdict = _json(root / paths.VERDICT) or {}
    if verdict.get("candidate", {}).get("version") != version:
        return False, f"the candidate {short(version)} has no verdict yet"
    if verdict["promoted"]:
        return False, f"the candidate {short(version)} passed on {_local(verdict['at'])} and was not promoted"
    outcome = f"not promoted: {' '.join(verdict['reasons'])}"
    return True, f"nothing new since the verdict of {_local(verdict['at'])} ({_ending(outcome)})"


def _ending(why: str) -> str:
    """Return a sentence as it stands in brackets."""
    line = _line(why).removesuffix(".")
    return line[:1].lower() + line[1:]


def _local(at: str) -> str:
    """Return a time of the registry's, which is UTC, as this machine's clock has it."""
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M}"


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    text = value if isinstance(value, str) and value and not value.split()[1:] else json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


def _json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file that a stage wrote; None where it is not there or half of one."""
    try:
        found = storage.read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def main() -> None:
    """Say why a run would start now, or why not."""
    parser = arg_parser(no="nothing new")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    wanted = parser.parse_args()
    found = find_reason()
    if wanted.json:
        echo_json(asdict(found))
    else:
        echo(found.sentence)
    if not found.run:
        sys.exit(NO)


if __name__ == "__main__":
    run(main)
