"""The engine vllm with a stand-in that speaks vLLM's protocol, and with vLLM itself where VLLM_PYTHON names a Python.

    VLLM_PYTHON=/opt/vllm/bin/python pytest tests/serving/engines/test_vllm.py

VLLM_ARGS adds arguments to those of `REAL_ARGS`.
"""

import asyncio
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bench.adapted_models import save_adapted
from pipeline.registry.store import Registry
from serving.engines import adapted, lora, selection
from serving.engines.adapted import AdaptedEngine
from serving.engines.protocol import Engine, EngineError, Sampling, Stream, Token
from serving.engines.vllm import VllmEngine
from serving.errors import ApiError
from serving.model_loader import AdapterFiles
from serving.settings import EngineSettings
from tests.serving.conftest import PROMPT as TEXT
from tests.serving.conftest import engine_settings, serving

pytestmark = pytest.mark.integration

REAL_PYTHON = os.environ.get("VLLM_PYTHON")
CONTEXT = 48  # less than the model's own
REAL_ARGS = f"--dtype float32 --enforce-eager --gpu-memory-utilization 0.1 --max-model-len {CONTEXT}"
SAMPLING = Sampling(6, temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1, seed=11, presence_penalty=0.25)
PLAIN = Sampling(32, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=1)
GREEDY = replace(PLAIN, temperature=0.0)
PROMPT = [0, 5, 6]
PROMPTS = [PROMPT, [0, 100, 200, 33], [0, 9, 9, 9], [0, *range(10, 22)]]
ENDS = [0, 7]  # the model ends the greedy text after this prompt early

# Writes the tokens seed + 1, seed + 2, ...; the end token, 0, in place of 20. Notes what it is asked.
STAND_IN = """
    import argparse, json, os, socket, sys, time
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from socketserver import TCPServer

    parser = argparse.ArgumentParser()
    for name in ("uds", "model", "served-model-name", "max-num-seqs", "generation-config", "max-model-len"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("max-loras", "max-cpu-loras"):
        parser.add_argument(f"--{name}")
    for name in ("disable-uvicorn-access-log", "enable-lora"):
        parser.add_argument(f"--{name}", action="store_true")
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
            self.send_response(200 if self.path in ("/health", "/v1/models") else 404)
            self.end_headers()
            if self.path == "/v1/models":
                self.wfile.write(json.dumps({"data": [{"max_model_len": int(given.max_model_len)}]}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            note(body)
            if self.path.endswith("_lora_adapter"):
                is_there = os.path.exists(os.path.join(body.get("lora_path", ""), "adapter_config.json"))
                self.send_response(200 if is_there or "unload" in self.path else 404)
                self.end_headers()
                self.wfile.write(b'{"error": {"message": "no adapter there"}}')
                return
            if body["seed"] == 400:
                self.send_response(400)
                self.end_headers()
                return
            try:
                self.send_response(200)
                self.end_headers()
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

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_UNIX
        server_bind = TCPServer.server_bind

    Server(given.uds, Handler).serve_forever()
"""


# Notes which other machines vLLM's Python processes look up or connect to. A UDP socket that connects sends nothing.
AUDIT = """
    import ipaddress, os, socket, sys

    def is_local(host):
        host = host.decode() if isinstance(host, bytes) else host
        if host in (None, "", "localhost", socket.gethostname()):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def note(what):
        with open(os.environ["AUDIT_LOG"], "a") as log:
            log.write(what + chr(10))

    def hook(event, args):
        if event == "socket.connect" and args[0].family != socket.AF_UNIX:
            if args[0].type & socket.SOCK_STREAM and not is_local(args[1][0]):
                note(f"connect {args[1]}")
        elif event == "socket.getaddrinfo" and not is_local(args[0]):
            note(f"look up {args[0]}")

    note(f"process {os.getpid()}")
    sys.addaudithook(hook)
"""


@dataclass
class Kind:
    """What to start in the place of vLLM."""

    settings: EngineSettings
    model: Path
    log: Path  # of the stand-in's requests
    is_real: bool
    environment: dict[str, str]

    def start(self) -> VllmEngine:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            engine = selection.make(self.model, self.settings)
        assert isinstance(engine, VllmEngine)
        return engine


@pytest.fixture(scope="module")
def tiny_llama(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random Llama whose logits lie apart, context 64, and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_gpt2 / name).read_bytes())
    (folder / "manifest.json").write_text(json.dumps({"data": "0" * 64}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Kind:
    """A Python with a package of vLLM's name."""
    folder = tmp_path_factory.mktemp("stand_in")
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for one in (folder / "vllm", folder / "vllm" / "entrypoints", package):
        (one / "__init__.py").touch()
    (package / "api_server.py").write_text(textwrap.dedent(STAND_IN), encoding="utf-8")
    log = folder / "requests.jsonl"
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\nSTAND_IN_LOG={log} PYTHONPATH={folder} exec {sys.executable} "$@"\n', encoding="utf-8"
    )
    python.chmod(0o755)
    settings = engine_settings(
        "vllm", max_concurrency=2, vllm_python=str(python), vllm_args=f"--max-model-len {CONTEXT}"
    )
    return Kind(settings, tiny_llama, log, is_real=False, environment={})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Kind:
    """The Python with vLLM that VLLM_PYTHON names."""
    if not REAL_PYTHON:
        pytest.skip("VLLM_PYTHON names no Python with vLLM")
    folder = tmp_path_factory.mktemp("audit")
    (folder / "sitecustomize.py").write_text(textwrap.dedent(AUDIT), encoding="utf-8")
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "PYTHONPATH": str(folder),
        "AUDIT_LOG": str(folder / "log"),
    }
    arguments = f"{REAL_ARGS} {os.environ.get('VLLM_ARGS', '')}"
    settings = engine_settings("vllm", max_concurrency=2, vllm_python=REAL_PYTHON, vllm_args=arguments)
    return Kind(settings, tiny_llama, folder / "log", is_real=True, environment=environment)


@contextmanager
def running(kind: Kind) -> Iterator[VllmEngine]:
    engine = kind.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def stand_in_engine(stand_in: Kind) -> Iterator[VllmEngine]:
    with running(stand_in) as engine:
        yield engine


@pytest.fixture(scope="module")
def real_engine(real: Kind) -> Iterator[VllmEngine]:
    with running(real) as engine:
        yield engine


BOTH = pytest.mark.parametrize("name", ["stand_in", "real"])


@pytest.fixture
def kind(request: pytest.FixtureRequest, name: str) -> Kind:
    kind: Kind = request.getfixturevalue(name)
    return kind


@pytest.fixture
def engine(request: pytest.FixtureRequest, name: str) -> VllmEngine:
    engine: VllmEngine = request.getfixturevalue(f"{name}_engine")
    return engine


async def collect(stream: Stream) -> list[int]:
    return [token.id async for token in stream]


def write(engine: Engine, prompt: list[int], sampling: Sampling) -> tuple[list[Token], str | None]:
    """Return the tokens of one request, and why they ended."""

    async def run() -> tuple[list[Token], str | None]:
        stream = engine.submit(prompt, sampling)
        return [token async for token in stream], stream.finish_reason

    return asyncio.run(run())


def write_ids(engine: Engine, prompt: list[int], sampling: Sampling) -> list[int]:
    return [token.id for token in write(engine, prompt, sampling)[0]]


def last(log: Path) -> dict[str, object]:
    result: dict[str, object] = json.loads(log.read_text().splitlines()[-1])
    return result


def cut_off(log: Path) -> int:
    """Return how many requests the stand-in could not answer to their end."""
    return log.read_text().count('"gone"') if log.exists() else 0


def wait_for(holds: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def submit_many(engine: VllmEngine, kind: Kind) -> list[Stream]:
    """Submit so many requests that most of them are still waiting or running when the first token comes."""
    count, tokens = (60, CONTEXT - len(PROMPT)) if kind.is_real else (8, 2000)
    return [engine.submit(PROMPT, replace(PLAIN, seed=7000 + n, max_new_tokens=tokens)) for n in range(count)]


def metric_of_vllm(engine: VllmEngine, name: str, *, without: str = "no label") -> float:
    """Return the sum of a metric over its labels."""
    transport = httpx.HTTPTransport(uds=engine._socket)
    with httpx.Client(transport=transport, base_url="http://vllm") as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{") and without not in line)


@BOTH
def test_a_text_has_the_length_that_was_requested(engine: VllmEngine) -> None:
    tokens, reason = write(engine, PROMPT, replace(GREEDY, max_new_tokens=6))
    assert (len(tokens), reason) == (6, "length")
    assert write(engine, PROMPT, replace(GREEDY, max_new_tokens=0)) == ([], "length")


def test_each_request_has_its_own_settings(stand_in_engine: VllmEngine, stand_in: Kind) -> None:
    assert write_ids(stand_in_engine, PROMPT, SAMPLING) == [12, 13, 14, 15, 16, 17]
    request = last(stand_in.log)
    assert (request["prompt"], request["seed"], request["max_tokens"]) == (PROMPT, 11, 6)
    assert (request["temperature"], request["top_p"], request["top_k"]) == (0.7, 0.9, 40)
    assert (request["repetition_penalty"], request["presence_penalty"], request["frequency_penalty"]) == (
        1.1,
        0.25,
        0.0,
    )
    write(stand_in_engine, PROMPT, replace(SAMPLING, seed=-1))
    assert last(stand_in.log)["seed"] != -1  # vLLM takes it for no seed


@BOTH
def test_the_end_token_ends_a_text_and_is_not_among_its_tokens(engine: VllmEngine, kind: Kind) -> None:
    tokens, reason = write(engine, ENDS, GREEDY if kind.is_real else replace(SAMPLING, seed=16))
    assert reason == "stop"
    assert 0 < len(tokens) < GREEDY.max_new_tokens
    assert engine.end not in [token.id for token in tokens]


@BOTH
@pytest.mark.parametrize("count", [0, 2])
def test_logprobs_come_with_the_likeliest_tokens_best_first(engine: VllmEngine, count: int) -> None:
    tokens, _ = write(engine, PROMPT, replace(GREEDY, logprobs=count))
    for token in tokens:
        assert token.logprob is not None
        assert len(token.top) == count
        assert list(token.top) == sorted(token.top, key=lambda one: -one[1])
        assert token.top[:1] in ((), ((token.id, token.logprob),))


@BOTH
def test_requests_run_side_by_side_and_are_counted(engine: VllmEngine) -> None:
    async def run() -> list[list[int]]:
        streams = [engine.submit(PROMPT, replace(PLAIN, seed=100 * n + 1000)) for n in range(3)]
        assert (engine.running, engine.waiting) == (2, 1)
        result = await asyncio.gather(*map(collect, streams))
        while engine.running:
            await asyncio.sleep(0.01)
        assert engine.waiting == 0
        return result

    texts = asyncio.run(run())
    assert len({tuple(text) for text in texts}) == 3


@BOTH
def test_a_cancelled_request_is_cancelled_in_vllm(engine: VllmEngine, kind: Kind) -> None:
    def completed() -> float:
        return metric_of_vllm(engine, "vllm:request_success_total", without="abort")

    async def run() -> int:
        streams = submit_many(engine, kind)
        await anext(streams[0])
        for stream in streams:
            stream.cancel()
        while engine.running:
            await asyncio.sleep(0.01)
        assert streams[-1].finish_reason is None
        return len(streams)

    before = completed() if kind.is_real else cut_off(kind.log)
    count = asyncio.run(run())
    if kind.is_real:
        wait_for(
            lambda: not any(metric_of_vllm(engine, f"vllm:num_requests_{state}") for state in ("running", "waiting"))
        )
        assert completed() - before < count / 2
    else:
        wait_for(lambda: cut_off(kind.log) > before)


@BOTH
def test_a_temperature_that_vllm_refuses_is_refused_by_name(engine: VllmEngine) -> None:
    with pytest.raises(ApiError, match="temperature may be at most 2 with the engine vllm") as result:
        write(engine, PROMPT, replace(PLAIN, temperature=2.1))
    assert (result.value.status, result.value.param) == (400, "temperature")
    assert write(engine, PROMPT, replace(PLAIN, temperature=2.0))[1]


@pytest.mark.parametrize(
    ("seed", "message"), [(400, "vLLM answered 400"), (500, "failed in mid-stream"), (501, "broke off in mid-stream")]
)
def test_a_failure_is_an_error_of_that_request(stand_in_engine: VllmEngine, seed: int, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        write(stand_in_engine, PROMPT, replace(SAMPLING, seed=seed))


def test_what_vllm_cannot_read_is_an_error_of_that_request(real_engine: VllmEngine) -> None:
    for prompt in ([0] * (CONTEXT + 1), [0, 10**6]):
        with pytest.raises(EngineError, match="vLLM"):
            write(real_engine, prompt, GREEDY)
    assert len(write(real_engine, PROMPT, GREEDY)[0]) == GREEDY.max_new_tokens


@BOTH
def test_the_context_is_vllms(engine: VllmEngine) -> None:
    assert engine.context == CONTEXT


@BOTH
def test_no_other_user_can_reach_vllm(engine: VllmEngine) -> None:
    folder = Path(engine._socket).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    addresses = {
        connection.laddr.ip
        for process in psutil.Process(engine._guardian.pid).children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::1"}  # torch's own, between the workers


def test_greedy_texts_and_logprobs_are_those_of_transformers(real_engine: VllmEngine, tiny_llama: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    for prompt in PROMPTS:
        tokens, reason = write(real_engine, prompt, replace(GREEDY, logprobs=3))
        assert (len(tokens), reason) == (GREEDY.max_new_tokens, "length")
        expected = logprobs_of(reference, prompt, tokens)  # (tokens, vocabulary)
        for token, row in zip(tokens, expected, strict=True):
            assert row.max() - row[token.id] < 1e-3
            for id_, value in ((token.id, token.logprob), *token.top):
                assert value == pytest.approx(row[id_].item(), abs=1e-3)


@BOTH
def test_adapters_are_loaded_and_unloaded_and_get_the_texts_of_their_merged_models(kind: Kind, tmp_path: Path) -> None:
    models = [save_adapted(kind.model, tmp_path / f"adapted-{seed}", seed, rank=8) for seed in (1, 2)]
    engine = replace(kind, settings=replace(kind.settings, adapters=2)).start()
    try:
        engines = [
            adapted.adapt(engine, AdapterFiles(model / "adapter", kind.model, model), kind.settings) for model in models
        ]
        texts = [write_ids(one, PROMPTS[3], GREEDY) for one in (engine, *engines)]
        if kind.is_real:
            for model, text in zip((kind.model, *models), texts, strict=True):
                reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
                expected = logprobs_of(reference, PROMPTS[3], [Token(one) for one in text])
                assert all(row.max() - row[one] < 1e-3 for one, row in zip(text, expected, strict=True))
            assert len({tuple(text) for text in texts}) == 3
        else:
            assert last(kind.log)["model"] == engines[1].adapter
        twice = AdaptedEngine(engine, lora.read(models[1] / "adapter", engines[1].adapter.partition("-")[0]))
        assert write_ids(twice, PROMPTS[3], GREEDY) == texts[2]
        twice.close()
        engines[0].close()
        assert write_ids(engines[1], PROMPTS[3], GREEDY) == texts[2]
        broken = lora.Adapter(tmp_path, "broken", {}, is_transposed=False)
        with pytest.raises(EngineError, match=r"vLLM refused the adapter in .*: "):
            engine.load_adapter(broken)
    finally:
        engine.close()
    engines[1].close()  # after its model: nothing happens


def test_log_probabilities_are_the_models_before_temperature_and_penalties(
    real_engine: VllmEngine, tiny_llama: Path
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    tokens, _ = write(real_engine, PROMPT, replace(SAMPLING, max_new_tokens=32, logprobs=0))
    for token, row in zip(tokens, logprobs_of(reference, PROMPT, tokens), strict=True):
        assert token.logprob == pytest.approx(row[token.id].item(), abs=1e-3)


def logprobs_of(model: Any, prompt: list[int], tokens: list[Token]) -> torch.Tensor:
    """Return the log-probabilities at the places of `tokens`: (tokens, vocabulary)."""
    ids = [*prompt, *(token.id for token in tokens)]
    with torch.inference_mode():
        result: torch.Tensor = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return result


@pytest.mark.parametrize("seed", [5, -1, -(2**63), 2**63 - 1])
def test_a_seed_gives_the_same_text_again(real_engine: VllmEngine, seed: int) -> None:
    first, again = (write_ids(real_engine, PROMPT, replace(PLAIN, seed=seed)) for _ in range(2))
    assert first == again != write_ids(real_engine, PROMPT, replace(PLAIN, seed=6))


def test_top_k_0_is_off(real_engine: VllmEngine) -> None:
    everything = write_ids(real_engine, PROMPT, PLAIN)
    assert everything == write_ids(real_engine, PROMPT, replace(PLAIN, top_k=2**31 - 1))
    greedy = write_ids(real_engine, PROMPT, GREEDY)
    assert greedy == write_ids(real_engine, PROMPT, replace(PLAIN, top_k=1)) != everything
    assert greedy == write_ids(real_engine, PROMPT, replace(PLAIN, top_p=1e-9))


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 5.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}]
)
def test_penalties_make_repetition_rarer(real_engine: VllmEngine, penalty: dict[str, float]) -> None:
    repeats, penalized = (
        write_ids(real_engine, PROMPTS[1], replace(GREEDY, **more))
        for more in ({}, penalty)  # type: ignore[arg-type]
    )
    assert len(set(penalized)) > len(set(repeats))


def test_vllm_reaches_for_no_other_machine(real_engine: VllmEngine, real: Kind) -> None:
    write(real_engine, PROMPT, GREEDY)
    lines = real.log.read_text(encoding="utf-8").splitlines()
    assert {line.split()[0] for line in lines} == {"process"}
    assert len(lines) > 2  # its server and the processes of its engine were watched


@BOTH
def test_its_telemetry_is_off(engine: VllmEngine) -> None:
    environment = servers_of(engine)[0].environ()
    assert [environment[name] for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE")] == ["1"] * 3
    assert not {"VLLM_ARGS", "VLLM_PYTHON"} & environment.keys()


def servers_of(engine: VllmEngine) -> list[psutil.Process]:
    """Return all processes of vLLM."""
    return psutil.Process(engine._guardian.pid).children(recursive=True)


@BOTH
def test_close_ends_all_processes_and_running_requests(kind: Kind) -> None:
    engine = kind.start()
    servers = servers_of(engine)
    folder = Path(engine._socket).parent
    assert len(servers) > 2 if kind.is_real else servers
    assert len(list(folder.iterdir())) > 1 if kind.is_real else folder.exists()  # vLLM's other sockets are there too

    async def run() -> None:
        streams = submit_many(engine, kind)
        await anext(streams[0])
        await asyncio.get_running_loop().run_in_executor(None, engine.close)
        with pytest.raises(EngineError, match="vLLM was stopped"):
            await collect(streams[-1])

    asyncio.run(run())
    _, alive = psutil.wait_procs(servers, timeout=300)
    assert not alive
    assert not folder.exists()


@BOTH
def test_all_processes_end_even_when_the_service_is_killed(kind: Kind, tmp_path: Path) -> None:
    code = """
        import pickle, sys, time
        from serving.engines.vllm import VllmEngine

        with open(sys.argv[1], "rb") as file:
            model, settings = pickle.load(file)
        engine = VllmEngine(model, settings)
        print(engine._guardian.pid, engine._socket, flush=True)
        time.sleep(3000)
    """
    arguments = tmp_path / "arguments"
    arguments.write_bytes(pickle.dumps((kind.model, kind.settings)))
    service = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, **kind.environment, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert service.stdout
    try:
        line = next(line for line in service.stdout if line.split()[0].isdigit())
        guardian, socket = line.split()
        processes = psutil.Process(service.pid).children(recursive=True)
        assert int(guardian) in [process.pid for process in processes]
        assert len(processes) > 1
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(int(guardian), number)  # which changes nothing
    finally:
        service.kill()
        service.communicate()
    _, alive = psutil.wait_procs(processes, timeout=300)
    assert not alive
    assert not Path(os.fsdecode(socket)).parent.exists()


@BOTH
def test_requests_say_that_vllm_has_ended(kind: Kind) -> None:
    with running(kind) as engine:
        for server in servers_of(engine):
            if not kind.is_real or server.name().startswith("VLLM"):
                server.kill()
        wait_for(lambda: engine._guardian.poll() is not None)
        with pytest.raises(EngineError, match="vLLM has ended; see its log, and restart the service"):
            write(engine, PROMPT, GREEDY)


def test_a_missing_vllm_is_reported_with_the_fix(tiny_gpt2: Path) -> None:
    for python, message in (
        (None, r"VLLM_PYTHON is not set; set VLLM_PYTHON to the python of an environment"),
        ("/nowhere/python", "which cannot be run"),
        (sys.executable, "which has no vLLM"),
    ):
        with pytest.raises(EngineError, match=message):
            selection.make(tiny_gpt2, engine_settings("vllm", vllm_python=python))


def test_arguments_that_cannot_be_split_are_reported(stand_in: Kind) -> None:
    with pytest.raises(EngineError, match="VLLM_ARGS cannot be split"):
        selection.make(stand_in.model, replace(stand_in.settings, vllm_args="--dtype 'float32"))


@BOTH
def test_a_server_that_does_not_start_is_reported_at_once(kind: Kind) -> None:
    with pytest.raises(EngineError, match="vLLM ended while it was starting"):
        selection.make(kind.model, replace(kind.settings, vllm_args="--no-such-argument"))


@BOTH
def test_the_service_answers_over_http_swaps_to_a_new_champion_and_finishes_what_runs(
    kind: Kind, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    params = checkout / "params.yaml"
    content = params.read_text(encoding="utf-8")
    for old, new in (("  engine: auto", "  engine: vllm"), ("follow_seconds: 1 ", "follow_seconds: 0.1 ")):
        assert old in content
        content = content.replace(old, new)
    params.write_text(content, encoding="utf-8")
    registry = Registry(checkout)
    versions = [registry.add(variant(kind.model, tmp_path / str(seed), seed), {}, {}) for seed in (1, 2)]
    registry.move(versions[0], expected=None, action="promote", why="a test")
    assert kind.settings.vllm_python
    more = {**kind.environment, "VLLM_PYTHON": kind.settings.vllm_python, "VLLM_ARGS": kind.settings.vllm_args}
    more.pop("PYTHONPATH", None)
    with serving(".", cwd=checkout, **more) as server:
        body = {"prompt": TEXT, "max_new_tokens": 8, "seed": 3}
        answer = server.post(**body)
        assert (answer.status_code, answer.headers["x-engine"]) == (200, "vllm"), answer.text
        assert answer.headers["x-model-version"] == versions[0].version
        with httpx.stream("POST", f"{server.url}/generate", json={**body, "stream": True}, timeout=300) as streamed:
            events = [json.loads(line.removeprefix("data: ")) for line in streamed.iter_lines() if "text" in line]
        assert "".join(event["text"] for event in events) == answer.json()["text"]
        completion = {"model": "champion", "prompt": TEXT, "max_tokens": 8, "seed": 3, "logprobs": 2}
        completed = httpx.post(f"{server.url}/v1/completions", json=completion, timeout=300)
        assert completed.status_code == 200, completed.text
        assert len(completed.json()["choices"][0]["logprobs"]["top_logprobs"][0]) in (2, 3)
        refused = server.post(**body, temperature=3)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temperature")
        registry.move(versions[1], expected=versions[0].tag, action="promote", why="a test")
        wait_for(lambda: server.post(**body).headers["x-model-version"] == versions[1].version)
        wait_for(lambda: "freed model" in server.log.read_text(encoding="utf-8"))
        processes = psutil.Process(server.pid).children(recursive=True)
        long = {**body, "max_new_tokens": 30, "stream": True}
        with httpx.stream("POST", f"{server.url}/generate", json=long, timeout=300) as streamed:
            lines = (line for line in streamed.iter_lines() if line)
            next(lines)
            os.kill(server.pid, signal.SIGTERM)
            assert list(lines)[-1] == "data: [DONE]"  # a running request finishes before vLLM is stopped
    _, alive = psutil.wait_procs(processes, timeout=300)
    assert not alive
    assert TEXT not in server.log.read_text(encoding="utf-8")


def variant(model: Path, folder: Path, seed: int) -> Path:
    """Copy a model, as other data would have made it."""
    shutil.copytree(model, folder)
    (folder / "manifest.json").write_text(json.dumps({"data": f"{seed:064}"}), encoding="utf-8")
    return folder
