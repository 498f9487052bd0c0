"""vLLM, requested by name: a child process in its own environment, reached over OpenAI's protocol.

vLLM comes with its own torch and an older transformers, so it cannot live in this environment: VLLM_PYTHON names the
python of one that has it. It listens on a Unix socket in a folder of mode 0700: a port would answer other users of the
machine, and web pages of any origin. Seeds are vLLM's: it does not promise the same text for the same seed when other
requests share the batch (see "Batch invariance" in its documentation).
"""

import asyncio
import itertools
import json
import logging
import os
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from serving.engines.lora import Adapter
from serving.engines.protocol import EngineError, Sampling, Stream, Token
from serving.engines.transformers import load_tokenizer
from serving.errors import ApiError
from serving.settings import EngineSettings

logger = logging.getLogger("bentoml.serving")

_START_SECONDS = 900  # a large model is read, compiled and profiled first
_STOP_SECONDS = 20
_POLL_SECONDS = 0.02  # between two checks for cancellation
_MODEL = "model"  # its name between the two processes
_URL = "http://vllm"  # the socket's path says where it is
_MAX_SOCKET_PATH = 100  # bytes; the system's limit is 104 to 108
_SEED_FOR_MINUS_1 = 2**63 - 1  # vLLM takes -1 for no seed
_MAX_TEMPERATURE = 2.0  # vLLM's
_OWN_VARIABLES = ("VLLM_ARGS", "VLLM_PYTHON")  # the service's: vLLM warns of those that it does not know

# Stops the server with all its processes when the service is gone, even if it was killed: the pipe to stdin closes.
# Only that ends the guardian; a signal to it would leave the server behind.
GUARDIAN = """
import os, shutil, signal, subprocess, sys, threading
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
server = subprocess.Popen(sys.argv[3:], stdin=subprocess.DEVNULL, start_new_session=True)
def end():
    sys.stdin.read()
    for number, seconds in ((signal.SIGTERM, float(sys.argv[1])), (signal.SIGKILL, None)):
        try:
            os.killpg(server.pid, number)
            server.wait(seconds)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            continue
threading.Thread(target=end, daemon=True).start()
code = server.wait()
try:
    os.killpg(server.pid, signal.SIGKILL)
except ProcessLookupError:
    pass
shutil.rmtree(sys.argv[2], ignore_errors=True)
sys.exit(code != 0)
"""


class VllmEngine:
    """An `Engine` that runs in a vLLM server: see `serving.engines.protocol.Engine`."""

    name = "vllm"
    tokenizer: Tokenizer

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        """Start vLLM with the model in `folder`, and wait until it is ready; raises EngineError."""
        python, arguments = _checked_python(settings.vllm_python), _split(settings.vllm_args)
        self.tokenizer, self.start, self.end = load_tokenizer(folder)
        self._settings = settings
        self._loads = itertools.count()  # of adapters
        self._requests: set[asyncio.Task[None]] = set()
        self._closing = threading.Event()
        self._tls = ssl.create_default_context()  # unused, but httpx would make one for each client, in some 20 ms
        private = _private_folder()
        self._socket = str(private / "socket")
        self._guardian = subprocess.Popen(  # noqa: S603 - the user chooses the python
            [
                *(sys.executable, "-c", GUARDIAN, str(_STOP_SECONDS), str(private)),
                *(python, "-m", "vllm.entrypoints.openai.api_server", "--disable-uvicorn-access-log", *arguments),
                *("--uds", self._socket, "--model", str(folder.absolute()), "--served-model-name", _MODEL),
                *("--max-num-seqs", str(settings.max_concurrency)),
                *("--generation-config", "vllm"),  # else the folder's own settings complete a request's
                *_lora_arguments(settings.adapters),
            ],
            stdin=subprocess.PIPE,
            env=_environment(private),
            start_new_session=True,  # Ctrl-C is for the service, which lets running requests finish
        )
        try:
            self.context: int = self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    @property
    def waiting(self) -> int:
        """Requests beyond those that vLLM batches."""
        return max(0, len(self._requests) - self._settings.max_concurrency)

    @property
    def running(self) -> int:
        """Requests in vLLM's batch."""
        return min(len(self._requests), self._settings.max_concurrency)

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str = _MODEL) -> Stream:
        """Return the stream of generated tokens; see `Engine.submit`. Raises ApiError for what vLLM refuses.

        Args:
            prompt: Token ids.
            sampling: The request's.
            adapter: From `load_adapter`; by default none.
        """
        if sampling.temperature > _MAX_TEMPERATURE:
            message = f"temperature may be at most {_MAX_TEMPERATURE:g} with the engine vllm"
            raise ApiError(400, message, param="temperature")
        stream = Stream()
        if not sampling.max_new_tokens:
            stream.end("length")
            return stream
        task = stream.loop.create_task(self._follow(stream, _body(prompt, sampling) | {"model": adapter}))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return stream

    def load_adapter(self, adapter: Adapter) -> str:
        """Return what `submit` takes; raises EngineError with vLLM's words where it refuses the adapter."""
        name = f"{adapter.version}-{next(self._loads)}"  # vLLM refuses a name that it knows
        path = str(adapter.folder.absolute())
        answer = self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        if answer.status_code != httpx.codes.OK:
            message = answer.json()["error"]["message"]
            raise EngineError(f"vLLM refused the adapter in {adapter.folder}: {message}")
        return name

    def unload_adapter(self, adapter: str) -> None:
        """Free an adapter; does nothing once vLLM has ended."""
        if self._closing.is_set() or self._guardian.poll() is not None:
            return
        try:
            self._post("/v1/unload_lora_adapter", {"lora_name": adapter})
        except EngineError as error:
            logger.warning("vLLM keeps an adapter that is no longer used: %s", error)

    def _post(self, path: str, body: dict[str, str]) -> httpx.Response:
        """Return vLLM's answer; raises EngineError where there is none."""
        transport = httpx.HTTPTransport(verify=self._tls, uds=self._socket)
        try:
            with httpx.Client(transport=transport, timeout=self._settings.timeout, trust_env=False) as client:
                return client.post(f"{_URL}{path}", json=body)
        except httpx.HTTPError as error:
            raise self._engine_error(error) from None

    def close(self) -> None:
        """Stop vLLM with all its processes; see `Engine.close`."""
        assert self._guardian.stdin
        self._closing.set()  # vLLM waits for open connections
        self._guardian.stdin.close()
        self._guardian.wait(2 * _STOP_SECONDS)

    def _wait_until_ready(self) -> int:
        """Return how many tokens a request may have, once vLLM answers."""
        until = time.monotonic() + _START_SECONDS
        transport = httpx.HTTPTransport(verify=self._tls, uds=self._socket)
        with httpx.Client(transport=transport, base_url=_URL, trust_env=False) as client:
            while time.monotonic() < until:
                if self._guardian.poll() is not None:
                    raise EngineError("vLLM ended while it was starting; see the log above")
                if _listens(self._socket) and client.get("/health").status_code == httpx.codes.OK:
                    return int(client.get("/v1/models").json()["data"][0]["max_model_len"])
                time.sleep(0.25)
        raise EngineError(f"vLLM was not ready within {_START_SECONDS} s")

    async def _follow(self, stream: Stream, body: dict[str, Any]) -> None:
        """Fill `stream`; closing the connection cancels the request in vLLM."""
        reading = asyncio.ensure_future(self._read(stream, body))
        try:
            while not reading.done():
                if stream.cancelled or self._closing.is_set():
                    reading.cancel()
                await asyncio.wait({reading}, timeout=_POLL_SECONDS)
            error = None if reading.cancelled() else reading.exception()
            if error or self._closing.is_set():
                stream.end(None, self._engine_error(error))
            elif reading.cancelled():
                stream.end(None)
        finally:
            reading.cancel()

    def _engine_error(self, error: BaseException | None) -> EngineError:
        if self._closing.is_set():
            return EngineError("vLLM was stopped")
        if isinstance(error, EngineError):
            return error
        if self._guardian.poll() is not None:
            return EngineError("vLLM has ended; see its log, and restart the service")
        return EngineError(f"vLLM cannot be reached ({type(error).__name__})")

    async def _read(self, stream: Stream, body: dict[str, Any]) -> None:
        """Send a request and push its tokens."""
        transport = httpx.AsyncHTTPTransport(verify=self._tls, uds=self._socket)
        async with (
            httpx.AsyncClient(transport=transport, timeout=self._settings.timeout, trust_env=False) as client,
            client.stream("POST", f"{_URL}/v1/completions", json=body) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise EngineError(f"vLLM answered {answer.status_code}; see its log")
            async for event in _events(answer):
                if "error" in event:
                    raise EngineError("vLLM failed in mid-stream; see its log")
                for choice in event["choices"]:
                    for token in _tokens(choice, body.get("logprobs")):
                        if token.id != self.end:
                            stream.push(token)
                    if reason := choice.get("finish_reason"):
                        if reason not in ("stop", "length"):
                            raise EngineError(f"vLLM ended the text with the unknown reason {reason!r}")
                        stream.end(reason)
                        return
        raise EngineError("vLLM broke off in mid-stream")


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in _lines(answer):
        if line.startswith(b"data:") and not line.endswith(b"[DONE]"):
            yield json.loads(line.removeprefix(b"data:"))


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the lines of a stream; httpx would also split at U+2028, U+2029 and U+0085 inside an event."""
    rest = b""
    async for part in answer.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    yield rest


def _body(prompt: Sequence[int], sampling: Sampling) -> dict[str, Any]:
    """Return the request: OpenAI's fields, and extensions of vLLM."""
    body = {
        "model": _MODEL,
        "prompt": list(prompt),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed if sampling.seed != -1 else _SEED_FOR_MINUS_1,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stream": True,
        "return_token_ids": True,
    }
    if sampling.logprobs is not None:
        body |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    return body


def _tokens(choice: dict[str, Any], logprobs: int | None) -> list[Token]:
    """Return the tokens of an event; its logprobs name tokens as "token_id:50256"."""
    ids = choice.get("token_ids") or []
    if logprobs is None or not ids:
        return [Token(token) for token in ids]
    reported = choice["logprobs"]
    tops = reported.get("top_logprobs") or [None] * len(ids)
    tokens = []
    for token, own, top in zip(ids, reported["token_logprobs"], tops, strict=True):
        best = sorted(((_id(name), value) for name, value in (top or {}).items()), key=lambda one: -one[1])
        tokens.append(Token(token, own, tuple(best[:logprobs])))  # vLLM lists the token itself as well
    return tokens


def _id(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def _checked_python(python: str | None) -> str:
    """Return the python that has vLLM; raises EngineError."""
    fix = "set VLLM_PYTHON to the python of an environment in which vLLM is installed (`pip install vllm`)"
    if not python:
        raise EngineError(f"service.engine is vllm, but VLLM_PYTHON is not set; {fix}")
    check = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        is_missing = subprocess.run([python, "-c", check], timeout=60, check=False).returncode  # noqa: S603 - likewise
    except (OSError, subprocess.TimeoutExpired):
        raise EngineError(f"VLLM_PYTHON is {python}, which cannot be run; {fix}") from None
    if is_missing:
        raise EngineError(f"VLLM_PYTHON is {python}, which has no vLLM; {fix}")
    return python


def _split(arguments: str) -> list[str]:
    """Return the arguments in VLLM_ARGS; raises EngineError."""
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise EngineError(f"VLLM_ARGS cannot be split ({error}); quote arguments as in a shell") from None


def _lora_arguments(adapters: int) -> list[str]:
    """Return vLLM's arguments for so many adapters: two versions of each are known while one is replaced."""
    if not adapters:
        return []
    return ["--enable-lora", "--max-loras", str(adapters), "--max-cpu-loras", str(2 * adapters)]


def _environment(private: Path) -> dict[str, str]:
    """Return the environment of vLLM: without its telemetry and questions to the hub, all its sockets in `private`."""
    kept = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
    off = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    own = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}  # only this user reaches it
    return {**kept, **off, **own, "VLLM_RPC_BASE_PATH": str(private)}  # the guardian deletes the sockets that it leaves


def _listens(path: str) -> bool:
    """Return whether a server listens on a Unix socket; httpcore would leave its own socket open where none does."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _private_folder() -> Path:
    """Make a folder that only this user can enter, with a path that is short enough for a socket."""
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary / "vllm-12345678" / str(uuid.UUID(int=0)))) > _MAX_SOCKET_PATH:  # vLLM's own
        temporary = Path("/tmp")  # noqa: S108 - see above
    return Path(tempfile.mkdtemp(prefix="vllm-", dir=temporary))
