"""The tiny random GPT-2 behind the service: in process, from a checkout, and as a real server."""

import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import OF_THE_SERVICE

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from pipeline.params import Service
    from serving.settings import EngineSettings

REPOSITORY = Path(__file__).parents[2]
CONTEXT = 64  # of `tiny_gpt2`
DATA = "0" * 64
PROMPT = "Once upon a time"

os.environ["BENTOML_DO_NOT_TRACK"] = "True"  # it asks once
os.environ["ENGINES_DIR"] = tempfile.mkdtemp(prefix="engines-")  # a check that was made once is not made again
atexit.register(shutil.rmtree, os.environ["ENGINES_DIR"])


def service_settings(**changes: Any) -> "Service":
    """Return the settings of params.yaml, changed."""
    from serving import settings

    return settings.load(REPOSITORY).model_copy(update=changes)


def engine_settings(name: str, **changes: Any) -> "EngineSettings":
    """Return the settings of the engine `name`, with what the environment says."""
    from serving import settings

    return replace(settings.engine_settings(service_settings(engine=name), REPOSITORY), **changes)


@pytest.fixture(scope="session")
def model(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random GPT-2, as a candidate: with a manifest."""
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path_factory.mktemp("model") / "candidate"))
    (folder / "manifest.json").write_text(json.dumps({"data": DATA}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def client(model: Path) -> "Iterator[TestClient]":
    """The whole service in process, BentoML's part included, with the tiny model loaded."""
    os.environ["MODEL_DIR"] = str(model)
    from starlette.testclient import TestClient

    import service

    the_service: Any = service.ModelService
    local = "http://localhost"  # without API keys it answers to no other name
    with TestClient(the_service.to_asgi(), local, raise_server_exceptions=False, follow_redirects=False) as client:
        for _ in range(3000):
            if "model_loading" not in (health := client.get("/health")).text:
                break
            time.sleep(0.1)
        assert health.status_code == 200, health.text
        yield client
    del os.environ["MODEL_DIR"]


@pytest.fixture
def checkout(tmp_path: Path, model: Path) -> Path:
    """A copy of what serving needs of the checkout, with the tiny model as its candidate, which it serves."""
    folder = tmp_path / "checkout"
    for name in ("serving", "pipeline"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("service.py", "bentofile.yaml", "params.yaml", "constraints.txt", "requirements.lock"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(model, folder / "models" / "candidate")
    set_serve_candidate(folder, True)
    return folder


def set_serve_candidate(folder: Path, value: bool) -> None:
    """Set `service.serve_candidate` in the params.yaml of `folder`."""
    params = folder / "params.yaml"
    content = params.read_text(encoding="utf-8")
    content, count = re.subn(r"(?m)^  serve_candidate: \S+", f"  serve_candidate: {str(value).lower()}", content)
    assert count == 1
    params.write_text(content, encoding="utf-8")


def write_verdict(root: Path, version: str, *, promoted: bool, forced: str | None = None) -> None:
    """Write what the service reads of a verdict on the candidate."""
    content = {
        "promoted": promoted or forced is not None,
        "forced": forced,
        "reasons": ["Better than the base."] if promoted else ["It loops: 25 % of its texts.", "It copies.", "Third."],
        "candidate": {"version": version, "perplexity": 9.4},
        "difference": {"gain": 0.1},
        "at": "2026-01-02T03:04:05+00:00",
    }
    path = root / "reports" / "promote" / "verdict.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what these tests set in it."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_THE_SERVICE}
    return {**kept, **more}


def bentoml(*arguments: str, cwd: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run `bentoml` to its end."""
    command = [sys.executable, "-m", "bentoml", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=600, check=False
    )


@dataclass
class Server:
    """A running `bentoml serve`."""

    url: str
    log: Path
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/generate", json=body, timeout=300)


@contextmanager
def serving(
    target: str, cwd: Path, ready: str = "/readyz", options: tuple[str, ...] = (), **more: str
) -> Iterator[Server]:
    """Run `bentoml serve` on a free port until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port), *options]
    with (cwd / "server.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=cwd, env=environment(**more), stdout=log, stderr=subprocess.STDOUT)
        server = Server(f"http://127.0.0.1:{port}", cwd / "server.log", process.pid)
        try:
            _wait(server, ready, process)
            yield server
        finally:
            process.terminate()
            process.wait(300)


def _wait(server: Server, ready: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(1200):
        assert process.poll() is None, server.log.read_text(encoding="utf-8")
        try:
            if httpx.get(server.url + ready).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.25)
    raise AssertionError(server.log.read_text(encoding="utf-8"))
