"""Who can reach the supervisor of `bentoml serve`: only its own user, through a folder of mode 0700."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from bentoml.exceptions import BentoMLException

from serving import metric_store, supervisor
from tests.serving.conftest import REPOSITORY, Server, serving
from tests.sockets import listening

linux = pytest.mark.skipif(sys.platform != "linux", reason="the sockets of a process are read from /proc")


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for temporary files, of this process and its children."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    supervisor.runtime_folder.cache_clear()
    yield folder
    supervisor.runtime_folder.cache_clear()


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if happened():
            return True
        time.sleep(0.1)
    return False


def is_ready(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


# The whole server


@linux
@pytest.mark.integration
def test_only_the_services_port_is_open_and_after_sigterm_nothing_is_left(checkout: Path, temporary: Path) -> None:
    with serving(".", cwd=checkout) as server:
        [folder] = temporary.glob(f"{supervisor.FOLDER_PREFIX}*")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert listening(server.pid) == {server.port, f"{folder}/control", f"{folder}/events"}
        server.post(prompt="Once", max_new_tokens=1)
        assert "\ngpt2_completion_tokens_total 1.0\n" in httpx.get(f"{server.url}/metrics").text
        assert list((folder / "metrics").iterdir()) == []  # one worker keeps them in memory
        process = psutil.Process(server.pid)
        process.terminate()
        assert within(300, lambda: process.status() == psutil.STATUS_ZOMBIE)
    assert "Traceback" not in server.log.read_text(encoding="utf-8")
    assert list(temporary.iterdir()) == []


@linux
@pytest.mark.slow  # the supervisor looks at its workers every 10 s
@pytest.mark.integration
def test_a_killed_worker_comes_back(checkout: Path, temporary: Path) -> None:
    with serving(".", cwd=checkout) as server:
        before = listening(server.pid)
        process = psutil.Process(server.pid)
        [worker] = process.children()
        worker.kill()
        assert within(300, lambda: [one.pid for one in process.children()] not in ([], [worker.pid]))
        assert within(300, lambda: is_ready(server))
        assert listening(server.pid) == before
    assert list(temporary.iterdir()) == []


# Its parts


class _Watcher:
    def __init__(self, numprocesses: int) -> None:
        self.numprocesses = numprocesses
        self.env = {metric_store.FOLDER: "shared"}


def test_bentoml_calls_the_function_that_is_replaced_and_circus_gets_unix_sockets(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bentoml._internal.utils import circus

    made: list[dict[str, Any]] = []
    monkeypatch.setattr(circus, "create_standalone_arbiter", circus.create_standalone_arbiter)  # to be put back
    monkeypatch.setattr(circus, "Arbiter", lambda _watchers, **options: made.append(options))
    supervisor.install()
    one, several = _Watcher(1), _Watcher(2)
    circus.create_standalone_arbiter([one, several], sockets=[])
    [folder] = temporary.iterdir()
    temporary_files = {"TMPDIR": f"{folder}/temporary"}
    assert one.env == temporary_files
    assert several.env == {metric_store.FOLDER: f"{folder}/metrics", **temporary_files}
    assert made == [
        {
            "endpoint": f"ipc://{folder}/control",
            "pubsub_endpoint": f"ipc://{folder}/events",
            "check_delay": 10,
            "sockets": [],
        }
    ]


def test_another_way_of_bentoml_to_make_its_supervisor_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("_bentoml_impl.server.serve_http", lambda: None)
    with pytest.raises(
        BentoMLException, match=r"^BentoML \S+ starts its supervisor in an unknown way, .* constraints\.txt"
    ):
        supervisor.install()


def test_a_folder_too_deep_for_a_socket_is_passed_over(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = temporary / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    made = supervisor.runtime_folder()
    assert made.parent == Path("/tmp")  # noqa: S108
    assert made.stat().st_mode & 0o777 == 0o700
    assert list(deep.iterdir()) == []
    shutil.rmtree(made)


def test_no_space_for_the_folder_is_reported_in_one_sentence(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary.chmod(0o500)
    if os.geteuid() == 0:
        monkeypatch.setattr("tempfile.mkdtemp", _no_space)
    with pytest.raises(BentoMLException, match=r"^no folder for the sockets of the service's supervisor: "):
        supervisor.runtime_folder()
    temporary.chmod(0o700)


def _no_space(**_: object) -> str:
    raise OSError(28, "No space left on device", "/t")


def test_the_folder_of_a_killed_server_is_deleted_by_the_next_and_nothing_else(temporary: Path) -> None:
    stale, running, young = (temporary / f"{supervisor.FOLDER_PREFIX}{name}" for name in ("stale", "running", "young"))
    for folder in (stale, running, young):
        (folder / "metrics").mkdir(parents=True)
        if folder != young:
            os.utime(folder, (0, 0))
    link = temporary / f"{supervisor.FOLDER_PREFIX}link"
    link.symlink_to(REPOSITORY)
    handle = os.open(running, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    own = supervisor.runtime_folder()
    os.close(handle)
    assert set(temporary.iterdir()) == {running, young, link, own}
    assert REPOSITORY.exists()


def test_the_folder_goes_with_its_process(temporary: Path) -> None:
    program = "from serving import supervisor; print(supervisor.runtime_folder())"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == temporary
    assert list(temporary.iterdir()) == []
