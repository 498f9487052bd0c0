"""`fresh up`, started several times in the same folder, with real processes."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ruamel.yaml import YAML
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from docs.picture import browser, has
from flows.runtime import settings
from pipeline.command import CRASH
from tests.conftest import ROOT
from tests.flows.conftest import TRAINS_ON, gone, within
from tests.sockets import ports

pytestmark = pytest.mark.integration


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Up:
    """`fresh up`, its output, and a client of its server."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        """Start it on ports of its own."""
        self.port, self.service_port = free_port(), free_port()
        self.folder, self.out = folder, folder / f"up-{self.port}.txt"
        ports = ["--port", str(self.port), "--service-port", str(self.service_port)]
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "up", *ports, *options],
                cwd=folder,
                env={**clean_environment(), **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell's `&` does
            )
        self.origin = f"http://127.0.0.1:{self.port}"
        self.api = httpx.Client(base_url=f"{self.origin}/api/", timeout=120)

    def wait_until(self, line: str, seconds: float = 300) -> None:
        """Wait for a line of its output."""
        came = within(seconds, lambda: line in self.out.read_text() or self.process.poll() is not None)
        assert came, self.out.read_text()
        assert line in self.out.read_text()

    def let_in(self) -> None:
        """Set the client's password and CSRF token."""
        user, _, password = self.password.partition(":")
        self.api.auth = (user, password)
        token = self.api.get("csrf-token", params={"client": "test"}).json()["token"]
        self.api.headers.update({"Prefect-Csrf-Client": "test", "Prefect-Csrf-Token": token})

    @property
    def password(self) -> str:
        """Return the generated password."""
        return (self.folder / settings.PASSWORD).read_text().strip()

    def post(self, path: str, /, **content: Any) -> Any:
        """Return the answer to a POST."""
        answer = self.api.post(path, json=content)
        assert answer.is_success, answer.text
        return answer.json()

    def family(self) -> list[int]:
        """Return the ids of all processes that it started."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def part(self, words: str) -> psutil.Process:
        """Wait for the process, not its supervisor, whose command line has these words; return it."""
        result: list[psutil.Process] = []

        def it_runs() -> bool:
            family = {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
            lines = [(one, " ".join(one.info["cmdline"] or [])) for one in psutil.process_iter(["cmdline"])]
            lines = [(one, line) for one, line in lines if "supervisor.py" not in line]
            result[:] = [one for one, line in lines if one.pid in family and words in line]
            return bool(result)

        assert within(300, it_runs), f"nothing runs {words}"
        [one] = result
        return one

    def end(self) -> None:
        """Kill it and everything that it started if a test left it running."""
        self.api.close()
        if self.process.poll() is None:
            family = self.family()
            self.process.kill()
            self.process.wait()
            within(300, lambda: gone(family))


def clean_environment() -> dict[str, str]:
    """Return the environment without the tests' settings, with a proxy that does not answer."""
    unset = ("PREFECT_", "MODEL_DIR", "NO_PROXY", "no_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    return {**kept, "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}


def state(folder: Path, run: str) -> tuple[str, str]:
    """Return a run's state and message from the database, which needs no server."""
    with sqlite3.connect(folder / "registry" / "prefect" / "prefect.db") as database:
        row = database.execute(
            "select s.type, s.message from flow_run f join flow_run_state s on s.id = f.state_id where f.id = ?", [run]
        ).fetchone()
    database.close()
    return (row[0], row[1])


@pytest.fixture(scope="module")
def folder(fresh_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with our flows and their deployments."""
    folder = tmp_path_factory.mktemp("up") / "project"
    shutil.copytree(fresh_project, folder)
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "service.py", folder)
    yaml = YAML()
    content = yaml.load(ROOT / "prefect.yaml")
    entrypoints = [deployment["entrypoint"].split(":")[0] for deployment in content["deployments"]]
    content["deployments"] = [
        deployment
        for deployment, file in zip(content["deployments"], entrypoints, strict=True)
        if (folder / file).exists()
    ]
    yaml.dump(content, folder / "prefect.yaml")
    params_ = yaml.load(folder / "params.yaml")
    params_["watch"]["every_seconds"] = 0  # it would start runs of its own in between
    yaml.dump(params_, folder / "params.yaml")
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> Iterator[Up]:
    """Return the first stack, running."""
    up = Up(folder)
    try:
        up.wait_until("all is up")
        yield up
    finally:
        up.end()


def test_the_deployments_of_prefect_yaml_are_in_a_process_pool(first: Up) -> None:
    first.let_in()
    deployed = first.api.get("deployments/name/retrain/retrain").json()
    [nightly] = deployed["schedules"]
    assert nightly["active"]
    assert nightly["schedule"]["cron"] == "30 3 * * *"
    assert nightly["schedule"]["timezone"] == "UTC"
    assert deployed["global_concurrency_limit"]["limit"] == 1
    assert deployed["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployed["work_pool_name"] == settings.POOL
    assert first.api.get(f"work_pools/{settings.POOL}").json()["type"] == "process"
    [step] = deployed["pull_steps"]
    assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(first.folder)
    [trigger] = first.post("automations/filter")
    assert trigger["enabled"]
    assert trigger["trigger"]["expect"] == ["corpus.changed"]
    assert within(300, lambda: bool(first.post(f"work_pools/{settings.POOL}/workers/filter")))


def test_prefect_yaml_has_no_paths_and_describes_each_deployment() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    content = YAML(typ="safe").load(text)
    assert [deployment["name"] for deployment in content["deployments"]] == ["retrain", "watch", "rollback"]
    assert "pull" not in content
    assert str(ROOT) not in text
    for deployment in content["deployments"]:
        assert deployment["work_pool"] == {"name": settings.POOL}
        assert deployment["concurrency_limit"]["limit"] == 1
        assert len(deployment["description"]) > 60
        assert all("active" not in schedule for schedule in deployment.get("schedules", []))  # a pause is kept


def test_a_page_of_another_origin_is_refused(first: Up) -> None:
    first.let_in()
    run = f"{first.origin}/api/flow_runs/filter"
    assert httpx.post(run, json={}, auth=first.api.auth).status_code == 403  # no CSRF token
    evil = {"Origin": "http://evil.example"}
    assert httpx.post(run, json={}, headers=evil).status_code == 403
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    refused = httpx.options(run, headers={**evil, **asks})
    assert "access-control-allow-origin" not in refused.headers
    own = httpx.options(run, headers={"Origin": first.origin, **asks})
    assert own.headers["access-control-allow-origin"] == first.origin
    for socket_of in ("events/in", "events/out", "logs/out"):
        address = f"{first.origin.replace('http', 'ws')}/api/{socket_of}"
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, origin="http://evil.example")  # type: ignore[arg-type]
        with pytest.raises(InvalidStatus, match="403"):  # a client that offers no password
            connect(address, origin=first.origin)  # type: ignore[arg-type]
        connect(address, origin=first.origin, subprotocols=["prefect"]).close()  # type: ignore[arg-type,list-item]


def test_the_generated_password_is_required_printed_once_and_private(first: Up) -> None:
    assert (first.folder / settings.PASSWORD).stat().st_mode & 0o777 == 0o600
    assert first.out.read_text().count(first.password) == 1
    for path in ("admin/version", "admin/settings", "csrf-token?client=x", "deployments/name/retrain/retrain"):
        assert httpx.get(f"{first.origin}/api/{path}").status_code == 401
    logs = (first.folder / "registry" / "logs").iterdir()
    assert not any(first.password in log.read_text() for log in logs)


@pytest.mark.skipif(sys.platform != "linux", reason="the sockets of a process are read from /proc")
def test_only_the_server_and_the_workers_token_port_listen(first: Up) -> None:
    worker = first.part("prefect worker start")
    assert within(300, lambda: len(ports(worker.pid)) == 1)
    [control] = ports(worker.pid)
    assert ports(first.process.pid) == {first.port, control}
    for tried in (b"POST / HTTP/1.1\r\n\r\n", b"0" * 32 + b"\n"):
        with socket.create_connection(("127.0.0.1", control), timeout=300) as stranger:
            stranger.sendall(tried)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_login_redirect_from_the_second_ui_and_forms_work_in_a_browser(
    first: Up,
) -> None:
    with browser() as page:
        page.open(first.origin, "document.querySelector('input')", 1280, 800)
        field = "document.querySelector('input')"
        page.value(f"{field}.value = {json.dumps(first.password)}; {field}.dispatchEvent(new Event('input'))")
        page.click("Login")
        dashboard = f"location.pathname === '/dashboard' && {has('Flow Runs')}"
        page.wait(dashboard)
        assert "V2 UI" not in page.value("document.body.innerText")  # the banner
        page.value("document.cookie = 'prefect_ui_version=v2; Path=/'")  # what a click on it did
        for path in ("/", "/v2", "/v2/runs/flow-run/1"):
            page.open(f"{first.origin}{path}", dashboard, 1280, 800)
        assert page.value("document.cookie") == "prefect_ui_version=v1"

        first.let_in()
        for name, field in (("retrain", "needs.approval"), ("watch", "new.rows"), ("rollback", "version")):
            deployment = first.api.get(f"deployments/name/{name}/{name}").json()["id"]
            shows_form = f"/{field}/i.test(document.body.innerText)"
            page.open(f"{first.origin}/deployments/deployment/{deployment}/run", shows_form, 1280, 2000)
            assert "Property is type" not in page.value("document.body.innerText")


def test_the_ui_is_served_without_the_second_ui(first: Up) -> None:
    assert httpx.get(first.origin, follow_redirects=True, headers={"Accept": "text/html"}).status_code == 200
    ui_settings = httpx.get(f"{first.origin}/ui-settings").json()
    assert (ui_settings["api_url"], ui_settings["csrf_enabled"]) == (f"{first.origin}/api", True)
    assert ui_settings["available_uis"] == ["v1"]  # the other calls an analytics host


def test_pausing_works_while_runs_are_being_written(first: Up) -> None:
    first.let_in()
    deployment = first.api.get("deployments/name/retrain/retrain").json()
    [schedule] = deployment["schedules"]
    flow = deployment["flow_id"]
    until = time.monotonic() + 3

    def write_runs() -> list[int]:
        codes = []
        while time.monotonic() < until:
            run = first.api.post("flow_runs/", json={"flow_id": flow, "state": {"type": "PENDING"}})
            codes.append(run.status_code)
            if run.is_success:
                path = f"flow_runs/{run.json()['id']}/set_state"
                codes += [
                    first.api.post(path, json={"state": {"type": kind}}).status_code
                    for kind in ("RUNNING", "COMPLETED")
                ]
        return codes

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write_runs) for _ in range(3)]
        path = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
        pauses = [first.api.patch(path, json={"active": bool(number % 2)}).status_code for number in range(20)]
        answers = [code for writer in writers for code in writer.result()]
    assert pauses == [204] * 20
    assert set(answers) == {201}


def test_without_a_model_the_service_waits(first: Up) -> None:
    output = first.out.read_text()
    lines = output.splitlines()
    banner = lines[lines.index(f"UI          {first.origin}") :]
    assert banner[1].startswith("service     waits: no model to serve: ")
    assert banner[2] == "playground  waits for the service"
    assert re.fullmatch(r"next run    20\d\d-\d\d-\d\d \d\d:\d\d \S+", banner[3])
    assert banner[4] == "all is up; Ctrl-C stops it; logs: registry/logs/"
    assert "prefect deployment run" not in output  # Prefect's advice is in its log alone
    assert {log.stem for log in (first.folder / "registry" / "logs").iterdir()} == {"server", "deploy", "worker"}
    assert within(300, lambda: "Worker" in (first.folder / "registry" / "logs" / "worker.log").read_text())
    with socket.socket() as service:
        assert service.connect_ex(("127.0.0.1", first.service_port)) != 0


def test_a_second_stack_and_a_port_in_use_are_refused(first: Up, tmp_path: Path) -> None:
    def refused(folder: Path, *options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "up", *options],
            cwd=folder,
            env=clean_environment() | {"PYTHONPATH": str(first.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        return done.stderr

    holder = f"process {first.process.pid}"
    message = f"error: `fresh up` is already running in this folder ({holder}); stop it there with Ctrl-C\n"
    assert refused(first.folder, "--port", str(free_port())) == message
    shutil.copy(first.folder / "prefect.yaml", tmp_path)
    port_message = f"error: port {first.port} cannot be used: Address already in use; give another one: --port N\n"
    assert refused(tmp_path, "--port", str(first.port)) == port_message


@dataclass(frozen=True)
class Killed:
    """The first stack after its worker was killed during a training."""

    run: dict[str, Any]
    code: int
    family: list[int]
    trainers: list[int]


@pytest.fixture(scope="module")
def killed(first: Up) -> Killed:
    """Start a run by an event, pause the schedule, and kill the worker."""
    first.let_in()
    (first.folder / "finetune.py").write_text(TRAINS_ON)
    event = {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": "corpus.changed"}
    assert first.api.post("events", json=[{**event, "resource": {"prefect.resource.id": "corpus"}}]).is_success
    pids = first.folder / "pids"
    assert within(300, pids.exists), first.out.read_text()
    [run] = first.post("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
    deployment = first.api.get("deployments/name/retrain/retrain").json()
    for schedule in deployment["schedules"]:
        path = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
        assert first.api.patch(path, json={"active": False}).is_success  # a person pauses it
    family = first.family()
    first.part("prefect worker start").kill()
    code = first.process.wait(300)
    return Killed(run, code, family, [int(pid) for pid in pids.read_text().split()])


def test_a_killed_worker_stops_everything_and_crashes_its_run(first: Up, killed: Killed) -> None:
    assert killed.run["parameters"]["reason"] == "an event corpus.changed was posted"
    assert killed.code == CRASH
    assert "error: the worker was ended by SIGKILL, so everything was stopped; see" in first.out.read_text()
    assert gone([*killed.family, *killed.trainers])
    assert (first.folder / "checkpoint").read_text() == "whole"
    kind, message = state(first.folder, killed.run["id"])
    assert kind == "CRASHED", message


def test_the_next_start_keeps_settings_and_cleans_up_after_the_outage(
    killed: Killed, folder: Path, tiny_gpt2: Path
) -> None:
    (folder / "pids").unlink()
    lost, died, lively, missed, newest = outage(folder, killed.run["id"])
    second = Up(folder, MODEL_DIR=str(tiny_gpt2))
    try:
        second.wait_until("all is up")
        second.let_in()
        assert (
            second.api.get(f"flow_runs/{killed.run['id']}").json()["state"]["type"] == "CRASHED"
        )  # from the first one's time
        [nightly] = second.api.get("deployments/name/retrain/retrain").json()["schedules"]
        assert not nightly["active"]  # a pause outlives a restart and another deployment
        message = "its process was gone when `fresh up` started; the next run resumes from its last checkpoint"
        assert state(folder, lost) == ("CRASHED", message)
        assert state(folder, died) == ("CANCELLED", message)
        assert state(folder, lively)[0] == "RUNNING"
        assert second.api.get(f"flow_runs/{missed}").json()["state"]["name"] == "Missed"
        assert within(300, (folder / "pids").exists), second.out.read_text()
        assert state(folder, newest)[0] == "RUNNING"  # late, and nothing that crashed holds its place

        service = f"http://127.0.0.1:{second.service_port}"
        assert f"service     {service}\nplayground  {service}/playground\nnext run    " in second.out.read_text()
        assert within(300, lambda: _is_ready(service)), second.out.read_text()
        if sys.platform == "linux":
            control = ports(second.part("prefect worker start").pid)
            assert ports(second.process.pid) == {second.port, second.service_port, *control}

        family = second.family()
        assert len(family) >= 6  # server, worker and service, each with its guardian
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(300) == 0
        assert gone([*family, *map(int, (folder / "pids").read_text().split())])
        kind, message = state(folder, newest)
        assert kind == "CRASHED"
        assert message.startswith("`fresh up` was stopped while it ran")
        for port in (second.port, second.service_port):
            with socket.socket() as listening:
                assert listening.connect_ex(("127.0.0.1", port)) != 0
    finally:
        second.end()


def outage(folder: Path, run: str) -> tuple[str, str, str, str, str]:
    """Put into the database what an outage leaves, from the row of a crashed run; return the ids of the runs.

    One that runs, one that is being cancelled, both with processes that are gone; one that lives;
    two missed slots of which the second is newer.
    """
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = ["lost", "died", "lively", "missed", "newest"]
    ids = {name: f"00000000-0000-4000-8000-{number:012d}" for number, name in enumerate(names)}
    now = datetime.now(UTC)

    def moment(hours: float) -> str:
        return f"{now - timedelta(hours=hours):%Y-%m-%d %H:%M:%S.%f}"

    with sqlite3.connect(folder / "registry" / "prefect" / "prefect.db") as database:
        database.row_factory = sqlite3.Row
        crashed = dict(database.execute("select * from flow_run where id = ?", [run]).fetchone())
        of_crashed = dict(
            database.execute("select * from flow_run_state where id = ?", [crashed["state_id"]]).fetchone()
        )

        def put(name: str, kind: str, pid: int | None, hours: float) -> None:
            slot = kind == "SCHEDULED"
            run = {
                **crashed,
                "id": ids[name],
                "name": name,
                "idempotency_key": name,
                "state_id": None,
                "state_type": kind,
                "state_name": kind.title(),
                "state_timestamp": moment(hours),
                "auto_scheduled": slot,
                "run_count": 0 if slot else 1,
                "infrastructure_pid": None if pid is None else str(pid),
                "start_time": None if slot else moment(hours),
                "end_time": None,
                "expected_start_time": moment(hours),
                "next_scheduled_start_time": moment(hours) if slot else None,
            }
            its_state = {
                **of_crashed,
                "id": ids[name][:-4] + "f" + ids[name][-3:],
                "flow_run_id": ids[name],
                "type": kind,
                "name": kind.title(),
                "message": "",
                "timestamp": moment(hours),
            }
            for table, row in (("flow_run", run), ("flow_run_state", its_state)):
                holes = ", ".join("?" * len(row))
                columns = ", ".join(f'"{column}"' for column in row)
                database.execute(f"insert into {table} ({columns}) values ({holes})", list(row.values()))  # noqa: S608
            database.execute("update flow_run set state_id = ? where id = ?", [its_state["id"], ids[name]])

        put("lost", "RUNNING", ended.pid, 1)
        put("died", "CANCELLING", ended.pid, 0.01)  # after five minutes Prefect itself gives it up
        put("lively", "RUNNING", os.getpid(), 0)
        put("missed", "SCHEDULED", None, 30)
        put("newest", "SCHEDULED", None, 6)
    database.close()
    return (ids["lost"], ids["died"], ids["lively"], ids["missed"], ids["newest"])


def _is_ready(service: str) -> bool:
    try:
        return httpx.get(f"{service}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_killed_server_is_restarted_and_the_worker_stays(first: Up, folder: Path) -> None:
    first.end()
    third = Up(folder, "--no-service")
    try:
        third.wait_until("all is up")
        worker, server = third.part("prefect worker start"), third.part("flows.runtime.server:app")
        family = third.family()
        server.kill()
        third.wait_until("the server was ended by SIGKILL and is restarted; runs continue; see")
        assert within(300, lambda: _answers(third))
        assert worker.is_running()
        third.process.send_signal(signal.SIGTERM)
        assert third.process.wait(300) == 0
        assert gone(family)
    finally:
        third.end()


def _answers(up: Up) -> bool:
    try:
        return up.api.get("health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_public_host_without_a_password_is_refused_at_start(folder: Path) -> None:
    refused = Up(folder, PREFECT_SERVER_API_HOST="0.0.0.0")  # noqa: S104 - it is refused
    try:
        assert refused.process.wait(300) == 2
        assert refused.out.read_text().startswith("error: PREFECT_SERVER_API_HOST is 0.0.0.0, where others can reach")
    finally:
        refused.end()
