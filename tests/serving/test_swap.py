"""A real server under load follows the champion back and forth, refuses a bad one, frees the old, and ends in peace."""

import asyncio
import contextlib
import json
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from serving.engines import decoder, selection
from serving.engines.protocol import Engine
from serving.model_loader import ModelKind
from serving.served_model import ServedModel
from serving.tasks import causal_lm
from tests.serving.conftest import PROMPT, Server, engine_settings, service_settings, serving

pytestmark = pytest.mark.integration

GREEDY = {"prompt": PROMPT, "max_new_tokens": 12, "temperature": 0}


def variant(model: Path, folder: Path, seed: int) -> Path:
    """Copy a model, with other weights."""
    shutil.copytree(model, folder)
    torch.manual_seed(seed)
    weights = {
        name: weight + 0.3 * torch.randn_like(weight) for name, weight in load_file(model / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "manifest.json").write_text(json.dumps({"data": f"{seed:064}"}), encoding="utf-8")
    return folder


def slower(model: Path, folder: Path) -> Path:
    """Copy a model as one of 3 million parameters that can write for a second or more: its context is 1024."""
    shutil.copytree(model, folder)
    torch.manual_seed(0)
    settings = {**json.loads((folder / "config.json").read_text(encoding="utf-8")), "n_positions": 1024}
    GPT2LMHeadModel(GPT2Config(**{**settings, "n_embd": 256, "n_layer": 4, "n_head": 4})).save_pretrained(folder)
    return folder


@pytest.fixture
def slow_model(model: Path, tmp_path: Path) -> Path:
    return slower(model, tmp_path / "slow")


@dataclass
class Answer:
    begun: float
    ended: float
    status: int
    version: str
    text: str


class Clients:
    """Threads that ask one after the other for the same greedy text, until the end of the block."""

    def __init__(self, url: str, count: int) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._done = [self._pool.submit(self._ask) for _ in range(count)]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=300) as client:
            while not self._stop.is_set():
                begun = time.monotonic()
                answer = client.post("/generate", json=GREEDY)
                content = answer.json()
                self.answers.append(
                    Answer(begun, time.monotonic(), answer.status_code, content.get("model"), content.get("text"))
                )

    def stop(self) -> None:
        self._stop.set()
        self._pool.shutdown()
        for done in self._done:
            done.result()


@contextmanager
def clients(server: Server, count: int) -> Iterator[Clients]:
    asking = Clients(server.url, count)
    try:
        yield asking
    finally:
        asking.stop()


class Project:
    """A checkout with a registry, whose service looks at the pointer often."""

    def __init__(self, checkout: Path, home: Path) -> None:
        self.folder = checkout
        self.home = home
        self.registry = Registry(checkout)
        self.set("follow_seconds: 1 ", "follow_seconds: 0.1 ")

    def set(self, old: str, new: str) -> None:
        params = self.folder / "params.yaml"
        content = params.read_text(encoding="utf-8")
        assert old in content
        params.write_text(content.replace(old, new), encoding="utf-8")

    def serving(self, workers: int = 1) -> Any:
        options = f"services.gpt2.workers={workers}"
        return serving(".", cwd=self.folder, BENTOML_HOME=str(self.home), BENTOML_CONFIG_OPTIONS=options)

    def promote(self, new: Version) -> None:
        champion = self.registry.champion()
        self.registry.move(new, expected=champion.tag if champion else None, action="promote", why="a test")


@pytest.fixture
def project(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return Project(checkout, tmp_path / "home")


def until(holds: Any, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def master(server: Server) -> psutil.Process:
    port = server.url.rpartition(":")[2]
    return next(child for child in psutil.Process().children() if port in child.cmdline())


def test_workers_follow_the_champion_under_load_without_a_failed_request_and_a_bad_version_changes_nothing(
    project: Project, model: Path, tmp_path: Path
) -> None:
    a, b = (project.registry.add(variant(model, tmp_path / str(seed), seed), {}, {}) for seed in (1, 2))
    torn = variant(model, tmp_path / "3", 3)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    bad = project.registry.add(torn, {}, {})
    project.promote(a)
    reigns: list[tuple[str, float, float]] = []  # a version, when it could first be served, and when it no longer could
    with project.serving(workers=2) as server:

        def logged(sentence: str, times: int) -> None:
            until(lambda: server.log.read_text(encoding="utf-8").count(sentence) == 2 * times)  # by both workers

        logged(f"serving model {a.version}", 1)
        with clients(server, 4) as asking:
            began = time.monotonic()
            for times, new, old in ((1, b, a), (2, a, b), (2, b, a)):
                moved = time.monotonic()
                if new is a:
                    project.registry.rollback(None, "rude")
                else:
                    project.promote(new)
                logged(f"serving model {new.version}", times)
                reigns.append((old.version, began, time.monotonic()))
                began = moved
                time.sleep(0.3)
            project.promote(bad)
            logged(f"keeping model {b.version}: {bad.version} was refused", 1)
            refused = httpx.get(server.url).json()["refused"]
            assert refused["version"] == bad.version
            assert "did not load" in refused["reason"]
            assert httpx.get(server.url + "/readyz").status_code == 200
            project.registry.rollback(None, "it does not load")
            until(lambda: all(httpx.get(server.url).json()["refused"] is None for _ in range(8)))
            reigns.append((b.version, began, float("inf")))
        logged("freed model", 3)
        last = server.post(**GREEDY).json()
        log = server.log.read_text(encoding="utf-8")

    assert len(asking.answers) > 20
    assert {answer.status for answer in asking.answers} == {200}
    texts = {v.version: {answer.text for answer in asking.answers if answer.version == v.version} for v in (a, b)}
    assert [len(variants) for variants in texts.values()] == [1, 1]  # greedy: one text a model, whatever went on beside
    assert texts[b.version] == {last["text"]} != texts[a.version]
    for answer in asking.answers:
        assert any(
            version == answer.version and since <= answer.ended and answer.begun <= until
            for version, since, until in reigns
        )
    assert PROMPT not in log


def stream(server: Server, tokens: int, begun: list[int]) -> list[str]:
    """Return the events of a streamed text; `begun` grows at the first."""
    body = {**GREEDY, "max_new_tokens": tokens, "stream": True, "temperature": 1, "seed": 1}
    events = []
    with httpx.stream("POST", server.url + "/generate", json=body, timeout=300) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith(("data: ", "event: ")):
                events.append(line)
                if len(events) == 1:
                    begun.append(1)
    return events


def wait_until_begun(running: list[Future[list[str]]], begun: list[int]) -> None:
    """Wait until all texts have begun; raises what one of them raised instead."""
    until(lambda: len(begun) == len(running) or any(one.done() for one in running))
    for one in running:
        if one.done():
            one.result()


def test_at_sigterm_running_requests_finish_no_new_one_starts_and_the_exit_code_is_0(
    project: Project, slow_model: Path
) -> None:
    # On a busy machine the texts take longer than the defaults allow.
    for bound in ("drain_seconds: 30 ", "first_token_seconds: 30 ", "timeout: 120 "):
        project.set(bound, f"{bound.split()[0]} 1000 ")
    served = project.registry.add(slow_model, {}, {})
    project.promote(served)
    begun: list[int] = []
    with project.serving(workers=2) as server, ThreadPoolExecutor(4) as pool:
        # The first worker that is ready answers for the service; the other would say that it is loading.
        until(lambda: server.log.read_text(encoding="utf-8").count(f"serving model {served.version}") == 2)
        running = [pool.submit(stream, server, 500, begun) for _ in range(4)]
        wait_until_begun(running, begun)
        process = master(server)
        process.send_signal(signal.SIGTERM)
        assert not all(one.done() for one in running)  # those of a worker with less to do may have ended
        time.sleep(0.3)
        try:
            late = server.post(**GREEDY)
        except httpx.TransportError:
            pass  # a worker that had nothing to do is gone, and the socket with the last
        else:
            assert late.status_code == 503
            assert int(late.headers["retry-after"]) >= 1
        for one in running:
            assert one.result()[-1] == "data: [DONE]"
        assert process.wait(300) == 0


@pytest.mark.slow
def test_a_request_beyond_the_bound_is_cut_off_with_an_error(project: Project, slow_model: Path) -> None:
    project.set("drain_seconds: 30 ", "drain_seconds: 0.3 ")
    project.promote(project.registry.add(slow_model, {}, {}))
    begun: list[int] = []
    with project.serving() as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, server, 500, begun)
        wait_until_begun([running], begun)
        process = master(server)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(httpx.TransportError):  # cut off in mid-answer: nobody takes it for whole
            assert running.result()[-1] != "data: [DONE]"
        assert process.wait(300) == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["int8", "transformers"])
def test_a_model_that_was_replaced_is_gone_and_its_memory_with_it(
    engine: str, project: Project, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_DIR", raising=False)
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path / "engines"))
    settings = {**json.loads((model / "config.json").read_text(encoding="utf-8")), "n_positions": 128}
    versions = []
    for seed in (1, 2):  # 100 MB each in float32
        folder = Path(shutil.copytree(model, tmp_path / str(seed)))
        torch.manual_seed(seed)
        GPT2LMHeadModel(GPT2Config(**{**settings, "n_embd": 512, "n_layer": 8, "n_head": 8})).save_pretrained(folder)
        versions.append(project.registry.add(folder, {}, {}))
    if engine == "int8" and (reason := decoder.unsupported_reason(versions[0].folder)):
        pytest.skip(reason)
    made: list[weakref.ref[Engine]] = []

    def make(folder: Path) -> Engine:
        new = selection.make(folder, engine_settings(engine))
        made.append(weakref.ref(new))
        return new

    kind = ModelKind(causal_lm.TASK.unsuitable_reason, make, causal_lm.TASK.smoke_test)

    async def swap() -> list[int]:
        served = ServedModel(project.folder, kind, service_settings(follow_seconds=0.05))
        following = asyncio.create_task(served.run())
        await served.wait_for_first_attempt(300)
        sizes = []
        for number in range(1, 9):
            project.promote(versions[number % 2])
            async with asyncio.timeout(300):
                while served.swaps < number or made[-2]() is not None:
                    await asyncio.sleep(0.05)
            sizes.append(psutil.Process().memory_info().rss)
        following.cancel()
        await served.close()
        return sizes

    project.promote(versions[0])
    sizes = asyncio.run(swap())
    assert max(sizes[4:]) < 1.05 * max(sizes[:4])
