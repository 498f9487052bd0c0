"""`task.json` in a model's folder: which task the model is for, and how its figures become answers."""

from pathlib import Path
from typing import Any

from pipeline import paths, storage

NAME = "task.json"
_FIRST_TASK = "causal_lm"  # its models, which this project made before there was a choice, have no such file


def read(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's task.json, empty where it has none; raises ValueError where it is damaged."""
    try:
        content = storage.read_json(folder / NAME)
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{NAME} holds no JSON object")
    return content


def exists(folder: Path) -> bool:
    """Return whether a folder has a task.json."""
    return (folder / NAME).is_file()


def unsuitable_reason(folder: Path, task: str) -> str:
    """Return why the model in `folder` is none of `task`, as the end of a sentence; empty where nothing says so."""
    try:
        content = read(folder)
    except (OSError, ValueError):
        return f"has a {NAME} that cannot be read; make the model again, or restore the file"
    made_here = (folder / paths.MANIFEST.name).is_file()  # a model from the hub has neither file
    recorded = content.get("task", _FIRST_TASK if made_here else task)
    if recorded == task:
        return ""
    return f"holds a model of the task {recorded}, while this project's task is {task} (`task` in params.yaml)"
