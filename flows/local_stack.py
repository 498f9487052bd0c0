"""`fresh up`: Prefect's server, the deployments, a worker and the service, started and stopped together.

Each is a child process that ends with this one, however this one ends (`flows.runtime.supervisor`). They print to files
in `registry/logs/`; this process prints the addresses, how runs end, and the last lines of a part that ended by itself.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from flows.runtime import settings
from flows.runtime.managed_process import LOGS, ManagedProcess
from pipeline import command, params, paths, storage
from pipeline.command import CRASH, OutputLost, UserError, echo
from serving import ports

if TYPE_CHECKING:  # Prefect reads its settings when it is imported, so they must be set first
    from prefect.client.orchestration import SyncPrefectClient

    from flows.runtime.monitor import Monitor

_LOCK = paths.REGISTRY / "up.lock"
_SERVICE_PORT = 3000  # BentoML's default
_SCHEDULE_SECONDS = 20.0  # for the server to plan the runs of a new schedule
_MODEL_SECONDS = 20.0  # between two checks for a model to serve
_MAX_RESTARTS, _RESTART_WINDOW = 3, 600.0  # of the server within so many seconds; more have a lasting cause
# Seconds from SIGTERM to SIGKILL. A worker waits for its runs, whose trainers write a checkpoint.
_SERVER_GRACE, _WORKER_GRACE, _SERVICE_GRACE, _DEPLOY_GRACE = 4, 13, 6, 2


class _StopRequested(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal."""


class _PartEnded(Exception):  # noqa: N818 - an event, reported to the user
    """A part ended by itself."""


class LocalStack:
    """The server, the worker and the service of one project folder."""

    def __init__(self, root: Path, port: int, service_port: int | None) -> None:
        """Take the project's folder, the server's port, and the service's; with None there is no service."""
        self._root, self._port, self._service_port = root, port, service_port
        self._parts: list[ManagedProcess] = []  # the server first
        self._monitor: Monitor | None = None  # once everything is up
        self._printed_problem = ""  # why there is no service
        self._restarts: list[float] = []  # times at which the server was restarted

    def start(self) -> None:
        """Start everything, in order; raises _PartEnded if a part ends, UserError for what the user can fix."""
        from prefect.client.orchestration import get_client

        from flows.runtime import notify, work_pool
        from flows.runtime.monitor import Monitor

        server = self._start_server()
        client = get_client(sync_client=True)
        work_pool.wait_for_server(client, self._check_parts, f"; see {self._log_of(server)}")
        work_pool.make_pool(client, "process")
        self._deploy()
        monitor = Monitor(client, print_line)
        monitor.end_runs_without_process("its process was gone when `fresh up` started")
        work_pool.cancel_missed_runs(client)
        notify.crash_notice_automation(params.load().retrain.notify, work_pool.FLOWS, print_line)
        if self._service_port is not None:
            os.environ["SERVICE_URL"] = f"http://127.0.0.1:{self._service_port}"  # for the links that a run shows
        self._start_worker()
        self._monitor = monitor
        self._print_addresses(client)
        print_line(f"all is up; Ctrl-C stops it; logs: {LOGS}/")

    def watch(self) -> None:
        """Restart a server that ends, start the service once there is a model, and poll the monitor, forever.

        Raises _PartEnded if a part ends for good.
        """
        assert self._monitor is not None
        last_check = time.monotonic()
        while True:
            self._check_parts()
            time.sleep(0.3)
            self._monitor.poll()
            if time.monotonic() - last_check > _MODEL_SECONDS:
                self._start_service()
                last_check = time.monotonic()

    def stop(self) -> None:
        """End everything and wait for it; the server last, so that it records how runs end."""
        if any(part.code() is None for part in self._parts[1:]):
            print_line("stopping; a training that is running writes its checkpoint first")
        for part in self._parts[1:]:
            part.end()
        for part in self._parts[1:]:
            part.wait()
        for server in self._parts[:1]:
            if self._monitor is not None and server.code() is None:
                self._monitor.end_runs_without_process("`fresh up` was stopped while it ran")
            server.end()
            server.wait()

    def _start_server(self) -> ManagedProcess:
        host = os.environ["PREFECT_SERVER_API_HOST"]
        uvicorn = ["-m", "uvicorn", "--factory", "flows.runtime.server:app", "--host", host, "--port", str(self._port)]
        # Browsers keep connections open, so uvicorn must not wait for long until they close.
        options = ["--log-level", "warning", "--timeout-graceful-shutdown", "2"]
        return self._start_part("server", [*uvicorn, *options], _SERVER_GRACE)

    def _start_worker(self) -> None:
        options = ["--pool", settings.POOL, "--type", "process", "--name", settings.worker_name()]
        command = ["-m", "prefect", "worker", "start", *options, "--install-policy", "never"]
        self._start_part("worker", command, _WORKER_GRACE)

    def _deploy(self) -> None:
        part = self._start_part("deploy", ["-m", "prefect", "--no-prompt", "deploy", "--all"], _DEPLOY_GRACE)
        while part.code() is None:
            time.sleep(0.1)
        self._parts.remove(part)
        self._check_parts()
        if part.wait() != 0:
            print_lines(part.last_lines())
            raise UserError(f"the deployments in prefect.yaml could not be made; see {self._log_of(part)}")

    def _start_service(self) -> None:
        """Start the service if there is a model to serve; print once why there is none."""
        if self._service_port is None or any(part.name == "service" for part in self._parts):
            return
        if problem := _model_problem(self._root):
            if problem != self._printed_problem:
                print_line(f"service     waits: {problem}")
                print_line("playground  waits for the service")
            self._printed_problem = problem
            return
        address = ["--host", "127.0.0.1", "--port", str(self._service_port)]
        self._start_part("service", ["-m", "bentoml", "serve", *address], _SERVICE_GRACE)
        print_line(f"service     http://127.0.0.1:{self._service_port}")
        print_line(f"playground  http://127.0.0.1:{self._service_port}/playground")

    def _print_addresses(self, client: "SyncPrefectClient") -> None:
        """Print the addresses and the next run; start the service if there is a model to serve."""
        from flows.runtime.outcomes import next_run

        deadline = time.monotonic() + _SCHEDULE_SECONDS
        while not (scheduled := next_run(client)) and time.monotonic() < deadline:
            self._check_parts()
            time.sleep(0.5)
        print_line(f"UI          {os.environ['PREFECT_API_URL'].removesuffix('/api')}")
        self._start_service()
        print_line(f"next run    {scheduled or 'not scheduled yet'}")

    def _start_part(self, name: str, command: Sequence[str], grace: float) -> ManagedProcess:
        part = ManagedProcess(self._root, name, command, grace)
        self._parts.append(part)
        return part

    def _check_parts(self) -> None:
        """Raise _PartEnded if a part ended; but restart a server that was up, because trainings continue without it."""
        for position, part in enumerate(self._parts):
            if (code := part.code()) is not None:
                part.wait()
                by_signal = code - 128 in set(signal.Signals)
                how = f"was ended by {signal.Signals(code - 128).name}" if by_signal else f"ended with exit code {code}"
                self._restarts = [then for then in self._restarts if time.monotonic() - then < _RESTART_WINDOW]
                print_lines(part.last_lines())
                if position > 0 or self._monitor is None or len(self._restarts) == _MAX_RESTARTS:
                    raise _PartEnded(f"the {part.name} {how}, so everything was stopped; see {self._log_of(part)}")
                print_line(f"the server {how} and is restarted; runs continue; see {self._log_of(part)}")
                self._restarts.append(time.monotonic())
                self._parts[position] = ManagedProcess(self._root, part.name, part.command, part.grace)

    def _log_of(self, part: ManagedProcess) -> Path:
        return part.log.relative_to(self._root)


def print_line(text: str) -> None:
    """Print a line; a closed terminal or pipe is ignored, for everything else must continue."""
    with suppress(OutputLost):
        echo(text)


def print_lines(text: str) -> None:
    """Print the lines of a part's log."""
    for line in text.splitlines():
        print_line(line)


def _model_problem(root: Path) -> str | None:
    """Return why there is no model to serve; None if there is one."""
    from bentoml.exceptions import BentoMLException

    from serving.model_folder import find
    from serving.tasks import unsuitable_reason

    project = params.load(root / paths.PARAMS)
    try:
        find(root, partial(unsuitable_reason, project.task), serve_candidate=project.service.serve_candidate)
    except BentoMLException as error:
        return str(error)
    return None


def _set_environment(root: Path, port: int, *, has_password: bool) -> None:
    """Set the environment of all parts; a generated password is printed once, when it is made."""
    os.environ.pop("PREFECT_API_AUTH_STRING", None)  # of another server
    if not has_password:
        os.environ.pop("PREFECT_SERVER_API_AUTH_STRING", None)
    environment = settings.environment(root, port, has_password=has_password)  # raises before anything is made
    if not has_password:
        print_line("no password: every user of this machine can start runs as you")
    elif "PREFECT_SERVER_API_AUTH_STRING" not in os.environ:
        if new := settings.make_password(root):
            print_line(f"the password of Prefect's UI, shown only now: {new}")
        print_line(f"Prefect's UI asks for the password in {settings.PASSWORD}")
        environment = settings.environment(root, port)
    os.environ.update(environment)


def _check_port(host: str, port: int, option: str) -> None:
    if problem := ports.unusable_reason(host, port):
        raise UserError(f"{problem}; give another one: {option} N")


@contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """Allow one `fresh up` in this folder; raises UserError for a second one, which would share the database."""
    try:
        with storage.exclusive_lock(root / _LOCK, timeout=0, holder=str(os.getpid())):
            yield
    except storage.LockHeld as held:
        raise UserError(
            f"`fresh up` is already running in this folder (process {held.holder or 'unknown'}); stop it there with "
            "Ctrl-C"
        ) from None


def _request_stop(_number: int, _frame: FrameType | None) -> None:
    _handle_signals(_ignore)
    raise _StopRequested


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: it is already stopping."""


def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Set the handler, also where a shell's `&` made SIGINT ignored, which all children would inherit."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def run_stack(port: int | None, service_port: int | None, *, has_password: bool) -> None:
    """Start Prefect's server, the deployments, a worker and the service; stop them all at a signal.

    Args:
        port: Of Prefect's server and UI; PREFECT_SERVER_API_PORT or 4200 by default.
        service_port: Of the service; None starts none.
        has_password: Whether Prefect's server and UI ask for a password.
    """
    root = Path.cwd()
    if not (root / "prefect.yaml").exists():
        raise UserError("prefect.yaml is not here; run the command from the repository's root")
    port = port or int(os.environ.get("PREFECT_SERVER_API_PORT", settings.PORT))
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    (root / LOGS).mkdir(parents=True, exist_ok=True)
    stack = LocalStack(root, port, service_port)
    with _exclusive(root):
        _set_environment(root, port, has_password=has_password)
        _check_port(os.environ["PREFECT_SERVER_API_HOST"], port, "--port")
        if service_port is not None:
            _check_port("127.0.0.1", service_port, "--service-port")
        _handle_signals(_request_stop)
        try:
            stack.start()
            stack.watch()
        except _StopRequested:
            pass
        except _PartEnded as ended:
            command.warn(f"error: {ended}")
            sys.exit(CRASH)
        finally:
            _handle_signals(_ignore)
            stack.stop()
