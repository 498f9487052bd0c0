"""Run an engine without HTTP: `python -m bench.bare_engines ENGINE FOLDER TOKENS WAVES CLIENTS...`.

ENGINE is one of the service's own, by name or the one that it would choose (`fresh`), or `CTranslate2`; so many texts
at a time, as `bench.load` asks a server for them.
The last line is JSON: a `bench.load.LoadResult` for each number of clients.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from bench import load
from bench.harness import FRESH
from bench.micro_batches import TEMPERATURE, TOP_K, TOP_P, CTranslate2Model, Request, tokenized_prompts
from pipeline.command import arg_parser, echo, run

if TYPE_CHECKING:
    from serving.engines.protocol import Engine

SERVICE_ENGINES = {FRESH: "auto", "int8": "int8", "batched": "batched", "transformers": "transformers"}
ENGINES = (*SERVICE_ENGINES, "CTranslate2")
PROMPTS = 1000  # with beginnings: more than are asked for, since what was read twice is not read again


def main() -> None:
    """Measure one engine and print its figures."""
    parser = arg_parser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("tokens", type=int, help="of each text")
    parser.add_argument("waves", type=int, help="texts for each client")
    parser.add_argument("clients", type=int, nargs="+", help="numbers of texts at a time")
    parser.add_argument("--beginning", type=int, default=0, help="tokens before each prompt (default: %(default)s)")
    parser.add_argument("--shared", action="store_true", help="the same ones before all prompts")
    arguments = parser.parse_args()
    sizes = (arguments.folder, arguments.tokens, arguments.waves, arguments.clients)
    if name := SERVICE_ENGINES.get(arguments.engine):
        prompts = tokenized_prompts(arguments.folder)
        if arguments.beginning:
            prompts = with_beginnings(prompts, arguments.beginning, arguments.shared)
        results = asyncio.run(service_engine(name, prompts, *sizes))
    else:
        results = ctranslate2(*sizes)
    echo("\n" + json.dumps([asdict(result) for result in results]))


def with_beginnings(prompts: Sequence[list[int]], tokens: int, shared: bool) -> list[list[int]]:
    """Return PROMPTS prompts that begin with so many random tokens: the same ones, or each its own."""
    random = Random(0)
    words = sorted({token for prompt in prompts for token in prompt})
    beginnings = [random.choices(words, k=tokens) for _ in range(1 if shared else PROMPTS)]
    return [[*beginnings[at % len(beginnings)], *prompts[at % len(prompts)]] for at in range(PROMPTS)]


async def service_engine(
    name: str, prompts: Sequence[Sequence[int]], folder: Path, tokens: int, waves: int, clients: Sequence[int]
) -> list[load.LoadResult]:
    """Return the figures of an engine of the service behind its scheduler; `name` is as in params.yaml."""
    from serving import settings
    from serving.engines import selection

    engine_settings = settings.engine_settings(settings.load(settings.ROOT), settings.ROOT)
    engine = selection.make(folder, replace(engine_settings, name=name))
    results = await drive(engine, prompts, tokens, waves, clients)
    await asyncio.to_thread(engine.close)
    return results


async def drive(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    waves: int,
    clients: Sequence[int],
    seconds: float = math.inf,
) -> list[load.LoadResult]:
    """Return the figures of an engine.

    Args:
        engine: A loaded engine.
        prompts: As tokens, used in turns.
        tokens: Of each text.
        waves: Texts for each client.
        clients: Numbers of texts at a time.
        seconds: After which texts are cut, for each of `clients`; the warm-up before it takes a quarter.
    """
    from serving.engines.protocol import Sampling

    deadline = math.inf

    async def ask(answer: load.Answer, number: int) -> None:
        prompt = prompts[number % len(prompts)]
        sampling = Sampling(tokens, TEMPERATURE, TOP_P, TOP_K, repetition_penalty=1.0, seed=number)
        stream = engine.submit(prompt, sampling)
        try:
            async for _ in stream:
                answer.ended = time.perf_counter()
                if not answer.tokens:
                    answer.first = answer.ended
                answer.tokens += 1
                if answer.ended > deadline:
                    break
        finally:
            stream.cancel()

    results = []
    for count in clients:
        deadline = time.perf_counter() + seconds / 4
        await load.closed_loop(ask, count, waves=1)  # warm-up
        deadline = time.perf_counter() + seconds
        results.append(load.summary(await load.closed_loop(ask, count, waves)))
    return results


def ctranslate2(folder: Path, tokens: int, waves: int, clients: Sequence[int]) -> list[load.LoadResult]:
    """Return the figures of CTranslate2, one batch after the other."""
    prompts = tokenized_prompts(folder)
    model = CTranslate2Model(folder)
    results = []
    for count in clients:
        answers = []
        for wave in range(waves + 1):  # the first one is the warm-up
            requests = [Request(prompts[(wave * count + at) % len(prompts)], tokens) for at in range(count)]
            started = time.perf_counter()
            texts = model.write(requests)
            ended = time.perf_counter()
            answers += [load.Answer(started, ended, ended, len(text)) for text in texts if wave]
        results.append(load.summary(answers))
    return results


if __name__ == "__main__":
    run(main)
