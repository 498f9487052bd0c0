"""Tasks: the one place where kinds of model differ for the service.

A task is a module here, of the same name as in `pipeline/tasks/`: how its models are loaded and tested, its routes, its
words in the specification, and its page. What all tasks share is in `serving/app.py`.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from serving import task_json
from serving.engines.protocol import EngineT
from serving.model_loader import ModelKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastapi import APIRouter
    from fastapi.responses import HTMLResponse

    from pipeline.params import Service
    from serving.served_model import ServedModel
    from serving.settings import EngineSettings

# `task` in params.yaml -> the module whose TASK it is, imported when it is needed.
_MODULES = {
    "causal_lm": "serving.tasks.causal_lm",
    "classify": "serving.tasks.classify",
    "rank": "serving.tasks.rank",
    "seq2seq": "serving.tasks.seq2seq",
    "masked_lm": "serving.tasks.masked_lm",
}


class ServingTask(Protocol[EngineT]):
    """What the service needs to know of a kind of model.

    A task whose models take LoRA adapters also has `adapt`: see `CausalLM.adapt`.
    """

    service_name: str  # of the BentoML service, and so of its bentos: lower case and underscores
    title: str  # of the specification, and so of Swagger's page
    description: str  # of the service, in one sentence
    tag: tuple[str, str]  # of the routes in the specification: its name and description
    ability: str  # what a loaded model can do: generate
    routes: tuple[str, ...]  # the paths that people are told; all take POST
    other_routes: tuple[str, ...]  # further paths

    def unsuitable_reason(self, folder: Path) -> str:
        """Return why the task cannot use the model in `folder`, as the end of a sentence; empty where it can.

        It reads no weights. That `task.json` names this task has been checked.
        """

    def make_engine(self, folder: Path, settings: EngineSettings) -> EngineT:
        """Return an engine with the model in `folder`; raises EngineError, or what its libraries raise."""

    async def smoke_test(self, engine: EngineT) -> None:
        """Raise RefusedError, or EngineError, unless a loaded model answers plausibly."""

    def routers(self, served: ServedModel[EngineT], settings: Service) -> Sequence[APIRouter]:
        """Return the task's own routes, which answer with `served`."""

    def page(self, settings: Service) -> HTMLResponse:
        """Return the playground."""


def get_task(name: str) -> ServingTask[Any]:
    """Return the task called `name` in params.yaml."""
    return cast(ServingTask[Any], import_module(_MODULES[name]).TASK)


def model_kind(name: str, settings: EngineSettings) -> ModelKind[Any]:
    """Return how models of the task called `name` are recognised, loaded and tested."""
    task = get_task(name)
    return ModelKind(
        unsuitable_reason=partial(unsuitable_reason, name),
        make_engine=lambda folder: task.make_engine(folder, settings),
        smoke_test=task.smoke_test,
        adapt=partial(adapt, settings=settings) if (adapt := getattr(task, "adapt", None)) else None,
    )


def unsuitable_reason(name: str, folder: Path) -> str:
    """Return why the model in `folder` cannot serve for a task, as the end of a sentence; empty where it can."""
    return task_json.unsuitable_reason(folder, name) or get_task(name).unsuitable_reason(folder)


def routes_of_other_tasks(name: str) -> list[str]:
    """Return the paths that other tasks have and the one called `name` has not."""
    tasks = {other: get_task(other) for other in _MODULES}
    paths = {other: {*task.routes, *task.other_routes} for other, task in tasks.items()}
    return sorted(set().union(*paths.values()) - paths[name])
