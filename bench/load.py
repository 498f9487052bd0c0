"""Put load on a server, from a process of its own: `python -m bench.load PLAN` (JSON, see `Plan`).

The last line is JSON: a list of `LoadResult`. Closed loop: so many clients, each with one request at a time. Open loop:
requests arrive at random (Poisson) at a rate, whether or not earlier ones are answered, and time counts from when they
were due.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import math
import random
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from bench import harness
from pipeline.command import arg_parser, echo, run

if TYPE_CHECKING:
    import aiohttp

PROMPT_TOKENS = 11  # and the start token
PERCENTS = (50, 95, 99)
WARM_TOKENS = 4
SEED = 42
_DONE = b"data: [DONE]"


@dataclass(frozen=True)
class Plan:
    """A server, the bodies of requests, and the loads to put on it."""

    url: str
    body: dict[str, Any]  # of each request, to which a prompt and a seed are added
    length_field: str  # of the body: how many tokens to write; empty where none are written, and no seed is sent
    streams: bool  # whether the answer comes as server-sent events
    folder: str  # with the model's tokenizer, which makes the prompts
    closed: Sequence[int] = ()  # numbers of clients
    open: Sequence[float] = ()  # requests a second
    waves: int = 3  # requests of each client; none after `seconds`
    min_requests: int = 8  # in all, of few clients
    seconds: float = 20  # also how long requests arrive in an open loop
    text_field: str = "prompt"  # of the body


@dataclass
class Answer:
    """One request: when it was due, its first text (if streamed) and its end, and what came of it."""

    due: float
    first: float = math.nan
    ended: float = math.nan
    tokens: int = 0
    error: str = ""


@dataclass(frozen=True)
class LoadResult:
    """The figures of one load; times in seconds, at the percentiles PERCENTS, of answers without errors."""

    requests: int
    tokens: int
    seconds: float  # from the first request to the last answer
    first: list[float]  # until the first text; until the whole text if the server does not stream
    total: list[float]
    min_tokens: int  # of an answer
    errors: dict[str, int]
    cpu: float  # seconds of processor time of this process


Ask = Callable[[Answer, int], Awaitable[None]]  # fills in the answer to the request of this number


def main() -> None:
    """Follow the plan and print the figures."""
    import uvloop

    parser = arg_parser()
    parser.add_argument("plan", type=json.loads, help="JSON")
    results = uvloop.run(follow(Plan(**parser.parse_args().plan)))
    echo("\n" + json.dumps([asdict(result) for result in results]))


async def follow(plan: Plan) -> list[LoadResult]:
    """Return the figures of each load, the closed loops first; each has its warm-up."""
    import aiohttp  # here: engines are also loaded without HTTP, where it may not be installed

    texts = prompts(Path(plan.folder))
    results = []
    timeout = aiohttp.ClientTimeout(total=None, sock_read=900)
    # A connection a request, as of different users; some servers close one just when it is used again.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        def asking(body: dict[str, Any]) -> Ask:
            async def ask(answer: Answer, number: int) -> None:
                seed = {"seed": number} if plan.length_field else {}
                complete = {**body, plan.text_field: texts[number % len(texts)], **seed}
                await _post(session, plan, complete, answer)

            return ask

        few = {plan.length_field: WARM_TOKENS} if plan.length_field else {}
        warm, ask = asking({**plan.body, **few}), asking(plan.body)
        for clients in plan.closed:
            await closed_loop(warm, clients, waves=1)
            waves = max(plan.waves, math.ceil(plan.min_requests / clients))
            results.append(await _measured(closed_loop(ask, clients, waves, plan.seconds)))
        for rate in plan.open:
            await closed_loop(warm, plan.min_requests, waves=1)
            results.append(await _measured(open_loop(ask, rate, plan.seconds)))
    return results


def prompts(folder: Path) -> list[str]:
    """Return distinct pieces of the sample corpus of about PROMPT_TOKENS tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with (harness.ROOT / "data" / "tales.csv").open(encoding="utf-8", newline="") as file:
        tales = [row["text"] for row in itertools.islice(csv.DictReader(file), 500)]
    starts = range(0, 66, PROMPT_TOKENS)
    pieces = (one.ids[at : at + PROMPT_TOKENS] for one in tokenizer.encode_batch(tales) for at in starts)
    return list(dict.fromkeys(tokenizer.decode(ids) for ids in pieces if len(ids) == PROMPT_TOKENS))


async def closed_loop(ask: Ask, clients: int, waves: int, seconds: float = math.inf) -> list[Answer]:
    """Return the answers to `clients` that send `waves` requests each, none after `seconds`."""
    answers: list[Answer] = []
    numbers = itertools.count()
    end = time.perf_counter() + seconds

    async def client() -> None:
        for wave in range(waves):
            if wave and time.perf_counter() > end:
                return
            answers.append(answer := Answer(time.perf_counter()))
            await ask(answer, next(numbers))

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def open_loop(ask: Ask, rate: float, seconds: float) -> list[Answer]:
    """Return the answers to requests that arrive at `rate` a second, as many as on average in `seconds`."""
    rng = random.Random(SEED)
    due = itertools.accumulate(rng.expovariate(rate) for _ in range(max(1, round(rate * seconds))))
    started = time.perf_counter()
    answers, requests = [], []
    for number, at in enumerate(due):
        await asyncio.sleep(started + at - time.perf_counter())
        answers.append(answer := Answer(started + at))
        requests.append(asyncio.ensure_future(ask(answer, number)))
    await asyncio.gather(*requests)
    return answers


async def _measured(loop: Awaitable[list[Answer]]) -> LoadResult:
    """Return the figures of a loop, with the processor time that it took here."""
    before = _cpu()
    answers = await loop
    return summary(answers, _cpu() - before)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def summary(answers: Sequence[Answer], cpu: float = 0.0) -> LoadResult:
    """Return the figures of the answers; times are NaN if all answers are errors."""
    good = [answer for answer in answers if not answer.error]

    def percentiles(times: list[float]) -> list[float]:
        return [float(figure) for figure in np.percentile(times or [math.nan], PERCENTS)]

    return LoadResult(
        requests=len(answers),
        tokens=sum(answer.tokens for answer in good),
        seconds=max((a.ended for a in answers), default=0) - min((a.due for a in answers), default=0),
        first=percentiles([answer.first - answer.due for answer in good]),
        total=percentiles([answer.ended - answer.due for answer in good]),
        min_tokens=min((answer.tokens for answer in good), default=0),
        errors=dict(Counter(answer.error for answer in answers if answer.error)),
        cpu=cpu,
    )


async def _post(session: aiohttp.ClientSession, plan: Plan, body: dict[str, Any], answer: Answer) -> None:
    """Send a request and fill in the answer; errors are counted, not raised."""
    import aiohttp

    try:
        async with session.post(plan.url, json=body) as response:
            if response.status != 200:
                answer.error = str(response.status)
            elif plan.streams:
                await read_events(response.content, answer)
            elif plan.length_field:
                answer.tokens = (await response.json())["usage"]["completion_tokens"]
            else:
                await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        answer.error = type(error).__name__
    answer.ended = time.perf_counter()
    if math.isnan(answer.first):
        answer.first = answer.ended


async def read_events(lines: aiohttp.StreamReader, answer: Answer) -> None:
    """Fill in the time of the first text, and the number of tokens from the usage event."""
    last = b""
    async for line in lines:
        if not line.startswith(b"data: "):
            continue
        last = line.strip()
        if last == _DONE:
            break
        if math.isnan(answer.first) and _text(line):
            answer.first = time.perf_counter()
        if b'"completion_tokens"' in line and (usage := json.loads(line[6:]).get("usage")):
            answer.tokens = usage["completion_tokens"]
    if last != _DONE:
        answer.error = "broken stream"


def _text(line: bytes) -> str:
    """Return the text of an event, of `/generate` or of OpenAI's protocol."""
    event = json.loads(line[6:])
    text: str = event["choices"][0]["text"] if event.get("choices") else event.get("text", "")
    return text


if __name__ == "__main__":
    run(main)
