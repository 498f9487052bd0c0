"""Overrides of `params.yaml` for one run, written into the file, which DVC and the stages read.

Before the file is touched, its bytes are saved in `registry/overrides/`, from which a run restores them if an earlier
one was killed. What a person edits in the file meanwhile stays: then only the overrides are removed.
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
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline import params, paths, storage
from pipeline.command import UserError

FOLDER = paths.REGISTRY / "overrides"
_MISSING = object()


@contextmanager
def applied_overrides(root: Path, changes: Mapping[str, Any], log: Callable[[str], None]) -> Iterator[None]:
    """Apply `changes` to `params.yaml` in this block, after restoring what a killed run left.

    Needs the claim on the workspace.

    Args:
        root: The project's root.
        changes: Values by dotted key ("finetune.epochs"), or nested sections.
        log: Called with a sentence if the file does not get its original bytes back.

    Raises:
        UserError: The changed file is invalid, with all problems; the file is untouched then.
    """
    restore(root, log)
    if not changes:
        yield
        return
    path = (root / paths.PARAMS).resolve()  # of a link, the target changes
    before = path.read_bytes()
    params.load(root / paths.PARAMS)  # problems of the file itself are reported under its own name
    values = dict(flatten(changes))
    during = _edited(before, values)
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
    storage.fsync(folder.parent)
    try:
        _replace(path, during)
        yield
    finally:
        restore(root, log)


def restore(root: Path, log: Callable[[str], None]) -> None:
    """Remove the overrides that `registry/overrides/` describes from `params.yaml`; idempotent."""
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
            _replace(path, _without_overrides(now, before, overrides))
            log("params.yaml was edited during a run with overrides: the edit stays, the overrides are removed")
        except (YAMLError, UnicodeDecodeError):
            kept = folder.with_suffix(".kept")
            _write(kept, before)
            log(
                f"params.yaml was edited during a run with overrides ({', '.join(overrides)}) and is not valid YAML "
                f"now: it is left as it is, and its content before the run is in {kept.relative_to(root)}"
            )
    storage.temporary_path(path).unlink(missing_ok=True)
    done = folder.with_suffix(".unfinished")  # renamed before it is deleted, so that a kill leaves no half of it
    shutil.rmtree(done, ignore_errors=True)
    folder.rename(done)
    shutil.rmtree(done)


def flatten(changes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for each value within nested sections."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _Representer(RoundTripRepresenter):
    """Writes null as params.yaml does; by default ruamel.yaml leaves the value out."""


_Representer.add_representer(type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null"))


def _yaml() -> YAML:
    """Return a YAML reader and writer that keeps comments, quotes, long lines and the project's indentation."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _edited(text: bytes, values: Mapping[str, Any]) -> bytes:
    """Return the YAML with these values; a key that does not exist is added, so that the check names it."""
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
    output = io.BytesIO()
    _yaml().dump(content, output)
    return output.getvalue()


def _without_overrides(now: bytes, before: bytes, overrides: Mapping[str, Any]) -> bytes:
    """Return `now` with the earlier value of each override that it still has."""
    current, earlier = _yaml().load(now.decode()), _yaml().load(before.decode())
    remaining = {key: _value(earlier, key) for key, value in overrides.items() if _value(current, key) == value}
    return _edited(now, remaining) if remaining else now


def _value(content: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return _MISSING
        content = content[part]
    return content


def _replace(path: Path, content: bytes) -> None:
    """Replace the file atomically, keeping its mode; its link stays, for `path` is resolved."""
    mode = path.stat().st_mode & 0o7777 if path.exists() else None
    storage.write_atomic(path, content, mode)


def _write(path: Path, content: bytes) -> None:
    with storage.create_new(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
