"""Compare engines under short and long texts at once: `python -m bench.mixed_load [--rounds 3]`.

Without HTTP, behind the service's own queues: `int8` writes token by token, all texts in one batch; `ctranslate2` two
batches at a time, a core for each. 12 clients request 16 tokens and 4 request 512, each again and again, for a minute.
"""

import asyncio
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench import harness
from bench.micro_batches import TEMPERATURE, TOP_K, TOP_P, tokenized_prompts
from bench.server_processes import QUIET, engine_environment
from bench.servers import make_model
from pipeline.command import echo, run

LIBRARIES = ("torch", "ctranslate2", "numba")
ENGINES = ("int8", "ctranslate2")
CLIENTS = {16: 12, 512: 4}  # by the tokens of each of their texts
QUICK_CLIENTS = {2: 2, 8: 1}
SECONDS, QUICK_SECONDS = 60.0, 2.0


@dataclass
class Figures:
    """What an engine did: tokens in all and of the longest texts, and each short text's seconds."""

    seconds: float
    tokens: int
    long_tokens: int
    short: list[float]  # until a text was whole

    @property
    def metrics(self) -> dict[str, float]:
        """Tokens a second, and percentiles of the short texts' seconds."""
        return {
            "all texts": self.tokens / self.seconds,
            "long texts": self.long_tokens / self.seconds,
            "short texts, p50": statistics.median(self.short),
            "short texts, p95": statistics.quantiles(self.short, n=20)[-1],
        }


def main() -> None:
    """Measure and publish, or measure one engine in this process."""
    parser = harness.arguments()
    parser.add_argument("--model", default="gpt2", help="gpt2, tiny, or a base as in params.yaml (default: gpt2)")
    parser.add_argument("--engine", choices=ENGINES, help="measure this one alone, in this process")
    arguments = parser.parse_args()
    folder = make_model(arguments.model)
    clients, seconds = (QUICK_CLIENTS, QUICK_SECONDS) if arguments.quick else (CLIENTS, SECONDS)
    if arguments.engine:
        echo("\n" + json.dumps(asdict(asyncio.run(_measure(arguments.engine, folder, clients, seconds)))))
        return
    options = ["--model", arguments.model, *(["--quick"] if arguments.quick else [])]
    environment = QUIET | engine_environment(folder)
    variants = [
        harness.Variant(engine, ["-m", "bench.mixed_load", *options, "--engine", engine], environment=environment)
        for engine in ENGINES
    ]
    runs = harness.in_turns(variants, 1 if arguments.quick else arguments.rounds)
    figures = {engine: [Figures(**one.result) for one in of_engine] for engine, of_engine in runs.items()}
    rows = []
    for metric in figures[ENGINES[0]][0].metrics:
        values = {engine: [one.metrics[metric] for one in of_engine] for engine, of_engine in figures.items()}
        rows += harness.compare(values, metric, "s" if "short" in metric else "tokens/s", ENGINES[-1])
    by_engine = harness.by_variant(rows)
    metrics = list(by_engine[ENGINES[0]])
    lines = [[engine, *map(_cell, by_engine[engine].values())] for engine in ENGINES]
    loads = " and ".join(f"{count} clients of {tokens} tokens" for tokens, count in clients.items())
    title = f"{arguments.model}, {loads}; median (minimum to maximum)"
    table = harness.table(["", *metrics], lines)
    harness.publish("mixed_load", f"{title}\n\n{table}", rows, LIBRARIES, arguments.json)


def _cell(row: harness.Row) -> str:
    digits = 0 if row.unit == "tokens/s" else 2
    return f"{row.figure:,.{digits}f} ({row.low:,.{digits}f} to {row.high:,.{digits}f})"


async def _measure(name: str, folder: Path, clients: dict[int, int], seconds: float) -> Figures:
    """Return the figures of an engine; texts that the time cuts count with the tokens they have."""
    from serving import settings
    from serving.engines import selection
    from serving.engines.protocol import Sampling

    engine_settings = settings.engine_settings(settings.load(settings.ROOT), settings.ROOT)
    engine = selection.make(folder, replace(engine_settings, name=name))
    prompts = tokenized_prompts(folder)
    figures = Figures(seconds, 0, 0, [])
    numbers = iter(range(10**9))
    begin = time.perf_counter() + seconds / 6  # after a warm-up

    async def client(tokens: int) -> None:
        while time.perf_counter() < begin + seconds:
            number = next(numbers)
            sampling = Sampling(tokens, TEMPERATURE, TOP_P, TOP_K, repetition_penalty=1.0, seed=number)
            started = time.perf_counter()
            stream = engine.submit(prompts[number % len(prompts)], sampling)
            async for _ in stream:
                if begin <= time.perf_counter() < begin + seconds:
                    figures.tokens += 1
                    figures.long_tokens += tokens == max(clients)
            if tokens == min(clients) and begin <= started:
                figures.short.append(time.perf_counter() - started)

    await asyncio.gather(*(client(tokens) for tokens, count in clients.items() for _ in range(count)))
    await asyncio.to_thread(engine.close)
    return figures


if __name__ == "__main__":
    run(main)
