"""The wiring to vLLM, with a child that speaks its protocol in its place; vLLM itself was never run here."""

import asyncio
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from serving.engines import selection
from serving.engines.protocol import EngineError, Sampling, Stream
from serving.engines.vllm import GUARDIAN, VllmEngine
from tests.serving.conftest import engine_settings

pytestmark = pytest.mark.integration

SAMPLING = Sampling(6, temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1, seed=11, presence_penalty=0.25)
PROMPT = [0, 5, 6]

# Writes the tokens seed + 1, seed + 2, ...; the end token, 0, in place of 20. Notes what it is asked.
STAND_IN = """
    import argparse, json, os, sys, time
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    parser = argparse.ArgumentParser()
    for name in ("host", "model", "served-model-name", "max-num-seqs", "generation-config"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    here = os.path.dirname(os.path.abspath(sys.argv[0]))
    if not os.path.exists(os.path.join(given.model, "config.json")):
        sys.exit("no model")

    def note(what):
        with open(os.environ["STAND_IN_LOG"], "a") as log:
            log.write(json.dumps(what) + chr(10))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            note(body)
            if body["seed"] == 400:
                self.send_response(400)
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            try:
                for at in range(body["max_tokens"]):
                    if body["seed"] == 500 and at == 2:
                        self.wfile.write(b'data: {"error": {"message": "out of memory"}}' + b"\\n\\n")
                        return
                    if body["seed"] == 501 and at == 2:
                        return
                    token = body["seed"] + 1 + at
                    token = 0 if token == 20 else token
                    last = at + 1 == body["max_tokens"] or token == 0
                    reason = ("length" if token else "stop") if last else None
                    choice = {"index": 0, "text": "\\u2028\\u2029\\x85", "token_ids": [token], "finish_reason": reason}
                    if "logprobs" in body:
                        top = {f"token_id:{token + n}": -0.5 - n for n in range(body["logprobs"] + 1)}
                        choice["logprobs"] = {"tokens": [f"token_id:{token}"], "token_logprobs": [-0.5],
                                              "top_logprobs": [top]}
                    event = json.dumps({"choices": [choice]}, ensure_ascii=False)
                    self.wfile.write(f"data: {event}".encode() + b"\\n\\n")
                    self.wfile.flush()
                    if last:
                        break
                    time.sleep(0.01)
                self.wfile.write(b"data: [DONE]\\n\\n")
            except OSError:
                note({"gone": body["seed"]})

    ThreadingHTTPServer((given.host, given.port), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of vLLM's name."""
    folder = tmp_path_factory.mktemp("stand_in")
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for one in (folder / "vllm", folder / "vllm" / "entrypoints", package):
        (one / "__init__.py").touch()
    (package / "api_server.py").write_text(textwrap.dedent(STAND_IN), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def log(stand_in: Path) -> Path:
    return stand_in / "requests.jsonl"


@pytest.fixture(scope="module")
def environment(stand_in: Path, log: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_PYTHON", sys.executable)
        patch.setenv("PYTHONPATH", str(stand_in))
        patch.setenv("STAND_IN_LOG", str(log))
        yield


@pytest.fixture(scope="module")
def engine(environment: None, tiny_gpt2: Path) -> Iterator[VllmEngine]:
    engine = VllmEngine(tiny_gpt2, engine_settings("vllm", max_concurrency=2))
    yield engine
    engine.close()


async def collect(stream: Stream) -> list[int]:
    return [token.id async for token in stream]


def last(log: Path) -> dict[str, object]:
    result: dict[str, object] = json.loads(log.read_text().splitlines()[-1])
    return result


def test_tokens_are_exchanged_and_each_request_has_its_own_settings(engine: VllmEngine, log: Path) -> None:
    async def write() -> tuple[list[int], str | None]:
        stream = engine.submit(PROMPT, SAMPLING)
        return await collect(stream), stream.finish_reason

    assert asyncio.run(write()) == ([12, 13, 14, 15, 16, 17], "length")
    request = last(log)
    assert (request["prompt"], request["seed"], request["max_tokens"]) == (PROMPT, 11, 6)
    assert (request["temperature"], request["top_p"], request["top_k"]) == (0.7, 0.9, 40)
    assert (request["repetition_penalty"], request["presence_penalty"], request["frequency_penalty"]) == (
        1.1,
        0.25,
        0.0,
    )


def test_the_end_token_ends_a_text_and_is_not_among_its_tokens(engine: VllmEngine) -> None:
    async def write() -> tuple[list[int], str | None]:
        stream = engine.submit(PROMPT, replace(SAMPLING, seed=16))
        return await collect(stream), stream.finish_reason

    assert asyncio.run(write()) == ([17, 18, 19], "stop")


def test_logprobs_come_with_the_likeliest_tokens_best_first(engine: VllmEngine) -> None:
    async def write() -> None:
        token = await anext(engine.submit(PROMPT, replace(SAMPLING, logprobs=2)))
        assert (token.id, token.logprob, token.top) == (12, -0.5, ((12, -0.5), (13, -1.5)))
        token = await anext(engine.submit(PROMPT, replace(SAMPLING, logprobs=0)))
        assert (token.id, token.logprob, token.top) == (12, -0.5, ())

    asyncio.run(write())


def test_requests_run_side_by_side_and_are_counted(engine: VllmEngine) -> None:
    async def write() -> None:
        streams = [engine.submit(PROMPT, replace(SAMPLING, seed=100 * n + 1000)) for n in range(3)]
        assert (engine.running, engine.waiting) == (2, 1)
        result = await asyncio.gather(*map(collect, streams))
        assert [tokens[0] for tokens in result] == [1001, 1101, 1201]
        await asyncio.sleep(0.1)
        assert (engine.running, engine.waiting) == (0, 0)
        nothing = engine.submit(PROMPT, replace(SAMPLING, max_new_tokens=0))
        assert (await collect(nothing), nothing.finish_reason) == ([], "length")

    asyncio.run(write())


def test_a_cancelled_request_is_cancelled_in_vllm(engine: VllmEngine, log: Path) -> None:
    async def write() -> None:
        stream = engine.submit(PROMPT, replace(SAMPLING, seed=7000, max_new_tokens=2000))
        assert await anext(stream) == replace((await anext(stream)), id=7001)
        stream.cancel()
        for _ in range(200):
            if not engine.running:
                break
            await asyncio.sleep(0.01)
        assert engine.running == 0

    asyncio.run(write())
    for _ in range(200):
        if last(log) == {"gone": 7000}:
            return
        time.sleep(0.05)
    raise AssertionError(last(log))


@pytest.mark.parametrize(
    ("seed", "message"), [(400, "vLLM answered 400"), (500, "failed in mid-stream"), (501, "broke off in mid-stream")]
)
def test_a_failure_is_an_error_of_that_request(engine: VllmEngine, seed: int, message: str) -> None:
    async def write() -> None:
        with pytest.raises(EngineError, match=message):
            await collect(engine.submit(PROMPT, replace(SAMPLING, seed=seed)))

    asyncio.run(write())


def children_of(pid: int) -> list[psutil.Process]:
    return [
        child for child in psutil.Process(pid).children(recursive=True) if "api_server" in " ".join(child.cmdline())
    ]


def test_close_ends_the_child_and_running_requests(environment: None, tiny_gpt2: Path) -> None:
    engine = selection.make(tiny_gpt2, engine_settings("vllm"))
    servers = children_of(engine._guardian.pid)
    assert servers

    async def write() -> None:
        stream = engine.submit(PROMPT, replace(SAMPLING, max_new_tokens=2000))
        assert (await anext(stream)).id == 12
        await asyncio.get_running_loop().run_in_executor(None, engine.close)
        with pytest.raises(EngineError, match="vLLM"):
            await collect(stream)

    asyncio.run(write())
    assert not any(server.is_running() for server in servers)


def test_the_child_ends_even_when_the_service_is_killed() -> None:
    server = [sys.executable, "-c", "import time; time.sleep(600)"]
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], stdin=subprocess.PIPE)\n"
        "time.sleep(600)"
    )
    service = subprocess.Popen([sys.executable, "-c", code, GUARDIAN, "5", *server])
    try:
        for _ in range(200):
            if len(children := psutil.Process(service.pid).children(recursive=True)) == 2:  # guardian and server
                break
            time.sleep(0.05)
        assert len(children) == 2
    finally:
        service.kill()
        service.wait()
    _, alive = psutil.wait_procs(children, timeout=300)
    assert not alive


def test_a_missing_vllm_is_reported_with_the_fix(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PYTHON", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(EngineError, match=r"VLLM_PYTHON is not set; set VLLM_PYTHON to the python of an environment"):
        selection.make(tiny_gpt2, engine_settings("vllm"))
    monkeypatch.setenv("VLLM_PYTHON", "/nowhere/python")
    with pytest.raises(EngineError, match="which cannot be run"):
        selection.make(tiny_gpt2, engine_settings("vllm"))
    monkeypatch.setenv("VLLM_PYTHON", sys.executable)
    with pytest.raises(EngineError, match="which has no vLLM"):
        selection.make(tiny_gpt2, engine_settings("vllm"))


def test_a_server_that_does_not_start_is_reported_at_once(
    environment: None, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "vllm" / "entrypoints" / "openai"
    broken.mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineError, match="vLLM ended while it was starting"):
        VllmEngine(tiny_gpt2, engine_settings("vllm"))
