"""The rows, tables, notes and the picture of `bench.serve`."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench import figure, harness
from bench.harness import FRESH
from bench.load import PERCENTS, LoadResult
from bench.server_processes import LLAMA, Size, servers

PEER = "recipe"
BARE = {"CTranslate2, bare engine": "CTranslate2", f"{FRESH}, bare engine": FRESH}  # the engine of `bench.bare_engines`
ENGINE_OF = {"CTranslate2, micro-batches": "CTranslate2, bare engine", FRESH: f"{FRESH}, bare engine"}
NO_LLAMA = (
    "llama.cpp's server is not among them: set LLAMA_SERVER to its llama-server and LLAMA_MODEL to the model as GGUF "
    "(`python -m bench.servers model gpt2` prints the folder to convert)."
)


@dataclass
class Round:
    """The figures of one variant in one round: closed loops by clients, open ones by share of the service's speed."""

    closed: dict[int, LoadResult]
    open: dict[float, LoadResult] = field(default_factory=dict)
    memory: int = 0  # bytes at the peak, of all its processes
    engine: str = ""  # of the service

    @property
    def max_speed(self) -> float:
        """Tokens a second with the best number of clients."""
        return max(_speed(result) for result in self.closed.values())


Results = Mapping[str, Sequence[Round]]  # by variant


def _speed(result: LoadResult) -> float:
    return result.tokens / result.seconds


def _errors(results: Sequence[LoadResult]) -> int:
    return sum(sum(result.errors.values()) for result in results)


def _time(which: Literal["first", "total"], percent: int) -> Callable[[LoadResult], float]:
    """Return a function from a result to its seconds until the first text, or until its end."""

    def seconds(result: LoadResult) -> float:
        percentiles: list[float] = getattr(result, which)
        return percentiles[PERCENTS.index(percent)]

    return seconds


def _clients(results: Results) -> list[int]:
    return [*next(iter(results.values()))[0].closed]


def _shares(results: Results) -> list[float]:
    return sorted({share for rounds in results.values() for one in rounds for share in one.open})


def rows_of(results: Results) -> list[harness.Row]:
    """Return the rows of every figure: closed loops, open ones, memory, and the overhead of a server."""
    metrics: dict[tuple[str, str], Callable[[LoadResult], float]] = {
        ("speed", "tokens/s"): _speed,
        ("errors", "requests"): lambda result: _errors([result]),
        ("load generator", "share of a core"): lambda result: result.cpu / result.seconds,
    }
    for percent in PERCENTS:
        metrics[f"first text, p{percent}", "s"] = _time("first", percent)
        metrics[f"whole text, p{percent}", "s"] = _time("total", percent)
    rows = []
    for part, by_variant in _parts(results):
        for (metric, unit), value in metrics.items():
            figures = {name: [value(result) for result in of_one] for name, of_one in by_variant.items()}
            finite = {name: values for name, values in figures.items() if all(map(math.isfinite, values))}
            rows += harness.compare(finite, f"{part}: {metric}", unit, PEER)
    memory = {name: [one.memory / 1e6 for one in rounds] for name, rounds in results.items()}
    rows += harness.compare(memory, "peak memory", "MB", PEER)
    for clients, by_server in overheads(results).items():
        rows += harness.compare(by_server, f"{clients} clients: cost of the stack over its engine", "", PEER)
    return rows


def _parts(results: Results) -> Iterator[tuple[str, dict[str, list[LoadResult]]]]:
    """Yield the name of each load with its results by variant."""
    for clients in _clients(results):
        yield f"{clients} clients", {name: [one.closed[clients] for one in rounds] for name, rounds in results.items()}
    for share in _shares(results):
        opened = {name: [one.open[share] for one in rounds if share in one.open] for name, rounds in results.items()}
        yield f"open loop at {share:.0%}", {name: of_one for name, of_one in opened.items() if of_one}


def overheads(results: Results) -> dict[int, dict[str, list[float]]]:
    """Return by clients and server the share of its bare engine's speed that it loses, a figure a round."""
    pairs = {name: engine for name, engine in ENGINE_OF.items() if name in results and engine in results}
    return {
        clients: {
            name: [
                1 - _speed(server.closed[clients]) / _speed(bare.closed[clients])
                for server, bare in zip(results[name], results[engine], strict=True)
            ]
            for name, engine in pairs.items()
        }
        for clients in (_clients(results) if pairs else [])
    }


def tables(results: Results) -> list[str]:
    """Return the tables: speed and memory, times of the closed loops, and those of the open ones."""
    clients = _clients(results)
    percents = " / ".join(f"p{percent}" for percent in PERCENTS)
    heads = ["", f"first text, s: {percents}", f"whole text, s: {percents}", "errors"]
    closed = [
        [f"{name}, {number}", *_times([one.closed[number] for one in rounds])]
        for number in clients
        for name, rounds in results.items()
    ]
    opened = [
        [f"{name}, {share:.0%}", *_times([one.open[share] for one in rounds if share in one.open])]
        for share in _shares(results)
        for name, rounds in results.items()
        if any(share in one.open for one in rounds)
    ]
    made = [
        "Tokens a second by clients at a time (x recipe), and peak memory, MB:\n\n"
        + harness.table(["", *map(str, clients), "memory"], _speed_lines(results, clients)),
        f"Times, by clients at a time:\n\n{harness.table(heads, closed)}",
    ]
    if opened:
        title = "Times where requests arrive at random, at shares of the service's speed (servers that sustain it)"
        made.append(f"{title}:\n\n{harness.table(heads, opened)}")
    return made


def _speed_lines(results: Results, clients: Sequence[int]) -> list[list[str]]:
    def speed(name: str, number: int) -> float:
        return statistics.median(_speed(one.closed[number]) for one in results[name])

    lines = []
    for name, rounds in results.items():
        cells = [f"{speed(name, number):,.0f}" for number in clients]
        if PEER in results:
            ratios = [speed(name, number) / speed(PEER, number) for number in clients]
            cells = [f"{cell} ({ratio:.1f} x)" for cell, ratio in zip(cells, ratios, strict=True)]
        lines.append([name, *cells, f"{statistics.median(one.memory for one in rounds) / 1e6:,.0f}"])
    by_clients = overheads(results)
    for name in next(iter(by_clients.values()), {}):
        cells = [f"{statistics.median(by_clients[number][name]):.0%}" for number in clients]
        lines.append([f"cost of {name}, over its engine", *cells, ""])
    return lines


def _times(results: Sequence[LoadResult]) -> list[str]:
    """Return the cells of a line of times: first text, whole text, errors."""
    cells = []
    for which in ("first", "total"):
        medians = [statistics.median(map(_time(which, percent), results)) for percent in PERCENTS]
        cells.append(" / ".join(f"{median:.2f}" for median in medians))
    return [*cells, str(_errors(results))]


def notes(results: Results, size: Size) -> str:
    """Return what a reader of the tables must know."""
    rounds = [one for of_one in results.values() for one in of_one]
    loads = [result for one in rounds for result in (*one.closed.values(), *one.open.values())]
    streaming = {name for name, server in servers().items() if server.streams} | {ENGINE_OF[FRESH]}
    silent = [name for name in results if name not in streaming]
    sentences = [f"The load generator took at most {max(one.cpu / one.seconds for one in loads):.0%} of a core."]
    if silent:
        sentences.append(f"These do not stream, so their first text is the whole: {'; '.join(silent)}.")
    if (shortest := min(one.min_tokens for one in loads)) < size.tokens:
        sentences.append(
            f"Some texts were shorter than {size.tokens} tokens, the shortest {shortest}; speeds count real tokens."
        )
    if engines := {one.engine for one in rounds if one.engine}:
        sentences.append(f"The service ran the engine {', '.join(sorted(engines))}.")
    if LLAMA not in results:
        sentences.append(NO_LLAMA)
    return " ".join(sentences)


def picture(results: Results) -> str:
    """Return the speeds and the times to the first text (p95) by clients, as SVG."""
    clients = _clients(results)

    def lines(value: Callable[[LoadResult], float]) -> dict[str, list[float]]:
        return {
            name: [statistics.median(value(one.closed[number]) for one in rounds) for number in clients]
            for name, rounds in results.items()
            if name not in BARE
        }

    speeds = figure.Panel("tokens a second", "clients", clients, lines(_speed))
    first = figure.Panel("seconds to the first text, p95", "clients", clients, lines(_time("first", 95)))
    return figure.draw([speeds, first])
