"""The traffic of `bench.soak`: mixed requests that arrive at random, and the record of their answers."""

import asyncio
import itertools
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

SHORT, LONG = 8, 48  # tokens
PROMPTS = ("Once upon a time", "The old harbour", "In the morning", "A baker", "Nobody knew", "The letter")
KINDS = {"native": 3, "native streamed": 3, "openai": 2, "openai streamed": 2, "vanishes": 1, "bad": 1}  # weights
RETRY_STATUSES = (429, 503)
MAX_TRIES = 4  # of a request that may be retried
NO_ANSWER = 0  # in place of a status
SEED = 42

BAD: tuple[tuple[str, bytes, int], ...] = (  # a path, a body, and the expected status
    ("/generate", b"{", 400),
    ("/generate", b'{"prompt": "x", "temperature": NaN}', 400),
    ("/generate", b'{"prompt": "x", "temperature": 1e400}', 400),
    ("/generate", b'{"prompt": "x", "max_new_tokens": 100000}', 400),
    ("/generate", b'{"prompt": "x", "unknown": 1}', 400),
    ("/generate", b'{"prompt": "\xff"}', 400),
    ("/generate", b"[" * 100_000, 400),
    ("/generate", b'{"prompt": "' + b"word " * 1500 + b'", "max_new_tokens": 200}', 400),
    ("/generate", b'{"prompt": "x", "model": "nobody"}', 404),
    ("/v1/completions", b'{"model": "champion"', 400),
    ("/v1/completions", b'{"model": "nobody", "prompt": "x"}', 404),
    ("/nowhere", b"{}", 404),
)


@dataclass(frozen=True)
class TextRequest:
    """A prompt, how many tokens to write, and how."""

    prompt: str
    tokens: int
    seed: int | None  # None: greedy


TEXTS = tuple(TextRequest(prompt, n, seed) for prompt in PROMPTS for n in (SHORT, LONG) for seed in (None, 7))
Expected = Mapping[str, Mapping[TextRequest, str]]  # the text by version and request


@dataclass
class Answer:
    """A request and its answer; times are monotonic seconds."""

    kind: str
    started: float
    ended: float = math.inf
    status: int = NO_ANSWER
    expected_status: int = 200
    retries: int = 0
    version: str = ""
    text: str = ""
    request: TextRequest | None = None
    problem: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether a whole text came."""
        return self.request is not None and self.status == 200 and not self.problem


@dataclass
class ChampionHistory:
    """When each version was the champion: (version, since, until)."""

    periods: list[tuple[str, float, float]] = field(default_factory=list)

    def record(self, version: str, since: float, moved: float) -> None:
        """Record a move: from `since` on the new champion could be seen, until `moved` the previous one."""
        if self.periods:
            previous, previous_since, _ = self.periods[-1]
            self.periods[-1] = (previous, previous_since, moved)
        self.periods.append((version, since, math.inf))

    def lag(self, answer: Answer) -> float:
        """Return how many seconds before the request its version ceased to be champion; inf if it never was."""
        periods = [(since, until) for version, since, until in self.periods if version == answer.version]
        lags = [max(0.0, answer.started - until) for since, until in periods if since <= answer.ended]
        return min(lags, default=math.inf)


@dataclass
class SoakLog:
    """Everything that happened in a soak."""

    answers: list[Answer] = field(default_factory=list)
    champions: ChampionHistory = field(default_factory=ChampionHistory)
    memory: list[tuple[float, int, int]] = field(default_factory=list)  # time, bytes, processes
    killed: float = math.inf  # when a worker was
    truncated_version: str = ""
    truncated_version_refused: bool = False


async def request_text(session: aiohttp.ClientSession, kind: str, text: TextRequest, answer: Answer) -> None:
    """Request a text over the protocol of `kind` and fill in the answer; retry where the server says so."""
    openai, streamed = kind.startswith("openai"), kind.endswith("streamed")
    body: dict[str, Any] = {"prompt": text.prompt, "stream": streamed}
    body |= {"temperature": 0} if text.seed is None else {"temperature": 1, "top_p": 1, "seed": text.seed}
    body |= {"model": "champion", "max_tokens": text.tokens} if openai else {"max_new_tokens": text.tokens, "top_k": 0}
    answer.request = text
    for _ in range(MAX_TRIES):
        async with session.post("/v1/completions" if openai else "/generate", json=body) as response:
            answer.status = response.status
            answer.version = response.headers.get("X-Model-Version", "")
            if response.status == 200:
                if streamed:
                    answer.text = await _read_stream(response, openai, answer)
                else:
                    content = await response.json()
                    answer.text = content["choices"][0]["text"] if openai else content["text"]
                return
            if response.status not in RETRY_STATUSES or "Retry-After" not in response.headers:
                return
            answer.retries += 1
            wait = float(response.headers["Retry-After"])
        await asyncio.sleep(wait)


async def _read_stream(response: aiohttp.ClientResponse, openai: bool, answer: Answer) -> str:
    """Return the text of a stream; note a problem if it does not come to its proper end."""
    parts: list[str] = []
    async for line in response.content:
        if line == b"data: [DONE]\n":
            return "".join(parts)
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                answer.problem = str(event["error"].get("code"))
                return ""
            parts += [choice["text"] for choice in event["choices"]] if openai else [event["text"]]
    answer.problem = "the stream broke off"
    return ""


async def _vanish(session: aiohttp.ClientSession, rng: random.Random) -> None:
    """Request a long streamed text and disconnect soon."""
    body = {"prompt": rng.choice(PROMPTS), "max_new_tokens": 200, "stream": True}
    timeout = aiohttp.ClientTimeout(total=rng.uniform(0.001, 0.2))
    async with session.post("/generate", json=body, timeout=timeout) as response:
        await response.content.readline()


async def _send_one(session: aiohttp.ClientSession, log: SoakLog, rng: random.Random) -> None:
    """Send one request of a random kind and log its answer."""
    [kind] = rng.choices([*KINDS], [*KINDS.values()])
    answer = Answer(kind, time.monotonic())
    try:
        if kind == "vanishes":
            await _vanish(session, rng)
        elif kind == "bad":
            path, body, answer.expected_status = rng.choice(BAD)
            headers = {"Content-Type": "application/json"}
            async with session.post(path, data=body, headers=headers) as response:
                answer.status = response.status
                answer.retries = int(response.status in RETRY_STATUSES)
        else:
            await request_text(session, kind, rng.choice(TEXTS), answer)
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        if kind != "vanishes":
            answer.status, answer.problem = NO_ANSWER, type(error).__name__
    answer.ended = time.monotonic()
    log.answers.append(answer)


async def send_traffic(url: str, log: SoakLog, rate: float, seconds: float) -> None:
    """Send requests at random times, `rate` a second on average, for `seconds`; return when all are answered."""
    rng = random.Random(SEED)
    due = itertools.accumulate(rng.expovariate(rate) for _ in itertools.count())
    started = time.monotonic()
    async with new_session(url) as session:
        requests = []
        for at in itertools.takewhile(lambda at: at < seconds, due):
            await asyncio.sleep(started + at - time.monotonic())
            requests.append(asyncio.create_task(_send_one(session, log, rng)))
        await asyncio.gather(*requests)


def new_session(url: str) -> aiohttp.ClientSession:
    """Return a session with a connection for each request: a kept one may belong to the worker that is killed."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=180))
