"""The servers that `bench.serve` compares, as processes: how each is started, asked for texts and stopped."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import harness, load
from bench.harness import FRESH
from bench.micro_batches import TEMPERATURE, TOP_K, TOP_P
from bench.servers import SERVERS
from pipeline.command import warn

LLAMA = "llama.cpp's server"
LLAMA_SLOTS = 64  # texts at a time
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "BENTOML_DO_NOT_TRACK": "True"}
START_SECONDS = 600.0  # the service checks its engine on a model that it has not seen
STOP_SECONDS = 60.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our own ports


@dataclass(frozen=True)
class Size:
    """How many texts of what length are requested; see `bench.load.Plan`."""

    model: str
    tokens: int
    waves: int
    min_requests: int
    seconds: float


@dataclass(frozen=True)
class Server:
    """How a server is started, and how its API is called."""

    command: Callable[[Path, int], Sequence[str]]  # of the model's folder and a port
    body: Mapping[str, Any] = field(default_factory=dict)  # beside prompt, length, seed and sampling
    path: str = "/generate"
    text_field: str = "prompt"
    length_field: str = "max_new_tokens"  # empty where nothing is generated
    ready: str = "/readyz"
    streams: bool = False


def servers() -> dict[str, Server]:
    """Return the servers that can run here, by name."""

    def peer(name: str) -> Server:
        return Server(lambda folder, port: [sys.executable, "-m", "bench.servers", name, str(folder), str(port)])

    available = {name: peer(name) for name in SERVERS}
    binary, gguf = (os.environ.get(name) for name in ("LLAMA_SERVER", "LLAMA_MODEL"))
    if binary and gguf:
        slots = ["--parallel", str(LLAMA_SLOTS), "--ctx-size", str(LLAMA_SLOTS * 128)]
        options = ["--host", "127.0.0.1", *slots, "--model", gguf]
        available[LLAMA] = Server(
            lambda _, port: [binary, *options, "--port", str(port)],
            {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True, "cache_prompt": False},
            path="/v1/completions",
            length_field="max_tokens",
            ready="/health",
            streams=True,
        )
    available[FRESH] = Server(
        lambda _, port: [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)],
        {"stream": True},
        streams=True,
    )
    return available


def engine_environment(folder: Path) -> dict[str, str]:
    """Return the variable that keeps checks of engines next to the measured model, not in the registry."""
    return {"ENGINES_DIR": str(folder.parent / "engines")}


def load_results(run: harness.Run) -> list[load.LoadResult]:
    """Return the figures that a process printed in its last line."""
    return [load.LoadResult(**result) for result in json.loads(run.output.splitlines()[-1])]


class ServerProcess:
    """A running server."""

    peak_memory = 0  # bytes of all its processes, known once it has stopped

    def __init__(self, name: str, server: Server, folder: Path, root: Path = harness.ROOT) -> None:
        """Start it with the model in `folder` on a free port; `root` is the project that it serves."""
        self._name, self._server = name, server
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by `stop`
        environment = {"PYTHONPATH": str(root), "MODEL_DIR": str(folder), **engine_environment(folder)}
        self._process = subprocess.Popen(  # noqa: S603 - our own commands
            server.command(folder, port),
            cwd=root,
            env=os.environ | QUIET | environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._watcher = ThreadPoolExecutor(1)
        self._peak = self._watcher.submit(harness.peak_memory, self._process.pid)

    def wait_until_ready(self) -> None:
        """Return when it accepts requests; raise RuntimeError with the end of its log if it never does."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with _OPENER.open(self._url + self._server.ready, timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        self._log.seek(0)
        raise RuntimeError(f"{self._name} did not start:\n{self._log.read()[-2000:]}")

    def measure(self, folder: Path, size: Size, **loads: Sequence[float]) -> list[load.LoadResult]:
        """Return the figures of `bench.load`, run in a process of its own; `loads`: `closed` or `open` of its Plan."""
        body: dict[str, Any] = dict(self._server.body)
        if self._server.length_field:
            sampling = {"temperature": TEMPERATURE, "top_p": TOP_P, "top_k": TOP_K}
            body = {self._server.length_field: size.tokens, **sampling, **body}
        plan = {
            "url": self._url + self._server.path,
            "body": body,
            "text_field": self._server.text_field,
            "length_field": self._server.length_field,
            "streams": self._server.streams,
            "folder": str(folder),
            "waves": size.waves,
            "min_requests": size.min_requests,
            "seconds": size.seconds,
            **loads,
        }
        variant = harness.Variant(f"load on {self._name}", ["-m", "bench.load", json.dumps(plan)])
        return load_results(harness.run(variant))

    def engine(self) -> str:
        """Return the engine that the service says it runs."""
        with _OPENER.open(self._url, timeout=5) as answer:
            return str(json.load(answer)["engine"])

    def stop(self) -> None:
        """Stop it; kill it and its children after STOP_SECONDS."""
        if self._process.poll() is None:
            children = psutil.Process(self._process.pid).children(recursive=True)
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                warn(f"{self._name} did not stop within {STOP_SECONDS:g} s and was killed")
                self._process.kill()
                self._process.wait()
                for child in children:
                    if child.is_running():
                        child.kill()
        self.peak_memory = self._peak.result()
        self._watcher.shutdown()
        self._log.close()
