"""vLLM on a GPU, asked for by name: a child process in an environment of its own, spoken to over OpenAI's protocol.

vLLM comes with its own torch and an older transformers, so it cannot live in this environment: VLLM_PYTHON names the
python of one that has it. Seeds are vLLM's: the same seed gives the same text as far as vLLM keeps it so, which it does
not promise for other neighbours in the batch (see "Batch invariance" in its documentation).
"""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from serving.engines.protocol import EngineError, Sampling, Stream, Token
from serving.engines.transformers import load_tokenizer
from serving.settings import LIMITS

_START_SECONDS = 900  # a large model is read, compiled and measured first
_END_SECONDS = 20
_LOOK_SECONDS = 0.02  # between two looks at whether a request was cancelled
_MODEL = "model"  # its name between the two processes

# Ends the server, all its processes, when the service is gone however it went: then nobody holds the pipe any more.
_KEEPER = """
import os, signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)
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
sys.exit(code != 0)
"""


class VllmEngine:
    """See `serving.engines.protocol.Engine`."""

    name = "vllm"
    tokenizer: Tokenizer

    def __init__(self, folder: Path, max_concurrency: int) -> None:
        """Start vLLM with the model in `folder`, and wait until it is up; raises EngineError."""
        from transformers import AutoConfig

        python = _python()
        self.tokenizer, self.start, self.end = load_tokenizer(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.context: int = getattr(config, "max_position_embeddings", sys.maxsize)
        self._max_concurrency = max_concurrency
        self._requests: set[asyncio.Task[None]] = set()
        self._tls = ssl.create_default_context()  # httpx makes one a client otherwise, used or not, in some 20 ms
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        server = [
            *(python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)),
            *("--model", str(folder.absolute()), "--served-model-name", _MODEL),
            *("--max-num-seqs", str(max_concurrency)),
            *("--generation-config", "vllm"),  # the folder's own settings would complete those of a request
        ]
        self._keeper = subprocess.Popen(  # noqa: S603 - the user names the python
            [sys.executable, "-c", _KEEPER, str(_END_SECONDS), *server],
            stdin=subprocess.PIPE,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def waiting(self) -> int:
        """Requests beyond those that vLLM takes at once."""
        return max(0, len(self._requests) - self._max_concurrency)

    @property
    def running(self) -> int:
        """Requests that vLLM has in its batch."""
        return min(len(self._requests), self._max_concurrency)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Return the stream of what the model writes; see `Engine.submit`."""
        stream = Stream()
        if not sampling.max_new_tokens:
            stream.end("length")
            return stream
        task = stream.loop.create_task(self._follow(stream, _body(prompt, sampling)))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return stream

    def close(self) -> None:
        """End vLLM, all its processes; see `Engine.close`."""
        assert self._keeper.stdin
        self._keeper.stdin.close()
        self._keeper.wait(2 * _END_SECONDS)

    def _wait(self) -> None:
        """Wait until the server answers."""
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if self._keeper.poll() is not None:
                raise EngineError("vLLM ended while it was starting; the log above says why")
            try:
                if httpx.get(f"{self._url}/health", trust_env=False).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.25)
        raise EngineError(f"vLLM was not up within {_START_SECONDS} s")

    async def _follow(self, stream: Stream, body: dict[str, Any]) -> None:
        """Fill `stream`; a request that nobody waits for is taken back from vLLM by closing the connection."""
        reading = asyncio.ensure_future(self._read(stream, body))
        try:
            while not reading.done():
                if stream.cancelled:
                    reading.cancel()
                await asyncio.wait({reading}, timeout=_LOOK_SECONDS)
            if reading.cancelled():
                stream.end(None)
            elif error := reading.exception():
                if not isinstance(error, EngineError):
                    error = EngineError(f"vLLM cannot be spoken to ({type(error).__name__})")
                stream.end(None, error)
        finally:
            reading.cancel()

    async def _read(self, stream: Stream, body: dict[str, Any]) -> None:
        """Send a request, and push its tokens."""
        async with (
            httpx.AsyncClient(verify=self._tls, timeout=LIMITS.timeout, trust_env=False) as client,
            client.stream("POST", f"{self._url}/v1/completions", json=body) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise EngineError(f"vLLM answered {answer.status_code}; its log says why")
            async for line in _lines(answer):
                if not line.startswith(b"data:") or line.endswith(b"[DONE]"):
                    continue
                event = json.loads(line.removeprefix(b"data:"))
                if "error" in event:
                    raise EngineError("vLLM failed in mid-stream; its log says why")
                for choice in event["choices"]:
                    for token in _tokens(choice, body.get("logprobs")):
                        if token.id != self.end:
                            stream.push(token)
                    if reason := choice.get("finish_reason"):
                        if reason not in ("stop", "length"):
                            raise EngineError(f"vLLM ended the text for the reason {reason}")
                        stream.end(reason)
                        return
        raise EngineError("vLLM broke off in mid-stream")


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the lines of a stream; httpx's own would also split at U+2028, U+2029 and U+0085 inside of an event."""
    rest = b""
    async for part in answer.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    yield rest


def _body(prompt: Sequence[int], sampling: Sampling) -> dict[str, Any]:
    """Return vLLM's request; what is not OpenAI's in it is vLLM's own."""
    body = {
        "model": _MODEL,
        "prompt": list(prompt),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
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
    """Return the tokens of an event; with logprobs, tokens are written there as "token_id:50256"."""
    ids = choice.get("token_ids") or []
    if logprobs is None or not ids:
        return [Token(token) for token in ids]
    found = choice["logprobs"]
    tops = found.get("top_logprobs") or [None] * len(ids)
    tokens = []
    for token, own, top in zip(ids, found["token_logprobs"], tops, strict=True):
        best = sorted(((_id(name), value) for name, value in (top or {}).items()), key=lambda one: -one[1])
        tokens.append(Token(token, own, tuple(best[:logprobs])))  # the token itself stands there as well
    return tokens


def _id(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def _python() -> str:
    """Return the python that has vLLM; raises EngineError."""
    python = os.environ.get("VLLM_PYTHON")
    mend = "set VLLM_PYTHON to the python of an environment in which `pip install vllm` was done"
    if not python:
        raise EngineError(f"service.engine is vllm, but VLLM_PYTHON is not set; {mend}")
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        missing = subprocess.run([python, "-c", look], timeout=60, check=False).returncode  # noqa: S603 - likewise
    except (OSError, subprocess.TimeoutExpired):
        raise EngineError(f"VLLM_PYTHON is {python}, which cannot be run; {mend}") from None
    if missing:
        raise EngineError(f"VLLM_PYTHON is {python}, which has no vLLM; {mend}")
    return python


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
