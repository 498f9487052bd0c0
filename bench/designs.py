"""Ways of writing many texts at once, and one of them at work, without HTTP: `python -m bench.designs NAME FOLDER ...`.

`... mixed SHORT LONG TOKENS SECONDS`: so many clients that ask for few and for many (TOKENS) tokens, again and again.
`... bare TOKENS WAVES CLIENTS...`: so many texts at once, as `bench.load` asks a server for them.
The last line is JSON.
"""

import asyncio
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

from bench import load
from pipeline.command import arg_parser, echo, run

START = 0  # the token that texts begin and end with, as the starter's tokenizer has it
TEMPERATURE, TOP_P, TOP_K = 0.6, 0.95, 50
WINDOW = 0.004  # seconds in which requests become one batch
LARGEST = 64  # texts in a batch
CHUNK = 16  # tokens written before texts are grouped again
SHORT = 16  # tokens that an impatient client asks for
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CONVERTED = "ctranslate2"  # folder beside the model's files


@dataclass(eq=False)
class Request:
    """A text to write; `times` are those at which its tokens were there to be sent on."""

    prompt: list[int]
    length: int
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def missing(self) -> int:
        """Tokens still to be written."""
        return self.length - len(self.tokens)

    def push(self, token: int) -> None:
        """Take a token; from any thread."""
        self.tokens.append(token)
        self.times.append(time.perf_counter())
        if not self.missing:
            self.finish()

    def finish(self, error: BaseException | None = None) -> None:
        """Say that the text has ended, or why it cannot be written; from any thread."""
        self.done.get_loop().call_soon_threadsafe(self._finish, error)

    def _finish(self, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


class Design(Protocol):
    """A way of writing many texts at once."""

    async def write(self, request: Request) -> None:
        """Return when the text is written."""

    async def close(self) -> None:
        """Stop, in the middle of texts, too."""


class CTranslate2:
    """The model as CTranslate2 runs it, in 8-bit integers.

    A batch has one setting of the sampling, and no request has a seed: `generate_batch` takes one temperature, top_p
    and top_k, and each of its threads draws from a generator of its own, which is seeded when it is first used.
    """

    def __init__(self, folder: Path, batches: int = 1) -> None:
        """Load it, for so many `batches` at a time, which share the cores."""
        import ctranslate2

        self._generator = ctranslate2.Generator(
            str(folder / CONVERTED), compute_type="int8", inter_threads=batches, intra_threads=max(1, CORES // batches)
        )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._names = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
        self._stopped = False

    def write(self, requests: Sequence[Request]) -> None:
        """Write the texts; tokens are there when all are, but so it is fastest."""
        results = self._generate(requests, max(request.length for request in requests))
        for request, result in zip(requests, results, strict=True):
            for token in result.sequences_ids[0][: request.length]:
                request.push(token)
            request.finish()

    def stream(self, requests: Sequence[Request], most: int | None = None) -> None:
        """Write the texts, or `most` more tokens of each; a text that is done leaves the batch."""
        wanted = [min(request.missing, most or request.missing) for request in requests]

        def push(step: Any) -> bool:
            at: int = step.batch_id
            if step.token_id != START:
                requests[at].push(step.token_id)
                wanted[at] -= 1
            return self._stopped or wanted[at] == 0

        self._generate(requests, max(wanted), push)
        for request, left in zip(requests, wanted, strict=True):
            if left:  # the end token came first
                request.finish()

    def stop(self) -> None:
        """End `stream` at its next token."""
        self._stopped = True

    def _generate(
        self, requests: Sequence[Request], longest: int, callback: Callable[[Any], bool] | None = None
    ) -> list[Any]:
        results: list[Any] = self._generator.generate_batch(
            [[self._names[token] for token in (*one.prompt, *one.tokens)] for one in requests],
            max_length=longest,
            sampling_temperature=TEMPERATURE,
            sampling_topp=TOP_P,
            sampling_topk=TOP_K,
            include_prompt_in_result=False,
            callback=callback,
        )
        return results


class Window:
    """Micro-batches: what comes within WINDOW is written together; what comes later waits until a batch is done.

    With two `batches` at a time, which share the cores, a later request goes into the second one.
    """

    def __init__(
        self, write: Callable[[list[Request]], None], batches: int = 1, stop: Callable[[], None] = lambda: None
    ) -> None:
        """Pass batches to `write`, in threads, which end soon after `stop`."""
        self._write = write
        self._stop = stop
        self._threads = ThreadPoolExecutor(batches)
        self._free = asyncio.Semaphore(batches)
        self._arrived: asyncio.Queue[Request] = asyncio.Queue()
        self._collecting = asyncio.create_task(self._collect())

    async def write(self, request: Request) -> None:
        """Return when the text is written."""
        self._arrived.put_nowait(request)
        await request.done

    async def close(self) -> None:
        """Stop; batches that run are waited for."""
        self._collecting.cancel()
        self._stop()
        await asyncio.to_thread(self._threads.shutdown)

    async def _collect(self) -> None:
        while True:
            await self._free.acquire()
            batch = [await self._arrived.get()]
            await asyncio.sleep(WINDOW)
            while len(batch) < LARGEST and not self._arrived.empty():
                batch.append(self._arrived.get_nowait())
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._whole, batch)
            running.add_done_callback(lambda _: self._free.release())

    def _whole(self, batch: list[Request]) -> None:
        try:
            self._write(batch)
        except Exception as error:
            for request in batch:
                request.finish(error)


class Chunks:
    """Chunks of CHUNK tokens; between them texts come and go, and all are read again, for nothing else can be kept.

    Texts of about a length are a group: CTranslate2 reads at once only as many tokens as the shortest of a batch has.
    """

    def __init__(self, model: CTranslate2) -> None:
        """Write with `model`."""
        self._model = model
        self._thread = ThreadPoolExecutor(1)
        self._running: list[Request] = []
        self._news = asyncio.Event()
        self._writing = asyncio.create_task(self._write())

    async def write(self, request: Request) -> None:
        """Return when the text is written."""
        self._running.append(request)
        self._news.set()
        await request.done

    async def close(self) -> None:
        """Stop; the chunk that is written ends at its next token."""
        self._writing.cancel()
        self._model.stop()
        await asyncio.to_thread(self._thread.shutdown)

    async def _write(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._running:
                for batch in self._groups():
                    try:
                        await asyncio.get_running_loop().run_in_executor(self._thread, self._model.stream, batch, CHUNK)
                    except Exception as error:
                        for request in batch:
                            request.finish(error)
                    await asyncio.sleep(0)  # those that are done say so
                self._running = [request for request in self._running if not request.done.done()]

    def _groups(self) -> list[list[Request]]:
        """Return who is written together, the shortest first: lengths within CHUNK of each other."""

        def length(request: Request) -> int:
            return (len(request.prompt) + len(request.tokens)) // CHUNK

        return [list(group)[:LARGEST] for _, group in groupby(sorted(self._running, key=length), length)]


class Tokens:
    """What the service does: texts come and go at every token."""

    def __init__(self, folder: Path) -> None:
        """Load the engine that the service would choose."""
        from serving.engines import selection
        from serving.engines.protocol import Sampling

        self._engine = selection.make(folder, "auto")
        self._sampling = Sampling

    async def write(self, request: Request) -> None:
        """Return when the text is written; the seed is of the prompt, so that draws differ."""
        wanted = self._sampling(request.length, TEMPERATURE, TOP_P, TOP_K, 1.0, hash(tuple(request.prompt)) % 2**32)
        stream = self._engine.submit(request.prompt, wanted)
        try:
            async for token in stream:
                request.push(token.id)
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Stop."""
        await asyncio.to_thread(self._engine.close)


def _windows(batches: int) -> Callable[[Path], Design]:
    def make(folder: Path) -> Design:
        model = CTranslate2(folder, batches)
        return Window(model.stream, batches, model.stop)

    return make


def _chunks(folder: Path) -> Design:
    return Chunks(CTranslate2(folder))


OURS = "token by token (ours)"
DESIGNS: dict[str, Callable[[Path], Design]] = {
    "micro-batches": _windows(1),
    "two batches at a time": _windows(2),
    "chunks": _chunks,
    OURS: Tokens,
}


@dataclass(frozen=True)
class Mixed:
    """What a mixed load met: tokens a second, of all and of the long texts, and how long short ones took, seconds."""

    speed: float
    long_speed: float
    shorts: int  # that were answered
    first: list[float]  # until the first token of a short one, at the percentiles load.PERCENTS
    total: list[float]  # until its last


async def mixed(
    design: Design, prompts: Sequence[list[int]], short: int, long: int, length: int, seconds: float
) -> Mixed:
    """Return what `short` clients that want SHORT tokens meet beside `long` ones that want `length`, for `seconds`."""
    await asyncio.gather(*(design.write(Request(prompt, SHORT)) for prompt in prompts[: short + long]))  # warm-up
    begun = time.perf_counter()
    asked: list[tuple[float, Request]] = []

    async def client(length: int) -> None:
        while True:
            request = Request(prompts[len(asked) % len(prompts)], length)
            asked.append((time.perf_counter(), request))
            await design.write(request)

    clients = [asyncio.create_task(client(wanted)) for wanted in [SHORT] * short + [length] * long]
    await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in clients:
        if task.done():
            task.result()  # raises
    end = time.perf_counter()
    written = {
        wanted: sum(at <= end for _, one in asked if one.length == wanted for at in one.times)
        for wanted in (SHORT, length)
    }
    answered = [(at, one) for at, one in asked if one.length == SHORT and one.times and not one.missing]
    waits = [[one.times[0] - at for at, one in answered], [one.times[-1] - at for at, one in answered]]
    for task in clients:
        task.cancel()
    await asyncio.wait(clients)
    first, total = ([float(figure) for figure in np.percentile(of or [math.nan], load.PERCENTS)] for of in waits)
    return Mixed(sum(written.values()) / (end - begun), written[length] / (end - begun), len(answered), first, total)


async def bare(name: str, folder: Path, length: int, waves: int, clients: Sequence[int]) -> list[load.Found]:
    """Return the speed of an engine itself, of the service (OURS) or of CTranslate2, by numbers of texts at a time."""
    prompts = encoded(folder)
    found = []
    if name == OURS:
        design = Tokens(folder)
        for count in clients:

            async def ask(answer: load.Answer, number: int) -> None:
                request = Request(prompts[number % len(prompts)], length)
                await design.write(request)
                _note(answer, request)

            await load.closed_loop(ask, count, waves=1)
            found.append(load.summary(await load.closed_loop(ask, count, waves)))
        await design.close()
        return found
    model = CTranslate2(folder)
    for count in clients:
        answers = []
        for wave in range(waves + 1):  # the first warms up
            requests = [Request(prompts[(wave * count + at) % len(prompts)], length) for at in range(count)]
            begun = time.perf_counter()
            model.write(requests)
            for request in requests if wave else ():
                answers.append(answer := load.Answer(begun))
                _note(answer, request)
        found.append(load.summary(answers))
    return found


def _note(answer: load.Answer, request: Request) -> None:
    answer.first, answer.ended, answer.tokens = request.times[0], request.times[-1], len(request.tokens)


def encoded(folder: Path) -> list[list[int]]:
    """Return the prompts of `bench.load` as tokens, after the start token."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [[START, *tokenizer.encode(text).ids] for text in load.prompts(folder)]


async def _mixed(name: str, folder: Path, short: int, long: int, length: int, seconds: float) -> Mixed:
    design = DESIGNS[name](folder)
    try:
        return await mixed(design, encoded(folder), short, long, length, seconds)
    finally:
        await design.close()


def main() -> None:
    """Measure as the arguments say and print what came of it."""
    parser = arg_parser()
    parser.add_argument("name", choices=[*DESIGNS, "CTranslate2"], help="CTranslate2 is for `bare` alone")
    parser.add_argument("folder", type=Path)
    parser.add_argument("load", choices=("mixed", "bare"))
    parser.add_argument("numbers", type=int, nargs="+")
    given = parser.parse_args()
    if given.load == "mixed":
        short, long, length, seconds = given.numbers
        result: Any = asdict(asyncio.run(_mixed(given.name, given.folder, short, long, length, seconds)))
    else:
        length, waves, *clients = given.numbers
        result = [asdict(found) for found in asyncio.run(bare(given.name, given.folder, length, waves, clients))]
    echo("\n" + json.dumps(result))


if __name__ == "__main__":
    run(main)
