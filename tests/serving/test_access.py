"""Access control, startup checks and graceful shutdown: in process, and against a real uvicorn."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import httpx
import psutil
import pytest
from bentoml.exceptions import BentoMLException
from click.testing import CliRunner, Result
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from pipeline.command import UserError
from serving import access, http_server, keys, startup_checks, supervisor
from serving.bentoml_internals import BentoMLContainer
from serving.shutdown import GracefulShutdown
from tests.serving.conftest import service_settings

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEYS", "API_KEYS_FILE", "ALLOW_ANONYMOUS"):
        monkeypatch.delenv(name, raising=False)


def trivial() -> FastAPI:
    app = FastAPI(docs_url=None, openapi_url=None)

    @app.get("/")
    @app.get("/readyz")
    @app.get("/metrics")
    @app.get("/playground")
    async def fine() -> str:
        return "fine"

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    return app


def client(host: str = "127.0.0.1", address: str = "127.0.0.1", **limits: Any) -> TestClient:
    app = access.wrap(trivial(), service_settings(**limits))
    return TestClient(app, base_url=f"http://{host}", client=(address, 1))


def refusal(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"]


# API keys


def test_a_listed_key_is_accepted_in_either_header_and_no_other_key(monkeypatch: pytest.MonkeyPatch) -> None:
    (alice, first), (bob, second) = keys.new("alice"), keys.new("bob")
    monkeypatch.setenv("API_KEYS", f"{first}, {second}")
    http = client(host="service.example")
    for key in (alice, bob):
        assert http.get("/", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert http.get("/", headers={"Authorization": f"bearer  {key}"}).status_code == 200
        assert http.get("/", headers={"X-Api-Key": key}).status_code == 200
    for wrong in ({}, {"X-Api-Key": alice[:-1]}, {"X-Api-Key": first.split(":")[1]}, {"Authorization": f"Basic {bob}"}):
        answer = http.get("/", headers=wrong)
        assert refusal(answer) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert refusal(http.get("/", headers={"X-Api-Key": b"\xff\xfe"})) == (401, "invalid_api_key")


def test_probes_and_pages_are_open_and_everything_else_requires_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", keys.new("alice")[1])
    http = client()
    assert http.get("/readyz").status_code == 200
    assert http.get("/playground").status_code == 200
    for path in ("/", "/metrics", "/nothing", "/readyz/../", "/docs.jsonx", "/playgrounds"):
        assert http.get(path).status_code == 401
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    assert http.get("/", headers=browser).status_code == 200  # the playground, which asks for the key
    assert http.get("/metrics", headers=browser).status_code == 401


def test_a_changed_key_file_counts_from_the_next_request_and_fails_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("bentoml"), "propagate", True)
    (alice, first), (bob, second) = keys.new("alice"), keys.new("bob")
    file = tmp_path / "keys"
    file.write_text(f"# people\n\n{first}\n", encoding="utf-8")
    monkeypatch.setenv("API_KEYS_FILE", str(file))
    http = client()

    def statuses() -> tuple[int, int]:
        caplog.clear()
        alices, bobs = (http.get("/", headers={"X-Api-Key": key}).status_code for key in (alice, bob))
        return alices, bobs

    assert statuses() == (200, 401)
    for content, expected, logged in (
        (f"{first}\n{second}\n", (200, 200), ""),
        (f"{second}\n", (401, 200), ""),
        (f"{first}\n{second}\n", (200, 200), ""),
        (f"{alice}\n{second}\n", (401, 200), "1 API keys are accepted; ignored: line 1 of"),  # a key, not its hash
        (f"# caf\xe9\n{second}\n".encode("latin-1"), (401, 200), ""),
        (f"{alice}\n", (401, 401), "line 1 of"),
        (f"{first}\n{second}\n", (200, 200), ""),
        ("", (401, 401), "holds no key, so all requests are refused"),
        (f"{first}\n{second}\n", (200, 200), ""),
        ("# nobody any more\n", (401, 401), "0 API keys are accepted"),
        (f"{first}\n", (200, 401), ""),
        (None, (401, 401), "cannot be read: No such file"),
    ):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert statuses() == expected, content
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert (len(errors) == 1 and logged in errors[0]) if logged else not errors
        assert alice not in caplog.text


def test_a_key_file_put_back_with_its_old_size_and_time_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alice, first), (_, second) = keys.new("alice"), keys.new("alice")
    file = tmp_path / "keys"
    file.write_text(first, encoding="utf-8")
    before = file.stat()
    monkeypatch.setenv("API_KEYS_FILE", str(file))
    http = client()
    assert http.get("/", headers={"X-Api-Key": alice}).status_code == 200
    file.write_text(second, encoding="utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert http.get("/", headers={"X-Api-Key": alice}).status_code == 401


def test_an_invalid_key_file_is_reported_with_all_problems_and_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, line = keys.new("alice")
    file = tmp_path / "keys"
    file.write_text(f"{line}\nbob:{key}\nalice:{'0' * 64}\ncarol:{line.split(':')[1]}\n", encoding="utf-8")
    monkeypatch.setenv("API_KEYS_FILE", str(file))
    with pytest.raises(UserError) as raised:
        keys.Keys().check()
    for part in (f"line 2 of {file} is not NAME:HASH", "line 3 of", "the name 'alice' a second time", "line 4 of"):
        assert part in str(raised.value)
    assert key not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("API_KEYS", ""), ("API_KEYS", " , "), ("API_KEYS_FILE", ""), ("API_KEYS_FILE", "/dev/null")],
)
def test_configured_but_empty_keys_refuse_all_requests_and_the_start(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert client().get("/").status_code == 401
    with pytest.raises(UserError, match=r"holds no key, so all requests are refused|cannot be read: Is a directory"):
        keys.Keys().check()


def test_the_command_makes_a_key_that_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "serving.keys", "new", "alice"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    key, line = (part.split()[-1] for part in made.stdout.splitlines())
    monkeypatch.setenv("API_KEYS", line)
    assert client().get("/", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert key not in line


# Where it starts


@pytest.fixture(autouse=True)
def the_folder_of_metrics() -> Iterator[Path]:
    yield Path(BentoMLContainer.prometheus_multiproc_dir.get())
    BentoMLContainer.prometheus_multiproc_dir.reset()


def start(host: str, port: int, anonymous: bool = False) -> Result:
    """Do what is checked when `bentoml serve` starts."""

    @click.command()
    @click.option("--host")
    @click.option("--port", type=int)
    def serve(host: str, port: int) -> None:
        startup_checks.check(service_settings(allow_anonymous=anonymous))

    return CliRunner().invoke(serve, ["--host", host, "--port", str(port)])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.mark.parametrize("port", [-1, 0, 65536, 70000, 80_000_000_000])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    error = start("127.0.0.1", port).exception
    assert isinstance(error, BentoMLException)
    assert str(error) == (
        f"port {port} is out of range, expected 1 to 65535; choose another one with --port N or BENTOML_PORT"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_refused_in_one_sentence(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        try:
            taken.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no such address")
        taken.listen()
        port = taken.getsockname()[1]
        error = start(host, port).exception
    assert isinstance(error, BentoMLException)
    assert str(error).startswith(f"port {port} cannot be used: Address already in use; choose another one")


def test_each_server_has_its_own_metrics_and_a_refused_start_leaves_them_alone(
    the_folder_of_metrics: Path,
) -> None:
    assert start("0.0.0.0", _free_port()).exception  # noqa: S104 - it is refused
    assert Path(BentoMLContainer.prometheus_multiproc_dir.get()) == the_folder_of_metrics
    assert start("127.0.0.1", _free_port()).exception is None
    assert Path(BentoMLContainer.prometheus_multiproc_dir.get()) == supervisor.runtime_folder() / "metrics"


def test_an_invalid_value_of_allow_anonymous_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOW_ANONYMOUS", "maybe")
    error = start("0.0.0.0", _free_port()).exception  # noqa: S104 - it is refused
    assert str(error) == "ALLOW_ANONYMOUS is 'maybe', expected true or false"


@pytest.mark.parametrize(
    ("host", "environment", "anonymous", "refused"),
    [
        ("0.0.0.0", {}, False, True),  # noqa: S104 - what is tested
        ("::", {}, False, True),
        ("192.168.1.5", {}, False, True),
        ("127.0.0.1", {}, False, False),
        ("::1", {}, False, False),
        ("0.0.0.0", {"API_KEYS": keys.new("alice")[1]}, False, False),  # noqa: S104 - likewise
        ("0.0.0.0", {}, True, False),  # noqa: S104 - likewise
        ("0.0.0.0", {"ALLOW_ANONYMOUS": "true"}, False, False),  # noqa: S104 - likewise
        ("127.0.0.1", {"API_KEYS": "alice"}, False, True),
    ],
)
def test_the_start_is_refused_when_open_to_others_without_keys(
    host: str, environment: dict[str, str], anonymous: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    done = start(host, _free_port(), anonymous)
    if refused:
        assert isinstance(done.exception, BentoMLException)
        assert "python -m serving.keys new" in str(done.exception)
    else:
        assert done.exception is None


# Web pages and hosts, without keys


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost", "[::1]:3000", "app.localhost"])
def test_requests_that_name_this_machine_are_allowed(host: str) -> None:
    assert client().get("/", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.example", "[::1", "192.168.1.5"])
def test_a_name_that_points_here_is_refused(host: str) -> None:
    assert refusal(client().get("/", headers={"Host": host})) == (403, "host_not_allowed")


def test_pages_of_other_origins_are_refused_unless_allowed_and_then_may_read_the_answer() -> None:
    page = {"Origin": "https://page.example"}
    assert refusal(client().post("/length", headers=page)) == (403, "origin_not_allowed")
    assert refusal(client().get("/", headers={"Origin": "null"})) == (403, "origin_not_allowed")
    allowing = client(allow_origins=("https://page.example",))
    answer = allowing.get("/", headers=page)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert refusal(allowing.get("/", headers={"Origin": "https://other.example"})) == (403, "origin_not_allowed")


def test_a_preflight_is_answered_before_the_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", keys.new("alice")[1])
    preflight = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    allowed = client(allow_origins=("https://page.example",)).options("/length", headers=preflight)
    assert allowed.status_code == 200
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    by_default = client().options("/length", headers=preflight)
    assert by_default.status_code == 401
    assert not [name for name in by_default.headers if name.startswith("access-control")]


# Rate


def test_each_address_has_its_own_rate_and_the_answer_says_when_to_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(access.time, "monotonic", lambda: now)
    app = access.wrap(trivial(), service_settings(requests_per_minute=3))

    def http(address: str) -> httpx.Response:
        return TestClient(app, base_url="http://127.0.0.1", client=(address, 1)).get("/")

    assert [http("10.0.0.1").status_code for _ in range(4)] == [200, 200, 200, 429]
    answer = http("10.0.0.1")
    assert refusal(answer) == (429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] == "20"
    assert http("10.0.0.2").status_code == 200
    now = 20.0
    assert [http("10.0.0.1").status_code for _ in range(2)] == [200, 429]
    assert [http(f"2001:db8::{number}").status_code for number in range(4)] == [200, 200, 200, 429]  # one caller's /64
    assert [http(f"::ffff:10.0.1.{number}").status_code for number in range(4)] == [200] * 4


def test_a_key_has_one_rate_for_all_addresses_and_probes_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    key, line = keys.new("alice")
    monkeypatch.setenv("API_KEYS", line)
    http = client(requests_per_minute=1)
    assert http.get("/", headers={"X-Api-Key": key}).status_code == 200
    assert http.get("/", headers={"X-Api-Key": key}).status_code == 429
    assert {http.get("/readyz").status_code for _ in range(5)} == {200}


def test_the_number_of_remembered_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_CALLERS", 3)
    rate = access.RateLimitGuard(trivial(), 1)
    for number in range(10):
        asyncio.run(_pass(rate, f"10.0.0.{number}"))
    assert len(rate._buckets) == 3


async def _pass(app: ASGIApp, address: str) -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": (address, 1), "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    await app(scope, receive, send)


# Bodies, against a real server


@contextmanager
def uvicorn(
    tmp_path: Path, runner: tuple[str, ...] = (), **environment: str
) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Run `serve` in a process of its own, or of the command `runner`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    program = f"from tests.serving.test_access import serve; serve({port})"
    command = [*runner, sys.executable, "-c", program]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, "SIGNS": str(tmp_path), **environment}, stdout=log, stderr=log
        )
        try:
            _wait(lambda: _listens(port), tmp_path / "log")
            yield port, process
        finally:
            process.kill()
            process.wait()


def serve(port: int) -> None:
    """Serve an app with slow routes, as BentoML's worker does."""
    import uvicorn

    app = trivial()

    folder = Path(os.environ["SIGNS"])

    @app.get("/slow")
    async def slow() -> str:
        (folder / "slow began").touch()
        while not (folder / "slow may end").exists():
            await asyncio.sleep(0.02)
        return "done"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            (folder / f"stream began {uuid.uuid4()}").touch()
            while True:
                yield "part " * 100
                await asyncio.sleep(0.05)

        return StreamingResponse(parts())

    settings = service_settings(
        upload_seconds=float(os.environ.get("UPLOAD_SECONDS", "300")), max_body_bytes=100_000, head_seconds=300
    )
    limit_shutdown = http_server.install(settings)
    drain_seconds = float(os.environ.get("DRAIN_SECONDS", "300"))
    wrapped = GracefulShutdown(access.wrap(app, settings), drain_seconds, limit_shutdown)
    uvicorn.Server(uvicorn.Config(wrapped, port=port)).run()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _wait(condition: Callable[[], bool], log: Path | None = None) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text(encoding="utf-8") if log else "it did not come about")


def raw(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send the parts and return what comes back first."""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        return connection.recv(1000)


HEAD = b"POST /length HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.mark.integration
def test_bodies_are_bounded_in_size(tmp_path: Path) -> None:
    with uvicorn(tmp_path) as (port, _):
        url = f"http://127.0.0.1:{port}/length"
        assert httpx.post(url, content=b"x" * 100_000).json() == 100_000
        assert httpx.post(url, content=(b"x" * 1000 for _ in range(100))).json() == 100_000
        # The whole body is sent before a client like this reads: the answer must not be lost to a reset.
        assert refusal(httpx.post(url, content=b"x" * 5_000_000)) == (413, "body_too_large")
        assert refusal(httpx.post(url, content=(b"x" * 1000 for _ in range(101)))) == (413, "body_too_large")

        waiting = HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999999999\r\n\r\n"
        assert b" 413 " in raw(port, waiting)  # with nothing of the body, which may take 300 seconds to come


@pytest.mark.integration
def test_bodies_are_bounded_in_time(tmp_path: Path) -> None:
    with uvicorn(tmp_path, UPLOAD_SECONDS="0.5") as (port, _):
        assert b" 408 " in raw(port, HEAD + b"Content-Length: 100\r\n\r\n", b"slow")
        trickle = [b"1\r\nx\r\n"] * 10
        assert b" 408 " in raw(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *trickle, pause=0.09)


# SIGTERM


def answer(url: str) -> tuple[int, str | None, str | None]:
    got = httpx.get(url, timeout=300)
    return got.status_code, got.headers.get("retry-after"), got.headers.get("connection")


@pytest.mark.integration
def test_after_sigterm_running_requests_finish_and_new_ones_get_503(tmp_path: Path) -> None:
    with uvicorn(tmp_path) as (port, process), ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client() as kept:
            assert kept.get(f"{url}/").status_code == 200
            running = pool.submit(answer, f"{url}/slow")
            _wait((tmp_path / "slow began").exists)
            process.send_signal(signal.SIGTERM)
            _wait(lambda: answer(f"{url}/readyz") == (503, "1", "close"))
            assert kept.get(f"{url}/").status_code == 503  # a connection from before is no way around
            assert answer(f"{url}/") == (503, "1", "close")
            assert answer(f"{url}/metrics")[0] == 200
            assert not running.done()
            (tmp_path / "slow may end").touch()
        assert running.result() == (200, None, "close")
        process.wait(300)
        assert not _listens(port)
        assert b"Traceback" not in (tmp_path / "log").read_bytes()


@pytest.mark.integration
def test_a_request_beyond_the_bound_is_cut_off_and_its_answer_looks_incomplete(tmp_path: Path) -> None:
    with uvicorn(tmp_path, DRAIN_SECONDS="0.5") as (port, process), ThreadPoolExecutor(2) as pool:
        url = f"http://127.0.0.1:{port}"
        slow = pool.submit(answer, f"{url}/slow")
        stream = pool.submit(answer, f"{url}/stream")
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")  # and never reads
            _wait((tmp_path / "slow began").exists)
            _wait(lambda: len(list(tmp_path.glob("stream began *"))) == 2)
            process.send_signal(signal.SIGTERM)
            assert slow.result() == (503, "1", "close")
            with pytest.raises(httpx.RemoteProtocolError):
                stream.result()
            process.wait(300)


@pytest.mark.integration
def test_a_worker_whose_supervisor_was_killed_finishes_its_requests_and_ends(tmp_path: Path) -> None:
    supervising = (sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])")
    with uvicorn(tmp_path, supervising) as (port, supervisor), ThreadPoolExecutor(1) as pool:
        [worker] = psutil.Process(supervisor.pid).children()
        try:
            running = pool.submit(answer, f"http://127.0.0.1:{port}/slow")
            _wait((tmp_path / "slow began").exists)
            supervisor.kill()
            _wait(lambda: answer(f"http://127.0.0.1:{port}/readyz")[0] == 503)
            (tmp_path / "slow may end").touch()
            assert running.result() == (200, None, "close")
            _wait(lambda: not _listens(port))
        finally:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
    assert b"the supervisor of this worker was killed" in (tmp_path / "log").read_bytes()
