"""The current flow run: its name, which says why it runs, and the addresses of its pages in the UI."""

from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from pipeline import escape

_MAX_NAME = 100  # characters; about as many as the UI's lists show


def run_name(reason: str) -> str:
    """Return `reason` as a run's name: one line of at most 100 characters that can be sent as JSON."""
    line = " ".join(escape.visible(reason).split())
    return line if len(line) <= _MAX_NAME else line[: _MAX_NAME - 1] + "…"


def rename(reason: str) -> None:
    """Rename the current run to `run_name(reason)`; log a warning if the server does not answer."""
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), name=run_name(reason))
    except httpx.HTTPError as error:
        get_run_logger().warning("the run was not renamed: %s", type(error).__name__)


def run_url(run_id: str) -> str:
    """Return the address of a run's page in the UI."""
    return f"{_ui()}/runs/flow-run/{run_id}"


def artifact_url(artifact_id: object) -> str:
    """Return the address of an artifact's page in the UI."""
    return f"{_ui()}/artifacts/artifact/{artifact_id}"


def _ui() -> str:
    return str(PREFECT_UI_URL.value()).rstrip("/")
