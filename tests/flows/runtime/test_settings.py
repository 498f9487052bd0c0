"""The settings of the project's Prefect processes: defaults, precedence, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from flows.runtime import settings
from flows.runtime.server import Guard
from pipeline.command import UserError
from tests.conftest import ROOT

OURS = ("PREFECT", "BENTOML", "DO_NOT_TRACK")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(OURS):
            monkeypatch.delenv(name)


def test_the_server_is_local_and_accepts_only_its_own_pages(tmp_path: Path) -> None:
    made = settings.environment(tmp_path, 4321)
    assert made["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert made["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert made["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == (
        "http://127.0.0.1:4321,http://localhost:4321,http://[::1]:4321"
    )
    assert made["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"


@pytest.mark.integration
def test_prefect_reads_every_setting(tmp_path: Path) -> None:
    show = (
        "from prefect.settings import get_current_settings as now; s = now(); a = s.server.api;"
        "print(s.home, a.cors_allowed_origins, a.csrf_protection_enabled, s.server.analytics_enabled,"
        " s.server.ui.v2_enabled, s.server.ui.show_promotional_content, s.flows.heartbeat_frequency,"
        " s.server.concurrency.lease_storage, s.server.services.late_runs.after_seconds, s.worker.webserver.host)"
    )
    done = subprocess.run(
        [sys.executable, "-c", show],
        env=settings.environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split(maxsplit=9) == [
        str(tmp_path / "registry" / "prefect"),
        "http://127.0.0.1:4200,http://localhost:4200,http://[::1]:4200",
        *("True", "False", "False", "False", "30"),
        "prefect.server.concurrency.lease_storage.filesystem",
        "0:01:00",
        "127.0.0.1\n",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREFECT_HOME", "/srv/prefect"),
        ("PREFECT_SERVER_ANALYTICS_ENABLED", "true"),
        ("PREFECT_RUNNER_HEARTBEAT_FREQUENCY", "60"),
        ("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "https://ui.example.org"),
    ],
)
def test_settings_of_the_user_have_precedence_under_any_name(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = settings.environment(tmp_path)
    monkeypatch.setenv(name, value)
    made = settings.environment(tmp_path)
    assert made[name] == value
    assert sum(key not in made for key in others) == (0 if name in others else 1)  # its other name is left alone


def test_the_address_of_another_server_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://api.prefect.cloud/api")
    assert settings.environment(tmp_path)["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "prefect.example.org"])  # noqa: S104 - it is refused
def test_a_public_host_needs_a_password(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_HOST", host)
    with pytest.raises(UserError, match=f"is {host}, .* set PREFECT_SERVER_API_AUTH_STRING to user:password"):
        settings.environment(tmp_path)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "ann:correct horse")
    made = settings.environment(tmp_path)
    assert made["PREFECT_SERVER_API_HOST"] == host
    assert made["PREFECT_API_AUTH_STRING"] == "ann:correct horse"
    assert made["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"


def test_a_generated_password_is_private_and_set_for_server_and_clients(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    assert "PREFECT_API_AUTH_STRING" not in settings.environment(tmp_path)
    password = settings.make_password(tmp_path)
    assert password
    assert (tmp_path / settings.PASSWORD).stat().st_mode & 0o777 == 0o600
    assert settings.make_password(tmp_path) is None
    made = settings.environment(tmp_path)
    assert (made["PREFECT_SERVER_API_AUTH_STRING"], made["PREFECT_API_AUTH_STRING"]) == (password, password)
    assert "PREFECT_API_AUTH_STRING" not in settings.environment(tmp_path, has_password=False)
    (tmp_path / settings.PASSWORD).chmod(0o644)  # as in a copy of the project: others may have read it
    assert settings.make_password(tmp_path) not in (None, password)
    assert [path.name for path in (tmp_path / "registry").iterdir()] == [settings.PASSWORD.name]


def test_a_password_in_the_environment_has_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registry").mkdir()
    settings.make_password(tmp_path)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "ann:correct horse")
    assert settings.environment(tmp_path)["PREFECT_API_AUTH_STRING"] == "ann:correct horse"


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_loopback_bypasses_a_proxy(proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert "NO_PROXY" not in settings.environment(tmp_path)
    monkeypatch.setenv(proxy, "http://proxy.example:3128")
    assert settings.environment(tmp_path)["no_proxy"] == "localhost,127.0.0.1,::1"
    monkeypatch.setenv("NO_PROXY", "intranet.example,localhost")
    for name in ("NO_PROXY", "no_proxy"):
        assert settings.environment(tmp_path)[name] == "intranet.example,localhost,127.0.0.1,::1"
    monkeypatch.setenv("NO_PROXY", "*")
    assert "no_proxy" not in settings.environment(tmp_path)


def test_an_empty_password_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "")
    with pytest.raises(UserError, match=r"^PREFECT_SERVER_API_AUTH_STRING is empty; set it"):
        settings.environment(tmp_path)
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING")
    (tmp_path / "registry").mkdir()
    (tmp_path / settings.PASSWORD).touch(0o600)
    with pytest.raises(UserError, match=r"^registry/prefect\.password is empty; delete it"):
        settings.environment(tmp_path)


def test_settings_that_let_web_pages_in_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "*")
    monkeypatch.setenv("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "False")
    with pytest.raises(UserError) as refused:
        settings.environment(tmp_path)
    origins, csrf = str(refused.value).splitlines()
    assert origins.startswith("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS is *, which lets any web page in")
    assert csrf.startswith("PREFECT_SERVER_CSRF_PROTECTION_ENABLED is False, which lets any web page post")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_local_hosts_need_no_password(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_HOST", host)
    near = "[::1]" if host == "::1" else host
    assert settings.environment(tmp_path)["PREFECT_API_URL"] == f"http://{near}:4200/api"


def test_the_command_prints_shell_exports(tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-P", settings.__file__, "--port", "4321"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    shell = f'{printed}\necho "$PREFECT_API_URL $PREFECT_HOME"'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["http://127.0.0.1:4321/api", str(tmp_path / "registry" / "prefect")]


def page(headers: dict[str, str]) -> tuple[int, str]:
    """Return what the guard answers to a request and to a WebSocket with these headers."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    async def greet(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello")), WebSocketRoute("/socket", greet)])
    guarded = Guard(app, ["http://127.0.0.1:4200", "https://ui.example.org"])
    with TestClient(guarded, base_url="http://127.0.0.1:4200") as client:
        code = client.get("/", headers=headers).status_code
        try:
            with client.websocket_connect("ws://127.0.0.1:4200/socket", headers=headers) as socket:
                return code, socket.receive_text()
        except WebSocketDisconnect:
            return code, "refused"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:4200"},
        {"host": "localhost:4200"},
        {"host": "[::1]:4200"},
        {"host": "ui.example.org", "origin": "https://ui.example.org"},
    ],
)
def test_local_programs_and_the_ui_are_allowed(headers: dict[str, str]) -> None:
    assert page(headers) == (200, "hello")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "null"},
        {"origin": ""},
        {"host": "evil.example:4200"},
        {"host": "127.0.0.1.evil.example:4200"},
        {"host": "evil.example:4200", "origin": "http://evil.example:4200"},
        {"host": ""},
    ],
)
def test_other_origins_and_host_names_are_refused(headers: dict[str, str]) -> None:
    assert page(headers) == (403, "refused")
