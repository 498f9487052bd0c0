"""`make up`: Prefect's server, the deployments, a worker and the service, in one process that ends them all together.

Each is a child that ends with this one however that ends, see `flows.runtime.supervisor`. What they print goes to
files in `registry/logs/`; shown here are the addresses, how runs end, and the last lines of a part that ended
by itself.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from flows.runtime import settings, supervisor
from pipeline import command, params, paths, storage
from pipeline.command import CRASH, OutputLost, UserError, arg_parser, echo, run
from serving import ports

if TYPE_CHECKING:  # Prefect reads its settings when it is imported: only once they are made
    from prefect.client.orchestration import SyncPrefectClient

    from flows.runtime.monitor import Monitor

LOGS = paths.REGISTRY / "logs"
_LOCK = paths.REGISTRY / "up.lock"
_SERVICE_PORT = 3000  # BentoML's own default
_KEPT = 10_000_000  # bytes of a log; then it becomes NAME.log.1, and the one before is dropped
_START = 120.0  # seconds that the server may take: 13 when its database is new, several times that on a busy machine
_TAIL, _TAIL_LINES = 20_000, 10  # bytes and lines of a log that are shown where a part ended by itself
_PLANNED = 20.0  # seconds for the server to plan a new schedule's runs
_LOOK = 20.0  # seconds between two looks after runs and for a model
_RESTARTS, _RESTARTS_WITHIN = 3, 600.0  # of the server, in so many seconds: more is no accident
# Seconds from being told to end to being killed. A worker waits for its runs, whose trainers write a checkpoint.
_SERVER, _WORKER, _SERVICE = 4, 13, 6


class _Stop(BaseException):
    """Somebody wants it to end: Ctrl-C, SIGTERM, a closed terminal."""


class _Ended(Exception):  # noqa: N818 - as one says it
    """One of the parts ended by itself."""


class ManagedProcess:
    """One of the processes: its name, its log, and the pipe whose closing ends it and all that it started."""

    def __init__(self, root: Path, name: str, command: Sequence[str], patience: float) -> None:
        """Start `command` in `root`; told to end, it has `patience` seconds."""
        self.command, self.patience = command, patience
        self.name, self.log = name, root / LOGS / f"{name}.log"
        if self.log.exists() and self.log.stat().st_size > _KEPT:
            self.log.rename(self.log.with_suffix(".log.1"))
        # Straight into the file, not through this process: they must not stand still, or fail, because it does.
        with open(self.log, "ab", buffering=0, opener=storage.no_follow) as log:
            log.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, "-P", supervisor.__file__, str(patience), "0", sys.executable, *command],
                cwd=root,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches this process alone, which ends the others
            )
            self._start = log.tell()

    def code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """Tell it and everything it started to end; returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> int:
        """Return the exit code once it has ended."""
        return self._process.wait()

    def last_lines(self) -> str:
        """Return the end of what it has printed since it was started."""
        with self.log.open("rb") as log:
            log.seek(max(self._start, self.log.stat().st_size - _TAIL))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])


class LocalStack:
    """Everything that runs, from the first to the last."""

    def __init__(self, root: Path, port: int, service_port: int | None) -> None:
        """Take the project's folder and the ports; without one for the service there is none."""
        self._root, self._port, self._service_port = root, port, service_port
        self._parts: list[ManagedProcess] = []
        self._rounds: Monitor | None = None
        self._said = ""
        self._restarts: list[float] = []  # of the server: when

    def start(self) -> None:
        """Start everything, in order; raises _Ended if one of them ends, UserError where there is something to mend."""
        from prefect.client.orchestration import get_client

        from flows.runtime import notify
        from flows.runtime.monitor import Monitor

        host = os.environ["PREFECT_SERVER_API_HOST"]
        uvicorn = ["-m", "uvicorn", "--factory", "flows.runtime.server:app", "--host", host, "--port", str(self._port)]
        # Short: browsers keep their connections open, and whoever called is told by a closed one as well.
        server = self._begin(
            "server", [*uvicorn, "--log-level", "warning", "--timeout-graceful-shutdown", "2"], _SERVER
        )
        client = get_client(sync_client=True)
        deadline = time.monotonic() + _START
        while client.api_healthcheck() is not None:
            self._check()
            if time.monotonic() > deadline:
                raise UserError(f"Prefect's server did not answer within {_START:g} seconds; see {self._shown(server)}")
            time.sleep(0.2)
        _make_pool(client)
        self._deploy()
        rounds = Monitor(client, say)
        rounds.declare_crashed("its process was gone when `make up` started")
        _let_one_catch_up(client)
        notify.crash_notice_automation(params.load().retrain.notify, ["retrain", "watch", "rollback"], say)
        if self._service_port is not None:
            os.environ["SERVICE_URL"] = f"http://127.0.0.1:{self._service_port}"  # for the links that a run shows
        worker = ["--pool", settings.POOL, "--type", "process", "--name", settings.worker_name()]
        self._begin("worker", ["-m", "prefect", "worker", "start", *worker, "--install-policy", "never"], _WORKER)
        self._rounds = rounds
        self._banner(client)
        say(f"all is up; Ctrl-C stops it; logs: {LOGS}/")

    def _banner(self, client: "SyncPrefectClient") -> None:
        """Print the addresses and the next run, and start the service if there is a model to serve."""
        from flows.runtime.outcomes import next_run

        deadline = time.monotonic() + _PLANNED
        while not (planned := next_run(client)) and time.monotonic() < deadline:
            self._check()
            time.sleep(0.5)
        say(f"UI          {os.environ['PREFECT_API_URL'].removesuffix('/api')}")
        self._serve()
        say(f"next run    {planned or 'not planned yet'}")

    def watch(self) -> None:
        """Watch over everything, for ever; raises _Ended if one of them ends."""
        assert self._rounds is not None
        looked = time.monotonic()
        while True:
            self._check()
            time.sleep(0.3)
            self._rounds.go()
            if time.monotonic() - looked > _LOOK:
                self._serve()
                looked = time.monotonic()

    def stop(self) -> None:
        """End everything and wait for it; the server last, so that runs that end now are told as such."""
        said = False
        for part in self._parts[1:]:
            said = said or part.code() is None
            part.end()
        if said:
            say("stopping; a training, if there is one, writes its checkpoint first")
        for part in self._parts[1:]:
            part.wait()
        for server in self._parts[:1]:
            if self._rounds is not None and server.code() is None:
                self._rounds.declare_crashed("`make up` was stopped while it ran")
            server.end()
            server.wait()

    def _begin(self, name: str, command: Sequence[str], patience: float) -> ManagedProcess:
        part = ManagedProcess(self._root, name, command, patience)
        self._parts.append(part)
        return part

    def _check(self) -> None:
        """Raise _Ended if one of the parts ended; but a server that was up is started again, for trainings go on."""
        for at, part in enumerate(self._parts):
            if (code := part.code()) is not None:
                part.wait()
                by_signal = code - 128 in set(signal.Signals)
                how = f"was ended by {signal.Signals(code - 128).name}" if by_signal else f"ended with exit code {code}"
                self._restarts = [then for then in self._restarts if time.monotonic() - then < _RESTARTS_WITHIN]
                say_all(part.last_lines())
                if at > 0 or self._rounds is None or len(self._restarts) == _RESTARTS:
                    raise _Ended(f"the {part.name} {how}, so the rest was stopped as well; see {self._shown(part)}")
                say(f"the server {how}, and is started again; what runs goes on; see {self._shown(part)}")
                self._restarts.append(time.monotonic())
                self._parts[at] = ManagedProcess(self._root, part.name, part.command, part.patience)

    def _deploy(self) -> None:
        part = self._begin("deploy", ["-m", "prefect", "--no-prompt", "deploy", "--all"], 2)
        while part.code() is None:
            time.sleep(0.1)
        self._parts.remove(part)
        self._check()
        if part.wait() != 0:
            say_all(part.last_lines())
            raise UserError(f"the deployments of prefect.yaml could not be made; see {self._shown(part)}")

    def _serve(self) -> None:
        """Start the service where there is a model to serve; say once why there is none."""
        if self._service_port is None or any(part.name == "service" for part in self._parts):
            return
        if why := _why_not_served(self._root):
            if why != self._said:
                say(f"service     waits: {why}")
                say("playground  waits for the service")
            self._said = why
            return
        address = ["--host", "127.0.0.1", "--port", str(self._service_port)]
        self._begin("service", ["-m", "bentoml", "serve", *address], _SERVICE)
        say(f"service     http://127.0.0.1:{self._service_port}")
        say(f"playground  http://127.0.0.1:{self._service_port}/playground")

    def _shown(self, part: ManagedProcess) -> Path:
        return part.log.relative_to(self._root)


def say(sentence: str) -> None:
    """Print a line."""
    with suppress(OutputLost):  # nobody looks any more (a closed terminal, `| head`): it goes on
        echo(sentence)


def say_all(lines: str) -> None:
    """Print lines of a part's log."""
    for line in lines.splitlines():
        say(line)


def _make_pool(client: "SyncPrefectClient") -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):  # of an earlier start; a person may have paused or changed it
        client.create_work_pool(WorkPoolCreate(name=settings.POOL, type="process", base_job_template=template))


def _let_one_catch_up(client: "SyncPrefectClient") -> None:
    """Of the slots that each deployment missed while all was off, leave the newest: it is run late."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import State, StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Cancelled

    missed = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)}),
    )
    newest = set()
    for late in client.read_flow_runs(flow_run_filter=missed, sort=FlowRunSort.EXPECTED_START_TIME_DESC):
        if not late.auto_scheduled:
            continue  # a person's wish, or an event's
        if late.deployment_id in newest:
            why = "everything was off when it was due; of all that were missed, the newest is run late"
            skipped: State[None] = Cancelled(name="Missed", message=why)
            client.set_flow_run_state(late.id, skipped, force=True)
        newest.add(late.deployment_id)


def _why_not_served(root: Path) -> str | None:
    from bentoml.exceptions import BentoMLException

    from serving.model_folder import find

    try:
        find(root)
    except BentoMLException as error:
        return str(error)
    return None


def _set_environment(root: Path, port: int, *, has_password: bool) -> None:
    """Set the environment of all parts; a generated password is printed once, when it is made."""
    os.environ.pop("PREFECT_API_AUTH_STRING", None)  # of another server
    if not has_password:
        os.environ.pop("PREFECT_SERVER_API_AUTH_STRING", None)
    environment = settings.environment(root, port, has_password=has_password)  # refuses before anything is made
    if not has_password:
        say("no password: every user of this machine can start runs as you")
    elif "PREFECT_SERVER_API_AUTH_STRING" not in os.environ:
        if new := settings.make_password(root):
            say(f"the password of Prefect's UI, shown this once: {new}")
        say(f"Prefect's UI asks for the password in {settings.PASSWORD}")
        environment = settings.environment(root, port)
    os.environ.update(environment)


def _refuse_taken(host: str, port: int, option: str) -> None:
    if problem := ports.unusable_reason(host, port):
        raise UserError(f"{problem}; give another one: {option} N")


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold this folder's `make up`; raises UserError where another one runs: two would share one database."""
    path = root / _LOCK
    path.parent.mkdir(exist_ok=True)
    with storage.open_lock(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"`make up` runs in this folder already (process {lock.read() or 'unknown'}); stop it there with Ctrl-C"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _stop(_number: int, _frame: FrameType | None) -> None:
    _at_signals(_go_on)
    raise _Stop


def _go_on(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: it is stopping."""


def _at_signals(do: Callable[[int, FrameType | None], None]) -> None:
    """Have it done also where a shell's `&` had SIGINT ignored, which all children would inherit."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, do)


def main() -> None:
    """Start Prefect's server, the deployments, a worker and the service; stop them all at Ctrl-C."""
    parser = arg_parser()
    port = os.environ.get("PREFECT_SERVER_API_PORT", settings.PORT)
    parser.add_argument("--port", type=int, default=port, help="of Prefect's server and UI (default: %(default)s)")
    parser.add_argument("--service-port", type=int, default=_SERVICE_PORT, help="default: %(default)s")
    parser.add_argument("--no-service", action="store_true", help="do not serve the model")
    parser.add_argument(
        "--no-password", action="store_true", help="let every user of this machine use Prefect's server and UI"
    )
    given = parser.parse_args()
    root = Path.cwd()
    if not (root / "prefect.yaml").exists():
        raise UserError("prefect.yaml is not here; run the command from the repository's root")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    (root / LOGS).mkdir(parents=True, exist_ok=True)
    up = LocalStack(root, given.port, None if given.no_service else given.service_port)
    with _alone(root):
        _set_environment(root, given.port, has_password=not given.no_password)
        _refuse_taken(os.environ["PREFECT_SERVER_API_HOST"], given.port, "--port")
        if not given.no_service:
            _refuse_taken("127.0.0.1", given.service_port, "--service-port")
        _at_signals(_stop)
        try:
            up.start()
            up.watch()
        except _Stop:
            pass  # what was asked for
        except _Ended as ended:
            command.warn(f"error: {ended}")
            sys.exit(CRASH)
        finally:
            _at_signals(_go_on)
            up.stop()


if __name__ == "__main__":
    run(main)
