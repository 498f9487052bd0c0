"""A training's progress as two artifacts of the current task, updated while it runs."""

import contextvars
import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.runtime import flow_run, task_run

from pipeline import params, paths
from pipeline.command import UserError
from pipeline.training.progress import TrainingProgress, read_progress

_UPDATE_SECONDS = 5.0
_LAST_UPDATE_SECONDS = 2.0  # a cancelled run must not wait longer for a server that is away
_UNKNOWN = "\N{EN DASH}"


class ProgressArtifacts:
    """A progress artifact and a Markdown artifact that follow `paths.TRAINING_PROGRESS`; a context manager.

    A thread of its own reads the file and talks to the server, so that a server that is slow or away does not delay
    the training. A task without a training gets no artifacts.
    """

    def __init__(self, log: Callable[[str], None], update_seconds: float = _UPDATE_SECONDS) -> None:
        """Take the time from which on the file counts.

        Args:
            log: Called once if the server does not accept an update; later updates are sent all the same.
            update_seconds: The time between two updates.
        """
        self._log, self._update_seconds = log, update_seconds
        self._since = time.time()
        self._sent: TrainingProgress | None = None
        self._artifact_ids: list[UUID] = []
        self._has_warned = False
        self._ended = threading.Event()
        context = contextvars.copy_context()  # the task's, to which the artifacts belong
        self._thread = threading.Thread(target=context.run, args=(self._follow,), daemon=True)

    def __enter__(self) -> "ProgressArtifacts":
        """Follow the file from now on."""
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Send the last state, waiting for at most two seconds."""
        self._ended.set()
        self._thread.join(_LAST_UPDATE_SECONDS)

    def _follow(self) -> None:
        while True:
            has_ended = self._ended.wait(self._update_seconds)
            try:
                progress = read_progress(paths.TRAINING_PROGRESS, self._since)
                if progress is not None and progress != self._sent:
                    with get_client(sync_client=True) as client:
                        self._send(client, progress)
            except Exception as error:  # the training continues without its artifacts, whatever went wrong
                if not self._has_warned:
                    self._log(f"the training's progress was not sent to Prefect's server: {type(error).__name__}")
                self._has_warned = True
            if has_ended:
                return

    def _send(self, client: SyncPrefectClient, progress: TrainingProgress) -> None:
        """Create both artifacts, or update them if they exist."""
        contents: list[tuple[str, str, str, Any]] = [
            ("progress", "training-progress", "Share of the steps done", 100 * progress.step / progress.steps),
            ("markdown", "training-live", "Loss, speed and time left", _markdown(progress)),
        ]
        for number, (kind, key, description, data) in enumerate(contents):
            if number < len(self._artifact_ids):
                client.update_artifact(self._artifact_ids[number], ArtifactUpdate(data=data))
            else:
                artifact = ArtifactCreate(
                    type=kind,
                    key=key,
                    description=description,
                    data=data,
                    task_run_id=UUID(task_run.id),
                    flow_run_id=UUID(flow_run.id),
                )
                self._artifact_ids.append(client.create_artifact(artifact).id)
        self._sent = progress


def _markdown(progress: TrainingProgress) -> str:
    speed = f"{progress.steps_per_second:.2f} steps per second"
    if tokens := _tokens_per_step(progress.steps):
        speed = f"{tokens * progress.steps_per_second:,.0f} tokens per second ({speed})"
    rows = [
        ("step", f"{progress.step:,} of {progress.steps:,}"),
        ("loss, nats", _number(progress.loss)),
        ("speed", speed),
        ("time left", f"at most {_duration(progress.seconds_left)}"),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    epochs = [f"- epoch {one.epoch}: validation loss {_number(one.validation_loss)}" for one in progress.epochs]
    return "\n\n".join([table, "\n".join(epochs)]).strip() + "\n"


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.4f}"


def _tokens_per_step(steps: int) -> float | None:
    """Return how many tokens, without padding, a step has on average; None if that is unknown."""
    try:
        budget = json.loads(paths.TOKEN_BUDGET.read_text(encoding="utf-8"))
        kept: int = budget["splits"]["train"]["kept"]
        return params.load().finetune.epochs * kept / steps
    except (UserError, OSError, ValueError, KeyError, ZeroDivisionError):
        return None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
