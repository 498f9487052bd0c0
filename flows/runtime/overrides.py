"""Overrides of `params.yaml` for one run: written into the file, which DVC and the stages read, and taken out again.

Before the file is touched, its bytes lie in `registry/overrides/`, so that a run that was killed leaves what the next
one needs to put it back. What a person changes in the file meanwhile stays: then only the overrides are taken out.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import params, paths, storage
from pipeline.command import UserError

FOLDER = paths.REGISTRY / "overrides"
_MISSING = object()


@contextmanager
def applied_overrides(root: Path, changes: Mapping[str, Any], say: Callable[[str], None]) -> Iterator[None]:
    """Hold `params.yaml` with `changes` (key → value, "finetune.epochs" or sections within sections), then put it back.

    Needs the claim on the workspace. First puts back what a killed run left. `say` gets a sentence where something
    other than the original bytes was put back. Raises UserError with every problem of the changed file at once, and
    leaves it untouched then.
    """
    restore(root, say)
    if not changes:
        yield
        return
    path = (root / paths.PARAMS).resolve()  # where it is a link, what it links to is changed
    before = path.read_bytes()
    params.load(root / paths.PARAMS)  # its own problems under its own name
    values = dict(flatten(changes))
    during = _changed(before, values)
    folder = root / FOLDER
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, content in {"before": before, "during": during, "changes": json.dumps(values).encode()}.items():
        _write(unfinished / name, content)
    try:
        params.load(unfinished / "during", root)
    except UserError as error:
        shutil.rmtree(unfinished)
        raise UserError(str(error).replace(str(unfinished / "during"), "with the overrides, params.yaml")) from None
    unfinished.rename(folder)
    _sync(folder.parent)
    try:
        _replace(path, during)
        yield
    finally:
        restore(root, say)


def restore(root: Path, say: Callable[[str], None]) -> None:
    """Take the overrides that `registry/overrides/` tells of out of `params.yaml`; nothing where there are none."""
    folder = root / FOLDER
    if not folder.exists():
        return
    path = (root / paths.PARAMS).resolve()
    before, during = (folder / "before").read_bytes(), (folder / "during").read_bytes()
    overrides = json.loads((folder / "changes").read_text(encoding="utf-8"))
    now = path.read_bytes() if path.exists() else during
    if now == during:
        _replace(path, before)
    elif now != before:
        try:
            _replace(path, _taken_out(now, before, overrides))
            say("params.yaml was changed during a run with overrides: the change stays, the overrides are taken out")
        except (YAMLError, UnicodeDecodeError):
            kept = folder.with_suffix(".kept")
            _write(kept, before)
            say(
                f"params.yaml was changed during a run with overrides ({', '.join(overrides)}) and is not readable as"
                f" YAML now: it is left as it is, and what it was before the run is in {kept.relative_to(root)}"
            )
    storage.temporary_path(path).unlink(missing_ok=True)
    done = folder.with_suffix(".unfinished")  # renamed first: a kill in the middle must not leave half of it
    shutil.rmtree(done, ignore_errors=True)
    folder.rename(done)
    shutil.rmtree(done)


def flatten(changes: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key with dots, value) of sections within sections."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{within}{key}.")
        else:
            yield f"{within}{key}", value


def _yaml() -> YAML:
    """Return a reader and writer that keeps comments, quotes and long lines, and the project's own indentation."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _changed(text: bytes, values: Mapping[str, Any]) -> bytes:
    """Return the YAML with other values; a key that is not there is added, for the check to name it."""
    content = _yaml().load(text)
    for key, value in values.items():
        *sections, last = key.split(".")
        section = content
        for part in sections:
            if not isinstance(section.get(part), dict):
                section[part] = {}
            section = section[part]
        if value is _MISSING:
            del section[last]
        else:
            section[last] = value
    out = io.BytesIO()
    _yaml().dump(content, out)
    return out.getvalue()


def _taken_out(now: bytes, before: bytes, overrides: Mapping[str, Any]) -> bytes:
    """Return `now` with the earlier value of each override that is still in it."""
    present, earlier = _yaml().load(now.decode()), _yaml().load(before.decode())
    still = {key: _value(earlier, key) for key, value in overrides.items() if _value(present, key) == value}
    return _changed(now, still) if still else now


def _value(content: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return _MISSING
        content = content[part]
    return content


def _replace(path: Path, content: bytes) -> None:
    """Write the whole file or nothing of it, with the mode it had."""
    beside = storage.temporary_path(path)
    _write(beside, content)
    if path.exists():
        shutil.copymode(path, beside)
    beside.replace(path)
    _sync(path.parent)


def _write(path: Path, content: bytes) -> None:
    with storage.create_new(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
