"""What `fresh registry` prints: each function returns the content for `--json`, and the text for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import escape, paths, storage
from pipeline.command import UserError, warn
from pipeline.registry.history import MOVES, Entry
from pipeline.registry.model_version import model_files, sha256, short
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from pipeline.reporting.text_table import table, wrap

_LISTED = ("perplexity", "bits_per_byte")  # the figures in the table of `list`; --json has all


Shown = tuple[object, str]  # the content for --json, the text for a terminal


def versions(registry: Registry) -> Shown:
    """List the versions, and which of them is the champion."""
    champion, damage = None, None
    try:
        champion = registry.champion()
    except UserError as error:
        damage = str(error)
        warn(f"warning: {damage}")
    readable = {version.tag: version for version in registry.versions()}
    last_move = {str(entry.to): entry for entry in registry.history() if entry.action in MOVES}
    all_figures = _figures_by_tag(registry)
    listed: list[dict[str, Any]] = []
    rows = [["version", "state", "added (UTC)", "champion since", "figures"]]
    for tag in sorted(registry.tags(), key=lambda tag: readable[tag].created if tag in readable else "")[::-1]:
        row: dict[str, Any] = {
            "tag": tag,
            "state": "champion" if champion and champion.tag == tag else registry.check(tag) or "whole",
            "created": readable[tag].created if tag in readable else None,
            "champion_since": last_move[tag].at if tag in last_move else None,
        }
        figures = all_figures.get(tag, {})
        listed.append({**row, "figures": figures, "labels": readable[tag].labels if tag in readable else {}})
        rows.append(
            [
                short(tag),
                str(row["state"]),
                *(_to_minute(row[key]) for key in ("created", "champion_since")),
                ", ".join(f"{key.replace('_', ' ')} {_cell(figures[key])}" for key in _LISTED if key in figures),
            ]
        )
    empty = "no versions yet; `fresh promote` makes the first"
    content = {"champion": champion.tag if champion else None, "damage": damage, "versions": listed}
    return content, table(rows) if listed else empty


def version(registry: Registry, name: str) -> Shown:
    """Show everything recorded about a version."""
    version = registry.get(name)
    damage = registry.check(version.tag)
    entries = [entry for entry in registry.history() if version.tag in (entry.from_, entry.to)]
    content = {
        **asdict(version),
        "folder": str(version.folder),
        "state": damage or "whole",
        "files": _file_sizes(version),
        "history": [entry.as_json() for entry in entries],
    }
    rows = [[key, _cell(value)] for key, value in flatten({**content, "history": {}}).items()]
    return content, "\n\n".join([table(rows), _history_table(entries)])


def difference(registry: Registry, a: str, b: str) -> Shown:
    """Show what differs between two versions: settings, figures, labels, files, data."""
    old, new = registry.get(a), registry.get(b)
    before, after = (flatten(_facts(registry, version)) for version in (old, new))
    keys = dict.fromkeys([*before, *after])
    differences = {key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)}
    data, data_problem, text = _data_diff(old, new)
    rows = [["", short(old.tag), short(new.tag)], *([key, *map(_cell, both)] for key, both in differences.items())]
    content = {"a": old.tag, "b": new.tag, "differences": differences, "data": data, "data_why_not": data_problem}
    return content, f"{table(rows)}\n\n{text or f'data: {data_problem}'}"


def rollback(registry: Registry, name: str | None, why: str) -> Shown:
    """Make an earlier version the champion again."""
    entry = registry.rollback(name, why)
    before = short(entry.from_) if entry.from_ else "a damaged pointer"
    return entry.as_json(), escape.terminal(f"the champion is {short(str(entry.to))}, after {before}: {entry.why}")


def delete(registry: Registry, name: str) -> Shown:
    """Delete a version."""
    registry.delete(name)
    entry = registry.history()[-1]
    return entry.as_json(), escape.terminal(f"deleted {short(str(entry.from_))}: {entry.why}")


def prune(registry: Registry) -> Shown:
    """Delete the versions that are not among the last champions."""
    tags = registry.prune()
    entries = registry.history()[-len(tags) :] if tags else []
    lines = [f"deleted {short(str(entry.from_))}: {entry.why}" for entry in entries]
    return tags, "\n".join(lines) or "nothing to delete: each version is among the last champions"


def forget(registry: Registry, folder: Path) -> Shown:
    """Release the versions of a project whose folder is gone for good."""
    tags = registry.forget(folder)
    lines = [f"forgot the project that was in {folder}"]
    lines += [f"nobody uses {tag} now; `bentoml models delete {tag}` frees its space" for tag in tags]
    return tags, "\n".join(lines)


def history(registry: Registry) -> Shown:
    """Show every promotion, refusal, rollback and deletion."""
    entries = registry.history()
    return [entry.as_json() for entry in entries], _history_table(entries) if entries else "nothing has happened yet"


def verify(registry: Registry, name: str) -> Shown:
    """Read every byte of a version; raises UserError with the first damaged file."""
    registry.verify(name)
    tag = registry.get(name).tag
    return {"tag": tag, "state": "whole"}, f"{short(tag)} is whole"


def _figures_by_tag(registry: Registry) -> dict[str, dict[str, float | str | None]]:
    """Return for each tag the figures of its last verdict; a rollback has none."""
    return {str(entry.to): entry.figures for entry in registry.history() if entry.action in MOVES and entry.figures}


def _facts(registry: Registry, version: Version) -> dict[str, Any]:
    """Return everything in which two versions may differ."""
    path = version.folder / paths.MANIFEST.name
    try:
        manifest = storage.read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}); add the same model again, or compare other versions") from None
    return {
        "labels": version.labels,
        "figures": _figures_by_tag(registry).get(version.tag, {}),
        "metadata": version.metadata,
        "manifest": manifest,
        "files": {
            name: f"{size:,} bytes, SHA-256 {sha256(version.folder / name)[:8]}…"
            for name, size in _file_sizes(version).items()
        },
    }


def _file_sizes(version: Version) -> dict[str, int]:
    return {name: (version.folder / name).stat().st_size for name in model_files(version.folder)}


def _data_diff(old: Version, new: Version) -> tuple[dict[str, Any] | None, str | None, str]:
    """Return what changed in the data, as JSON and as a table, or why that is unknown."""
    # Imported here: DuckDB, Arrow and SciPy take a second to import, and no other command needs them.
    from pipeline.data_diff import render
    from pipeline.data_diff.compare import diff
    from pipeline.data_diff.resolve import clean_data_file

    try:
        with clean_data_file(str(old.folder)) as before, clean_data_file(str(new.folder)) as after:
            result = diff(before, after, names=(old.tag, new.tag))
    except UserError as error:
        return None, str(error), ""
    return result.as_json(), None, render.table(result)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under keys like `params.finetune.epochs`."""
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= flatten(part, f"{prefix}{key}.") if isinstance(part, Mapping) else {f"{prefix}{key}": part}
    return flat


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)


def _history_table(entries: Sequence[Entry]) -> str:
    lines = []
    for entry in entries:
        tags = " -> ".join(short(tag) for tag in (entry.from_, entry.to) if tag)
        lines.append(f"{entry.serial:<3} {_to_minute(entry.at)} UTC  {entry.action:<8}  {tags}".rstrip())
        lines.append(wrap(f"{entry.who}: {entry.why}", "    ", "    "))
    return "\n".join(lines)


def _to_minute(at: object) -> str:
    """Return a UTC time of ISO 8601 to the minute; empty for None."""
    return str(at)[:16].replace("T", " ") if at else ""
