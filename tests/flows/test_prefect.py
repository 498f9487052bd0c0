"""Prefect, as pinned here, works: its server starts and a schedule really fires.

With other versions of fastapi the server does not start, and with SQLAlchemy 2.1 it looks healthy while its scheduler
creates no run at all; nothing but a schedule that is waited for notices that.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.integration

FLOW = """
from prefect import flow

@flow
def tick() -> None:
    print("tick")

if __name__ == "__main__":
    tick.serve(name="every-15-seconds", interval=15)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start a Prefect server of its own; return the environment in which its clients run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        log.close()


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    """Return whether `happened` within that time; an API that does not answer yet has not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if happened():
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    return False


def test_a_short_schedule_fires(server: dict[str, str], tmp_path: Path) -> None:
    api = server["PREFECT_API_URL"]
    assert within(90, lambda: httpx.get(f"{api}/health").status_code == 200), (tmp_path / "server.log").read_text()
    (tmp_path / "tick.py").write_text(FLOW)
    log = (tmp_path / "tick.log").open("w")
    serving = subprocess.Popen(
        [sys.executable, "tick.py"], cwd=tmp_path, env=server, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    completed = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    try:
        assert within(120, lambda: len(httpx.post(f"{api}/flow_runs/filter", json=completed).json()) >= 1), (
            tmp_path / "tick.log"
        ).read_text() + (tmp_path / "server.log").read_text()
    finally:
        os.killpg(serving.pid, signal.SIGTERM)
        serving.wait(30)
        log.close()
