"""Measure LoRA adapters on one model: `python -m bench.adapters [--model smollm2] [--rounds 3]`.

Without HTTP, by the engine int8: each text by the base; by one of four adapters, which share the base's engine; or by
one of the four merged models, which are engines of their own. Adapters have rank 8 and random numbers.
"""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from bench import harness
from bench.adapted_models import save_adapted
from bench.micro_batches import TEMPERATURE, TOP_K, TOP_P, tokenized_prompts
from bench.server_processes import QUIET, engine_environment
from bench.servers import make_model
from pipeline.command import echo, run

LIBRARIES = ("torch", "numba", "peft")
BASE, ADAPTERS, MERGED = "the base", "4 adapters", "4 merged models"
COUNT = 4
TEXTS, QUICK_TEXTS = (1, 8, 32), (1, 4)
TOKENS, QUICK_TOKENS = 64, 8
REPEATS = 3  # of each number of texts, after one that is not counted


@dataclass
class Figures:
    """What one way of serving did."""

    speeds: dict[int, float]  # tokens a second, by number of texts
    memory: float  # MB of the process


def main() -> None:
    """Measure and publish, or measure one way in this process."""
    parser = harness.arguments()
    parser.add_argument("--model", default="gpt2", help="gpt2, tiny, or a base as in params.yaml (default: gpt2)")
    parser.add_argument("--way", choices=(BASE, ADAPTERS, MERGED), help="measure this one alone, in this process")
    arguments = parser.parse_args()
    base = make_model(arguments.model)
    models = [base.parent / f"{base.name}-adapted-{number}" for number in range(COUNT)]
    for seed, folder in enumerate(models):
        if not folder.is_dir():
            unfinished = folder.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            save_adapted(base, unfinished, seed, rank=8, size=0.01).rename(folder)
    if arguments.way:
        echo("\n" + json.dumps(asdict(asyncio.run(_measure(arguments.way, base, models, arguments.quick)))))
        return
    options = ["--model", arguments.model, *(["--quick"] if arguments.quick else [])]
    environment = QUIET | engine_environment(base)
    variants = [
        harness.Variant(way, ["-m", "bench.adapters", *options, "--way", way], environment=environment)
        for way in (BASE, ADAPTERS, MERGED)
    ]
    runs = harness.in_turns(variants, 1 if arguments.quick else arguments.rounds)
    figures = {way: [Figures(**one.result) for one in of_way] for way, of_way in runs.items()}
    rows = []
    for texts in figures[BASE][0].speeds:
        speeds = {way: [one.speeds[texts] for one in of_way] for way, of_way in figures.items()}
        rows += harness.compare(speeds, f"{texts} texts", "tokens/s", BASE)
    memory = {way: [one.memory for one in of_way] for way, of_way in figures.items()}
    rows += harness.compare(memory, "memory", "MB", BASE)
    by_way = harness.by_variant(rows)
    lines = [[way, *map(_cell, of_way.values())] for way, of_way in by_way.items()]
    title = f"{arguments.model}, {TOKENS} tokens a text, tokens a second; median (minimum to maximum), x the base"
    table = harness.table(["", *by_way[BASE]], lines)
    harness.publish("adapters", f"{title}\n\n{table}", rows, LIBRARIES, arguments.json)


def _cell(row: harness.Row) -> str:
    return f"{row.figure:,.0f} ({row.low:,.0f} to {row.high:,.0f}), {row.ratio:.2f} x"


async def _measure(way: str, base: Path, models: Sequence[Path], quick: bool) -> Figures:
    from serving import settings
    from serving.engines import adapted, selection
    from serving.engines.protocol import Engine, Sampling
    from serving.model_loader import AdapterFiles, in_own_thread

    engine_settings = replace(settings.engine_settings(settings.load(settings.ROOT), settings.ROOT), name="int8")
    owners = [selection.make(folder, engine_settings) for folder in (models if way == MERGED else [base])]
    engines: list[Engine] = owners * (COUNT // len(owners))
    if way == ADAPTERS:
        files = [AdapterFiles(folder / "adapter", base, folder) for folder in models]
        engines = [in_own_thread(adapted.adapt, owners[0], one, engine_settings) for one in files]
    prompts = tokenized_prompts(base)
    tokens = QUICK_TOKENS if quick else TOKENS

    async def write(texts: int) -> None:
        streams = []
        for n in range(texts):
            sampling = Sampling(tokens, TEMPERATURE, TOP_P, TOP_K, repetition_penalty=1.0, seed=n)
            streams.append(engines[n % COUNT].submit(prompts[n % len(prompts)], sampling))
        for stream in streams:
            written.append(len(await stream.all_tokens()))

    written: list[int] = []
    speeds = {}
    for texts in QUICK_TEXTS if quick else TEXTS:
        await write(texts)
        written.clear()
        begun = time.perf_counter()
        for _ in range(REPEATS):
            await write(texts)
        speeds[texts] = sum(written) / (time.perf_counter() - begun)
    memory = psutil.Process(os.getpid()).memory_info().rss / 1e6
    for engine in owners:
        await asyncio.to_thread(engine.close)
    return Figures(speeds, memory)


if __name__ == "__main__":
    run(main)
