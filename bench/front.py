"""Measure what a token costs the service besides the model: `python -m bench.front [--quick] [--json] [--rounds N]`.

An engine without a model writes 512 tokens to each of 64 clients over HTTP, streamed and not. At a slow pace: the
processor time for each token of the event loop's thread, with its share of a request's own cost, and of the engine's
thread. At a pace that no service holds: tokens a second. BentoML's own middleware is not part of it.
"""

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
import uvloop
from tokenizers import Tokenizer

from bench import harness, load
from pipeline.command import run, warn
from serving import app as app_module
from serving import errors, settings
from serving.engines.protocol import Token
from serving.engines.sampling import Sampler
from serving.engines.scheduler import Scheduler
from serving.model_folder import ModelFolder
from serving.model_loader import LoadedModel

LIBRARIES = ("fastapi", "starlette", "uvicorn", "uvloop", "tokenizers")
CLIENTS, TOKENS, WAVES = 64, 512, 1
SLOW, FAST = 0.02, 0.001  # seconds a step: in the first the event loop handles each token by itself
ROUTES = {"/generate": "max_new_tokens", "/v1/completions": "max_tokens"}


class PacedRunner:
    """A `ModelRunner` whose steps take a fixed time and write the tokens of a tale again and again."""

    name = "paced"
    context = 1024
    start = end = 0
    prefill_tokens = 4096

    def __init__(self, step_seconds: float) -> None:
        """Take the pace."""
        self.tokenizer = Tokenizer.from_file(str(harness.ROOT / "starter" / "tokenizer.json"))
        tale = (harness.ROOT / "data" / "tales.csv").read_text(encoding="utf-8")[100:4000]
        self._tokens = [Token(number) for number in self.tokenizer.encode(tale).ids if number != self.end]
        self.step_seconds = step_seconds
        self._steps = 0
        self.written = 0
        self.seconds = 0.0  # processor time of this thread

    def open(self, length: int) -> int:
        """Return any slot."""
        return length

    def close(self, slot: int) -> None:
        """Do nothing."""

    def step(self, slots: Sequence[int], _: Sequence[Sequence[int]]) -> torch.Tensor:
        """Wait; return logits that `sample` does not read."""
        time.sleep(self.step_seconds)
        return torch.empty(len(slots), 0)

    def sample(self, _: torch.Tensor, samplers: Sequence[Sampler]) -> list[Token | None]:
        """Return the next token of the tale for each sequence, of other places of it for others."""
        self._steps += 1
        self.written += len(samplers)
        self.seconds = time.thread_time()
        count = len(self._tokens)
        return [self._tokens[(self._steps + 7 * at) % count] for at in range(len(samplers))]


class AlwaysServed:
    """One model that is always available; as much of `ServedModel` as the routes use."""

    status, folder, refusal, swaps = "up", None, None, 0

    def __init__(self, engine: Scheduler) -> None:
        """Serve `engine`."""
        self.loaded: LoadedModel[Any] = LoadedModel(engine, "v1", None, ModelFolder(Path(), "a benchmark"), "champion")

    @asynccontextmanager
    async def acquire(self, _: str | None = None) -> AsyncIterator[LoadedModel[Any]]:
        """Yield the model."""
        yield self.loaded

    def names(self) -> list[str]:
        """Return its name."""
        return ["champion"]


def main() -> None:
    """Measure and publish."""
    arguments = harness.arguments().parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    rows = uvloop.run(measure(rounds, arguments.quick))
    lines = [
        [row.metric, row.variant, f"{row.figure:,.1f} ({row.low:,.1f} to {row.high:,.1f}) {row.unit}"] for row in rows
    ]
    text = harness.table(["", "route", "figure"], lines)
    harness.publish("front", text, rows, LIBRARIES, arguments.json)


async def measure(rounds: int, quick: bool) -> list[harness.Row]:
    """Return the figures of each route."""
    loop: dict[str, list[float]] = {}
    own: dict[str, list[float]] = {}
    speed: dict[str, list[float]] = {}
    runner = PacedRunner(FAST)
    engine = Scheduler(lambda: runner, CLIENTS)
    async with _server(engine) as url:
        for _ in range(rounds):
            for route, streams in itertools.product(ROUTES, (False, True)):
                variant = f"{route}{', streamed' if streams else ''}"
                warn(variant)
                runner.step_seconds = FAST if quick else SLOW
                before = (time.thread_time(), runner.seconds, runner.written)
                await _load(url, route, streams, quick)
                tokens = runner.written - before[2]
                loop.setdefault(variant, []).append(1e6 * (time.thread_time() - before[0]) / tokens)
                own.setdefault(variant, []).append(1e6 * (runner.seconds - before[1]) / tokens)
                runner.step_seconds = FAST
                result = await _load(url, route, streams, quick)
                speed.setdefault(variant, []).append(result.tokens / result.seconds)
    await asyncio.to_thread(engine.close)
    peer = next(iter(ROUTES))
    return [
        *harness.compare(loop, "event loop", "µs a token", peer),
        *harness.compare(own, "engine's thread", "µs a token", peer),
        *harness.compare(speed, "throughput", "tokens/s", peer),
    ]


@asynccontextmanager
async def _server(engine: Scheduler) -> AsyncIterator[str]:
    """Serve the app on this loop; yield its address."""
    make: Any = app_module.make_app
    limits = settings.load(harness.ROOT).model_copy(update={"max_concurrency": CLIENTS})
    app = errors.ErrorFormatMiddleware(make("causal_lm", AlwaysServed(engine), limits))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


async def _load(url: str, route: str, streams: bool, quick: bool) -> load.LoadResult:
    """Send requests from another process and return the figures; raise RuntimeError if any of them fails."""
    clients, tokens = (4, 8) if quick else (CLIENTS, TOKENS)
    body: dict[str, Any] = {ROUTES[route]: tokens, "temperature": 1.0}
    if streams:
        body["stream"] = True
        if route != "/generate":
            body["stream_options"] = {"include_usage": True}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tokenizer.json").symlink_to(harness.ROOT / "starter" / "tokenizer.json")
        sizes = {"closed": [clients], "waves": 1 if quick else WAVES, "min_requests": 1}
        plan = {"url": url + route, "body": body, "length_field": ROUTES[route], "streams": streams, "folder": folder}
        command = [sys.executable, "-m", "bench.load", json.dumps(plan | sizes)]
        process = await asyncio.create_subprocess_exec(*command, cwd=harness.ROOT, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
    [result] = [load.LoadResult(**one) for one in json.loads(output.splitlines()[-1])]
    if result.errors or result.min_tokens < tokens:
        raise RuntimeError(f"{route}: {result.errors or f'an answer had {result.min_tokens} tokens'}")
    return result


if __name__ == "__main__":
    run(main)
