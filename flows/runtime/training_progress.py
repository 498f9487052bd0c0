"""A training's progress as two artifacts of the current task, updated while it runs."""

import contextvars
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.runtime import flow_run, task_run

from pipeline import params, paths
from pipeline.command import UserError

_UPDATE_SECONDS = 5.0
_LAST_UPDATE_SECONDS = 2.0  # a cancelled run must not wait longer for a server that is away
# The bar that tqdm draws for `pipeline.finetune`; the bar of a validation has no loss.
_BAR = re.compile(
    r"(?P<step>\d+)/(?P<steps>\d+) \[(?:\d+:)?\d+:\d+<(?P<left>\?|(?:\d+:)?\d+:\d+),"
    r"\s*(?P<rate>[\d.]+)(?P<unit>it/s|s/it), loss=(?P<loss>[^,\]\s]+)\]"
)
_EPOCH = re.compile(r"epoch \d+: validation loss \S+ perplexity \S+")


@dataclass(frozen=True)
class TrainingState:
    """How far a training is.

    Args:
        step: Steps done.
        steps: Steps in all.
        seconds_left: At most, for early stopping may end it before; None if it is not known yet.
        steps_per_second: The speed.
        loss: In nats per token.
    """

    step: int
    steps: int
    seconds_left: float | None
    steps_per_second: float
    loss: float


def parse_bar(line: str) -> TrainingState | None:
    """Return what the training's progress bar says; None for any other line."""
    matches = list(_BAR.finditer(line))
    if not matches:
        return None
    match = matches[-1]  # a line may hold two states of the bar
    try:
        rate, loss = float(match["rate"]), float(match["loss"])
    except ValueError:
        return None
    seconds_left = None
    if match["left"] != "?":
        seconds_left = 0.0
        for part in match["left"].split(":"):
            seconds_left = 60 * seconds_left + int(part)
    steps_per_second = rate if match["unit"] == "it/s" else 1 / rate if rate else 0.0
    return TrainingState(int(match["step"]), int(match["steps"]), seconds_left, steps_per_second, loss)


class TrainingProgress:
    """A progress artifact and a Markdown artifact that follow the output of a training; a context manager.

    A thread of its own talks to the server, so that a server that is slow or away does not delay the training.
    """

    def __init__(self, log: Callable[[str], None], update_seconds: float = _UPDATE_SECONDS) -> None:
        """Do nothing until the first line of a training.

        Args:
            log: Called once if the server does not accept an update; later updates are sent all the same.
            update_seconds: The least time between two updates.
        """
        self._log, self._update_seconds = log, update_seconds
        self._context = contextvars.copy_context()  # the task's, to which the artifacts belong
        self._latest: TrainingState | None = None
        self._epochs: list[str] = []
        self._changed, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._has_warned = False

    def __enter__(self) -> "TrainingProgress":
        """Return itself."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Send the last state, waiting for at most two seconds."""
        self._ended.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join(_LAST_UPDATE_SECONDS)

    def line(self, text: str) -> None:
        """Take a line of the output; lines that are neither the bar nor an epoch's result are ignored."""
        if epoch := _EPOCH.search(text):
            self._epochs.append(epoch[0])
        if (state := parse_bar(text)) is None:
            return
        self._latest = state
        self._changed.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._context.run, args=(self._send_updates,), daemon=True)
            self._thread.start()

    def _send_updates(self) -> None:
        artifact_ids: list[UUID] = []
        while True:
            self._changed.wait()
            self._changed.clear()
            is_last = self._ended.is_set()
            try:
                with get_client(sync_client=True) as client:
                    self._send(client, artifact_ids)
            except Exception as error:  # the training continues without its artifacts, whatever went wrong
                if not self._has_warned:
                    self._log(f"the training's progress was not sent to Prefect's server: {type(error).__name__}")
                self._has_warned = True
            if is_last:
                return
            self._ended.wait(self._update_seconds)

    def _send(self, client: SyncPrefectClient, artifact_ids: list[UUID]) -> None:
        """Create both artifacts, or update them where their ids are in `artifact_ids`."""
        state = self._latest
        assert state is not None
        contents: list[tuple[str, str, str, Any]] = [
            ("progress", "training-progress", "Share of the steps done", 100 * state.step / state.steps),
            ("markdown", "training-live", "Loss, speed and time left", self._markdown(state)),
        ]
        for number, (kind, key, description, data) in enumerate(contents):
            if number < len(artifact_ids):
                client.update_artifact(artifact_ids[number], ArtifactUpdate(data=data))
            else:
                artifact = ArtifactCreate(
                    type=kind,
                    key=key,
                    description=description,
                    data=data,
                    task_run_id=UUID(task_run.id),
                    flow_run_id=UUID(flow_run.id),
                )
                artifact_ids.append(client.create_artifact(artifact).id)

    def _markdown(self, state: TrainingState) -> str:
        speed = f"{state.steps_per_second:.2f} steps per second"
        if tokens := _tokens_per_step(state.steps):
            speed = f"{tokens * state.steps_per_second:,.0f} tokens per second ({speed})"
        unknown = "\N{EN DASH}"
        rows = [
            ("step", f"{state.step:,} of {state.steps:,}"),
            ("loss, nats per token", f"{state.loss:.3f}"),
            ("speed", speed),
            ("time left", unknown if state.seconds_left is None else f"at most {_duration(state.seconds_left)}"),
        ]
        table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
        return "\n\n".join([table, "\n".join(f"- {epoch}" for epoch in self._epochs)]).strip() + "\n"


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
