"""How many people a server can write for: `python -m bench.serve [--quick] [--json] [--plot PATH]`.

GPT-2 of 124 million parameters (random weights, so nothing is fetched), prompts of about 12 tokens, 64 new ones, drawn.
Servers in processes of their own, asked over HTTP from another: the recipe's app, transformers and CTranslate2 behind
micro-batches, llama.cpp's server where there is one, ours; and without HTTP the engine of ours, and CTranslate2.
"""

import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from bench import figure, harness, load
from bench.designs import OURS, TEMPERATURE, TOP_K, TOP_P
from bench.servers import SERVERS
from pipeline.command import run
from pipeline.command import warn as tell

PEER = "recipe"
BARE = {"CTranslate2, bare engine": "CTranslate2", "ours, bare engine": OURS}
OVER = {"CTranslate2, micro-batches": "CTranslate2, bare engine", "ours": "ours, bare engine"}
LIBRARIES = ("torch", "transformers", "ctranslate2", "bentoml", "fastapi", "aiohttp")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our own ports
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "BENTOML_DO_NOT_TRACK": "True"}
CLIENTS = "1,4,8,16,32,64"
SHARES = [0.5, 0.9]  # of the most tokens a second that ours wrote, for the open loop
STANDS = 0.95  # of a server's own most: at higher rates its queue may only grow, so there it is not asked
READY = 600.0  # seconds for a server to start; ours checks its engine on a model that it has not seen
END = 60.0  # seconds for a server to stop
NO_LLAMA = (
    "llama.cpp's server is not among them: LLAMA_SERVER names its llama-server, LLAMA_MODEL the model as a GGUF file "
    "(`python -m bench.servers model gpt2` prints the folder to convert)."
)


@dataclass(frozen=True)
class Size:
    """How much is asked for; see `bench.load.Plan`."""

    model: str
    tokens: int
    waves: int
    least: int
    seconds: float


FULL = Size("gpt2", tokens=64, waves=3, least=8, seconds=20)
QUICK = Size("tiny", tokens=8, waves=1, least=2, seconds=1)


@dataclass(frozen=True)
class Server:
    """How a server is started, and asked."""

    command: Callable[[Path, int], Sequence[str]]  # of the model's folder and a port
    body: Mapping[str, Any] = field(default_factory=dict)  # beside prompt, length, seed and sampling
    path: str = "/generate"
    length: str = "max_new_tokens"
    ready: str = "/readyz"
    streams: bool = False


@dataclass
class Turn:
    """What one round found for one of them: by number of clients, and by share of the most that ours wrote."""

    closed: dict[int, load.Found]
    open: dict[float, load.Found] = field(default_factory=dict)
    memory: int = 0  # bytes at the peak, of all its processes
    engine: str = ""  # of ours

    @property
    def most(self) -> float:
        """Tokens a second, with as many clients as are best for it."""
        return max(_speed(found) for found in self.closed.values())


def _speed(found: load.Found) -> float:
    return found.tokens / found.seconds


def _errors(found: Sequence[load.Found]) -> int:
    return sum(sum(one.errors.values()) for one in found)


def _time(which: Literal["first", "total"], percent: int) -> Callable[[load.Found], float]:
    """Return what takes the seconds until the first text, or until its end, from what was found."""

    def seconds(found: load.Found) -> float:
        of: list[float] = getattr(found, which)
        return of[load.PERCENTS.index(percent)]

    return seconds


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments("Compare servers under load: tokens a second, times to the first and last, memory.")
    parser.add_argument("--clients", default=CLIENTS, help=f"numbers of clients at a time (default: {CLIENTS})")
    parser.add_argument("--only", metavar="NAMES", help="of servers and engines, with ';' between (default: all)")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write a picture of it there, as SVG")
    wanted = parser.parse_args()
    clients = [1, 2] if wanted.quick else [int(number) for number in wanted.clients.split(",")]
    size, rounds, shares = (QUICK, 1, SHARES[:1]) if wanted.quick else (FULL, wanted.rounds, SHARES)
    names = wanted.only.split(";") if wanted.only else [*servers(), *BARE]
    made = harness.run(harness.Variant("the model", ["-m", "bench.servers", "model", size.model], environment=QUIET))
    folder = Path(made.output.splitlines()[-1])
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        in_turn = [*names[first:], *names[:first]]
        for name, turn in one_round(in_turn, folder, size, clients, shares, f"round {number + 1} of {rounds}").items():
            turns[name].append(turn)
    if wanted.plot:
        wanted.plot.write_text(picture(turns), encoding="utf-8")
    title = f"{size.model}, {size.tokens} tokens a text, rounds: {rounds}; medians"
    text = "\n\n".join([title, *tables(turns), notes(turns, size)])
    harness.publish("serve", text, rows_of(turns), LIBRARIES, wanted.json)


def servers() -> dict[str, Server]:
    """Return the servers that can be run here, by name."""

    def peer(name: str) -> Server:
        return Server(lambda folder, port: [sys.executable, "-m", "bench.servers", name, str(folder), str(port)])

    found = {name: peer(name) for name in SERVERS}
    binary, gguf = (os.environ.get(name) for name in ("LLAMA_SERVER", "LLAMA_MODEL"))
    if binary and gguf:
        texts = max(map(int, CLIENTS.split(",")))
        options = ["--host", "127.0.0.1", "--parallel", str(texts), "--ctx-size", str(texts * 128), "--model", gguf]
        found["llama.cpp's server"] = Server(
            lambda _, port: [binary, *options, "--port", str(port)],
            {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True, "cache_prompt": False},
            path="/v1/completions",
            length="max_tokens",
            ready="/health",
            streams=True,
        )
    found["ours"] = Server(
        lambda _, port: [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)],
        {"stream": True},
        streams=True,
    )
    return found


def one_round(
    names: Sequence[str], folder: Path, size: Size, clients: Sequence[int], shares: Sequence[float], say: str
) -> dict[str, Turn]:
    """Return what came of asking each in turn; all servers stand ready, one is asked at a time."""
    known = servers()
    turns: dict[str, Turn] = {}
    with ExitStack() as stack:
        started = {}
        for name in names:
            if name in known:
                started[name] = Running(name, known[name], folder)
                stack.callback(started[name].stop)
        for running in started.values():
            running.wait()
        for name in names:
            tell(f"{say}: {name}")
            if name in started:
                found = started[name].ask(folder, size, closed=clients)
                turns[name] = Turn(dict(zip(clients, found, strict=True)))
            else:
                numbers = [str(number) for number in (size.tokens, size.waves, *clients)]
                arguments = ["-m", "bench.designs", BARE[name], str(folder), "bare", *numbers]
                run = harness.run(harness.Variant(name, arguments, environment=QUIET | engines(folder)))
                turns[name] = Turn(dict(zip(clients, _found(run), strict=True)), memory=run.peak_memory)
        if "ours" in started:
            turns["ours"].engine = started["ours"].engine()
            for share in shares:
                speed = share * turns["ours"].most
                for name, running in started.items():
                    if speed <= STANDS * turns[name].most:
                        tell(f"{say}: {name}, {speed / size.tokens:.2f} requests a second")
                        [turns[name].open[share]] = running.ask(folder, size, open=[speed / size.tokens])
    for name, running in started.items():
        turns[name].memory = running.peak_memory
    return turns


def engines(folder: Path) -> dict[str, str]:
    """Return the variable that keeps checks of engines beside the model that is measured, not in the registry."""
    return {"ENGINES_DIR": str(folder.parent / "engines")}


def _found(run: harness.Run) -> list[load.Found]:
    return [load.Found(**found) for found in json.loads(run.output.splitlines()[-1])]


class Running:
    """A server that was started."""

    peak_memory = 0  # bytes, known when it has stopped

    def __init__(self, name: str, server: Server, folder: Path) -> None:
        """Start it on a free port."""
        self._name, self._server = name, server
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(  # noqa: S603 - our own commands
            server.command(folder, port),
            cwd=harness.ROOT,
            env=os.environ | QUIET | {"PYTHONPATH": str(harness.ROOT), "MODEL_DIR": str(folder), **engines(folder)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._watcher = ThreadPoolExecutor(1)
        self._peak = self._watcher.submit(harness.peak_memory, self._process.pid)

    def wait(self) -> None:
        """Return when it can be asked; raises RuntimeError with the end of its log when it never can."""
        end = time.monotonic() + READY
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with _OPENER.open(self._url + self._server.ready, timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        self._log.seek(0)
        raise RuntimeError(f"{self._name} did not start:\n{self._log.read()[-2000:]}")

    def ask(self, folder: Path, size: Size, **parts: Sequence[float]) -> list[load.Found]:
        """Return what `bench.load` finds, run in a process of its own: `closed` or `open`, see its `Plan`."""
        sampling = {"temperature": TEMPERATURE, "top_p": TOP_P, "top_k": TOP_K}
        plan = {
            "url": self._url + self._server.path,
            "body": {self._server.length: size.tokens, **sampling, **self._server.body},
            "length": self._server.length,
            "streams": self._server.streams,
            "folder": str(folder),
            "waves": size.waves,
            "least": size.least,
            "seconds": size.seconds,
            **parts,
        }
        return _found(harness.run(harness.Variant(f"load on {self._name}", ["-m", "bench.load", json.dumps(plan)])))

    def engine(self) -> str:
        """Return the engine that it says it runs, as ours does."""
        with _OPENER.open(self._url, timeout=5) as answer:
            return str(json.load(answer)["engine"])

    def stop(self) -> None:
        """Stop it, by force if it takes long."""
        if self._process.poll() is None:
            children = psutil.Process(self._process.pid).children(recursive=True)
            self._process.terminate()
            try:
                self._process.wait(END)
            except subprocess.TimeoutExpired:
                tell(f"{self._name} did not stop within {END:g} s and was killed")
                self._process.kill()
                self._process.wait()
                for child in children:
                    if child.is_running():
                        child.kill()
        self.peak_memory = self._peak.result()
        self._watcher.shutdown()
        self._log.close()


def rows_of(turns: Mapping[str, Sequence[Turn]]) -> list[harness.Row]:
    """Return the rows of every figure: of the closed loops, the open ones, memory, and what a stack costs."""
    rows = []
    parts: dict[str, dict[str, list[load.Found]]] = {}  # by part and variant
    for name, of in turns.items():
        for clients in of[0].closed:
            parts.setdefault(f"{clients} clients", {})[name] = [turn.closed[clients] for turn in of]
        for share in sorted({share for turn in of for share in turn.open}):
            found = [turn.open[share] for turn in of if share in turn.open]
            parts.setdefault(f"open loop at {share:.0%}", {})[name] = found
    metrics: dict[tuple[str, str], Callable[[load.Found], float]] = {
        ("speed", "tokens/s"): _speed,
        ("errors", "requests"): lambda found: _errors([found]),
        ("load generator", "share of a core"): lambda found: found.cpu / found.seconds,
    }
    for percent in load.PERCENTS:
        metrics[f"first text, p{percent}", "s"] = _time("first", percent)
        metrics[f"whole text, p{percent}", "s"] = _time("total", percent)
    for part, by_name in parts.items():
        for (metric, unit), value in metrics.items():
            figures = {name: [value(one) for one in found] for name, found in by_name.items()}
            known = {name: of for name, of in figures.items() if all(map(math.isfinite, of))}  # not so if all failed
            rows += harness.compare(known, f"{part}: {metric}", unit, PEER)
    rows += harness.compare(
        {name: [turn.memory / 1e6 for turn in of] for name, of in turns.items()}, "peak memory", "MB", PEER
    )
    for clients, over in overheads(turns).items():
        rows += harness.compare(over, f"{clients} clients: cost of the stack over its engine", "", PEER)
    return rows


def overheads(turns: Mapping[str, Sequence[Turn]]) -> dict[int, dict[str, list[float]]]:
    """Return by clients and server the share of its bare engine's speed that it loses, a figure a round."""
    pairs = {name: engine for name, engine in OVER.items() if name in turns and engine in turns}
    clients = [*next(iter(turns.values()))[0].closed] if pairs else []
    return {
        number: {
            name: [
                1 - _speed(over.closed[number]) / _speed(under.closed[number])
                for over, under in zip(turns[name], turns[engine], strict=True)
            ]
            for name, engine in pairs.items()
        }
        for number in clients
    }


def tables(turns: Mapping[str, Sequence[Turn]]) -> list[str]:
    """Return the tables: speed and memory, times of the closed loops, and those of the open ones."""

    def speed(of: Sequence[Turn], clients: int) -> float:
        return statistics.median(_speed(turn.closed[clients]) for turn in of)

    def times(found: Sequence[load.Found]) -> list[str]:
        middles = [
            [statistics.median(map(_time(which, percent), found)) for percent in load.PERCENTS]
            for which in ("first", "total")
        ]
        return [*(" / ".join(f"{middle:.2f}" for middle in of) for of in middles), str(_errors(found))]

    clients = [*next(iter(turns.values()))[0].closed]
    speeds = []
    for name, of in turns.items():
        cells = [f"{speed(of, number):,.0f}" for number in clients]
        if PEER in turns:
            cells = [
                f"{cell} ({speed(of, number) / speed(turns[PEER], number):.1f} x)"
                for cell, number in zip(cells, clients, strict=True)
            ]
        speeds.append([name, *cells, f"{statistics.median(turn.memory for turn in of) / 1e6:,.0f}"])
    over = overheads(turns)
    for name in next(iter(over.values()), {}):
        cells = [f"{statistics.median(over[number][name]):.0%}" for number in clients]
        speeds.append([f"cost of {name}, over its engine", *cells, ""])
    percents = " / ".join(f"p{percent}" for percent in load.PERCENTS)
    heads = [f"first text, s: {percents}", f"whole text, s: {percents}", "errors"]
    closed = [
        [f"{name}, {number}", *times([turn.closed[number] for turn in of])]
        for number in clients
        for name, of in turns.items()
    ]
    opened = [
        [f"{name}, {share:.0%}", *times([turn.open[share] for turn in of if share in turn.open])]
        for share in sorted({share for of in turns.values() for turn in of for share in turn.open})
        for name, of in turns.items()
        if any(share in turn.open for turn in of)
    ]
    found = [
        "Tokens a second by clients at a time (x recipe), and peak memory, MB:\n\n"
        + harness.table(["", *map(str, clients), "memory"], speeds),
        "Times, by clients at a time:\n\n" + harness.table(["", *heads], closed),
    ]
    if opened:
        told = "Times where requests arrive at random, at shares of the most tokens a second that ours wrote"
        found.append(f"{told} (servers that could stand it):\n\n{harness.table(['', *heads], opened)}")
    return found


def notes(turns: Mapping[str, Sequence[Turn]], size: Size) -> str:
    """Return what a reader of the tables must know."""
    all_found = [
        found for of in turns.values() for turn in of for found in (*turn.closed.values(), *turn.open.values())
    ]
    streaming = {name for name, server in servers().items() if server.streams} | {"ours, bare engine"}
    silent = [name for name in turns if name not in streaming]
    said = [f"The load generator took at most {max(found.cpu / found.seconds for found in all_found):.0%} of a core."]
    if silent:
        said.append(f"These do not stream, so their first text is the whole: {'; '.join(silent)}.")
    if (short := min(found.least_tokens for found in all_found)) < size.tokens:
        said.append(
            f"Some texts were shorter than {size.tokens} tokens, the shortest {short}; speeds count real tokens."
        )
    if engines := {turn.engine for of in turns.values() for turn in of if turn.engine}:
        said.append(f"Ours ran the engine {', '.join(sorted(engines))}.")
    if "llama.cpp's server" not in turns:
        said.append(NO_LLAMA)
    return " ".join(said)


def picture(turns: Mapping[str, Sequence[Turn]]) -> str:
    """Return the speeds and the times to the first text (p95) by clients, as SVG."""
    clients = [*next(iter(turns.values()))[0].closed]

    def lines(value: Callable[[load.Found], float], names: Sequence[str]) -> dict[str, list[float]]:
        return {
            name: [statistics.median(value(turn.closed[number]) for turn in turns[name]) for number in clients]
            for name in names
        }

    overall = [name for name in turns if name not in BARE]
    return figure.draw(
        [
            figure.Panel("tokens a second", "clients", clients, lines(_speed, overall)),
            figure.Panel("seconds to the first text, p95", "clients", clients, lines(_time("first", 95), overall)),
        ]
    )


if __name__ == "__main__":
    run(main)
