"""The registry of tasks: one line each."""

from importlib import import_module
from typing import Any, cast

from pipeline.param_types import Section
from pipeline.tasks.protocol import Task

# `task` in params.yaml -> the module whose TASK it is, imported when it is needed.
_MODULES = {
    "causal_lm": "pipeline.tasks.causal_lm",
    "classify": "pipeline.tasks.classify",
    "seq2seq": "pipeline.tasks.seq2seq",
    "masked_lm": "pipeline.tasks.masked_lm",
    "rank": "pipeline.tasks.rank",
}
NAMES = tuple(_MODULES)


def task_class(name: str) -> type[Any]:
    """Return the class of the task called `name` in params.yaml."""
    return type(import_module(_MODULES[name]).TASK)


def get_task(name: str, config: Section | None = None) -> Task:
    """Return the task called `name` in params.yaml; `config` is its section there, by default the defaults."""
    return cast(Task, task_class(name)(*([] if config is None else [config])))
