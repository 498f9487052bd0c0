"""Fixtures for the flows: a real Prefect server, and a small project in which DVC runs tiny scripts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.workers.process import ProcessWorker
from ruamel.yaml import YAML

from tests.conftest import ROOT, Workspace

DVC_YAML = """
stages:
  validate:
    cmd: python validate.py
    deps: ["${data.path}", validate.py]
    params: [validate.column]
    outs: [made/clean.txt]
  tokenize:
    cmd: python tokenize_.py
    deps: [made/clean.txt, tokenize_.py]
    outs: [made/tokens.txt]
  finetune:
    cmd: python finetune.py
    deps: [made/tokens.txt, finetune.py]
    params: [finetune.epochs]
    outs: [made/model.txt]
"""
SCRIPTS = {
    "validate.py": "import shutil; print('read the corpus'); shutil.copy('data/corpus.csv', 'made/clean.txt')",
    "tokenize_.py": "import shutil; print('made tokens'); shutil.copy('made/clean.txt', 'made/tokens.txt')",
    "finetune.py": "import shutil; print('trained'); shutil.copy('made/tokens.txt', 'made/model.txt')",
}
# Trains for ever, in a process of the script's own besides; at SIGTERM it writes a checkpoint, which takes a second.
TRAINS_ON = """
import os, signal, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def stop(number, frame):
    time.sleep(1)
    Path("checkpoint").write_text("whole")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
Path("pids.new").write_text(f"{os.getpid()} {child.pid}")
Path("pids.new").rename("pids")
print("training", flush=True)
while True:
    time.sleep(0.1)
"""


class Project(Workspace):
    """A git and DVC project with one `.dvc` file and three stages, each a one-line script."""

    def __init__(self, folder: Path) -> None:
        """Create it; no stage has run."""
        super().__init__(folder)
        (folder / "made").mkdir()
        for name, script in SCRIPTS.items():
            (folder / name).write_text(script)
        (folder / "dvc.yaml").write_text(DVC_YAML)
        (folder / ".gitignore").write_text("/made/\n/registry/\n")
        self.write_corpus("text\nOnce upon a time.\n")
        self.set(retrain__retries=0, retrain__retry_seconds=0)
        self.run("git", "init", "-q")
        self.run("dvc", "init", "-q")
        self.run("dvc", "config", "core.analytics", "false")
        self.run("dvc", "add", "-q", "--no-commit", "data/corpus.csv")
        content = YAML().load(folder / "data" / "corpus.csv.dvc")
        content["outs"][0]["cache"] = False
        YAML().dump(content, folder / "data" / "corpus.csv.dvc")
        (folder / "data" / ".gitignore").unlink()
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Start")

    def run(self, *command: str) -> str:
        """Return what the command prints."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def script(self, name: str, text: str) -> None:
        """Change what a stage does."""
        (self.folder / name).write_text(text)

    def trainers(self) -> list[int]:
        """Wait until the script TRAINS_ON runs; return the ids of its process and its child."""
        pids = self.folder / "pids"
        assert within(300, pids.exists)
        return [int(pid) for pid in pids.read_text().split()]


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    """Return whether `happened` within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if happened():
            return True
        time.sleep(0.1)
    return False


def gone(pids: Iterable[int]) -> bool:
    """Whether none of these processes is alive."""
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


@pytest.fixture(scope="session")
def fresh_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in which nothing has run, to be copied."""
    folder = tmp_path_factory.mktemp("project")
    Project(folder)
    return folder


@pytest.fixture
def project(fresh_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project of the test's own; it is the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(fresh_project, folder)
    monkeypatch.chdir(folder)
    project = object.__new__(Project)
    project.folder = folder
    return project


class Prefect:
    """A client of a Prefect server."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Take the environment of its clients."""
        self.environment = environment
        self.api = httpx.Client(base_url=environment["PREFECT_API_URL"] + "/", timeout=120)

    def post(self, path: str, /, **content: Any) -> Any:
        """Return the answer to a POST."""
        answer = self.api.post(path, json=content)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run; return its id."""
        return str(self.post(f"deployments/{deployment}/create_flow_run", parameters=parameters)["id"])

    def state(self, run: str) -> dict[str, Any]:
        """Return a run's state."""
        state: dict[str, Any] = self.api.get(f"flow_runs/{run}").json()["state"]
        return state

    def run(self, **parameters: Any) -> str:
        """Run the flow in this process, without a worker and a verdict; return the run's id."""
        from flows.retrain import retrain

        parameters = {"promote": "evaluate only", **parameters}

        with temporary_settings(
            {setting: self.environment[setting.name] for setting in (PREFECT_API_URL, PREFECT_HOME)}
        ):
            state = retrain(**parameters, return_state=True)
            APILogHandler().flush()
        return str(state.state_details.flow_run_id)

    def ended(self, run: str, seconds: float = 300) -> dict[str, Any]:
        """Wait for a run's end; return its state."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
        assert within(seconds, lambda: self.state(run)["type"] in ends), self.state(run)
        return self.state(run)

    def tasks(self, run: str) -> dict[str, str]:
        """Return the state's name of each task of an ended run, in the order in which they started."""
        return {task["name"]: task["state_name"] for task in self._tasks(run)}

    def graph(self, run: str) -> dict[str, list[str]]:
        """Return which tasks each task of an ended run waited for, as in the UI's graph."""
        tasks = self._tasks(run)
        names = {task["id"]: task["name"] for task in tasks}
        return {task["name"]: [names[one["id"]] for one in task["task_inputs"].get("wait_for", [])] for task in tasks}

    def _tasks(self, run: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = []

        def are_all_there() -> bool:  # they come a little later than the run's end, by events
            result[:] = self.post("task_runs/filter", flow_runs={"id": {"any_": [run]}})
            return all(task["end_time"] for task in result)

        assert within(300, are_all_there), result
        return sorted(result, key=lambda task: str(task["start_time"]))

    def logs(self, run: str) -> list[str]:
        """Return the messages in the log of an ended run, which arrive a little later."""
        query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        messages: list[str] = []

        def are_all_there() -> bool:
            lines = self.post("logs/filter", **query)
            messages[:] = [line["message"] for line in lines]
            return any(line["task_run_id"] is None and "Finished in state" in line["message"] for line in lines)

        assert within(300, are_all_there), messages
        return messages


@pytest.fixture(scope="package")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """Start a Prefect server for these tests, without telemetry; idle, it would take a tenth of a core from others."""
    folder = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_UI_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
    }
    server = [
        "uvicorn",
        "--factory",
        "flows.runtime.server:app",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]  # as in `fresh up`
    command = [sys.executable, "-m", *server, "--log-level", "warning"]
    with background(command, folder, environment) as log, pytest.MonkeyPatch.context() as here:
        here.setenv("DO_NOT_TRACK", "1")  # for flows that a test runs in its own process
        result = Prefect(environment)
        assert within(300, lambda: _answers(result)), log.read_text()
        yield result
        result.api.close()


def _answers(server: Prefect) -> bool:
    try:
        return server.api.get("health").status_code == 200
    except httpx.TransportError:
        return False


class background:  # noqa: N801 - used as a function
    """A command that runs during the block, with its process group; gives the file of its output."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        """Start it."""
        self.log = folder / f"{Path(command[-1]).name}-{time.time_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self) -> Path:
        """Return the output's file."""
        return self.log

    def __exit__(self, *_: object) -> None:
        """End it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, number)
                self.process.wait(300)
        self.process.wait()


@contextmanager
def working(prefect: Prefect, pool: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Make a pool and start a worker for it; give the worker's process."""
    template = ProcessWorker.get_default_base_job_template()
    prefect.post("work_pools/", name=pool, type="process", base_job_template=template)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool]
    started = background(command, folder, prefect.environment)
    with started as log:
        assert within(300, lambda: bool(prefect.post(f"work_pools/{pool}/workers/filter"))), log.read_text()
        yield started.process


@pytest.fixture(scope="package")
def worker(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a worker for these tests; return the name of its pool."""
    with working(prefect, "tests", tmp_path_factory.mktemp("worker")):
        yield "tests"


def deploy(prefect: Prefect, pool: str, folder: Path) -> str:
    """Deploy `retrain` to work in the project's folder; return the deployment's id."""
    deployed = prefect.post(
        "deployments/",
        name=f"{pool}-{folder.parent.name}",
        flow_id=prefect.post("flows/", name="retrain")["id"],
        entrypoint=f"{ROOT / 'flows' / 'retrain.py'}:retrain",
        path=str(folder),
        work_pool_name=pool,
        job_variables={"working_dir": str(folder)},
        enforce_parameter_schema=False,
    )
    return str(deployed["id"])


@pytest.fixture
def deployment(prefect: Prefect, worker: str, project: Project) -> str:
    """Return the id of a deployment of `retrain` that works in the project."""
    return deploy(prefect, worker, project.folder)
