"""What every run of this project's flows has: a name that says why it runs, and a log without Prefect's tracebacks."""

import logging
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import FailedRun
from prefect.logging import get_run_logger
from prefect.logging.loggers import get_logger
from prefect.runtime import flow_run

from pipeline import escape

_LONGEST = 100  # characters of a name; lists of runs show about as many


def run_title(reason: str) -> str:
    """Return a reason as a run's name: one line of bounded length that can be sent as JSON, whatever is in it."""
    line = " ".join(escape.visible(reason).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def rename(reason: str) -> None:
    """Give the current run the name `title(reason)`; a server that does not answer is a line in its log."""
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), name=run_title(reason))
    except httpx.HTTPError as error:
        get_run_logger().warning("the run keeps its name: %s", type(error).__name__)


def end_without_traceback() -> None:
    """Let this process log no traceback for a run that ends as Failed with its sentence.

    Prefect's engine raises such a state once the flow has returned it, and logs where in the engine it did so. The
    sentence itself is logged with the state. Exceptions that a flow did not expect are logged as before.
    """
    for name in ("engine", "flow_runs"):
        get_logger(name).addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], FailedRun)
