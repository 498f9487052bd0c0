"""Nothing but the stage `base` asks the Hugging Face hub, and that only where nobody said otherwise."""

import ast
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT, Workspace

NAME = "somebody/something"
BASE = "import runpy; runpy.run_module('pipeline.base', run_name='__main__')"
FILE = f"import pipeline.paths, huggingface_hub; huggingface_hub.hf_hub_download('{NAME}', 'config.json')"


class Hub:
    """A hub that has nothing, and counts who asks."""

    def __init__(self) -> None:
        """Listen on a port that is free."""
        paths = self.paths = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths.append(self.path)
                self.send_error(404)

            do_HEAD = do_GET  # noqa: N815 - as the library has it

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def run(self, code: str, folder: Path, **environment: str) -> str:
        """Return what `code` complains of, in a process that takes this for the hub; it must fail."""
        address = f"http://127.0.0.1:{self.server.server_port}"
        inherited = {name: value for name, value in os.environ.items() if name not in environment}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": address, "HF_HOME": str(folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (1, 2), done.stderr
        return done.stderr.splitlines()[-1]


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_the_stage_base_asks_the_hub_also_below_a_process_that_is_offline(hub: Hub, workspace: Workspace) -> None:
    assert os.environ["HF_HUB_OFFLINE_BY_DEFAULT"] == "1"  # this process, as the flows are
    workspace.set(base=f"{NAME}@{40 * '0'}")
    assert "params.yaml: base: " in hub.run(BASE, workspace.folder)
    assert any(NAME in path for path in hub.paths)


def test_the_stage_base_keeps_to_a_persons_own_word(hub: Hub, workspace: Workspace) -> None:
    workspace.set(base=f"{NAME}@{40 * '0'}")
    said = hub.run(BASE, workspace.folder, HF_HUB_OFFLINE="1", HF_HUB_OFFLINE_BY_DEFAULT="")
    assert "the Hugging Face hub cannot be reached" in said
    assert hub.paths == []


def test_nothing_else_asks_it(hub: Hub, tmp_path: Path) -> None:
    assert hub.run(FILE, tmp_path).startswith("huggingface_hub.errors.LocalEntryNotFoundError")
    assert hub.paths == []


def test_every_model_and_tokenizer_is_loaded_from_a_folder() -> None:
    calls = [
        (path.relative_to(ROOT), node)
        for package in ("bench", "flows", "pipeline", "serving", "starter")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    ]
    assert len(calls) > 10
    for path, call in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("local_files_only") == "True", f"{path}:{call.lineno}"
