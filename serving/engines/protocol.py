"""What runs a model: one protocol, so that engines are exchangeable behind the same HTTP service."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenizers import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the next tokens are drawn. Stop strings are no engine's business: `serving.detokenizer` finds them."""

    max_new_tokens: int  # 0 writes nothing
    temperature: float  # 0 always takes the likeliest token
    top_p: float
    top_k: int  # 0 is off
    repetition_penalty: float  # 1 is none; of tokens in the prompt and in what was written
    seed: int
    presence_penalty: float = 0.0  # OpenAI's: subtracted once from the logits of tokens that were written
    frequency_penalty: float = 0.0  # OpenAI's: likewise, for each time that it was written
    seeded: bool = False  # whether the caller named the seed
    logprobs: int | None = None  # how many of the likeliest tokens to report with each; 0: only the token's own


@dataclass(frozen=True)
class Token:
    """A token that was written, with natural logarithms of probabilities by the model itself, before sampling."""

    id: int
    logprob: float | None = None  # where Sampling.logprobs asks for it
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens, best first


class EngineError(Exception):
    """The engine could not go on with a request; the text says why, and holds nothing of the prompt."""


class UnavailableError(EngineError):
    """Nothing is wrong with the request, and later or elsewhere it would be answered."""


class Stream:
    """The tokens of one request as they come: `async for token in stream`. It belongs to the loop that made it.

    The end token is not among the tokens; `finish_reason` is set when the stream has ended. An EngineError is raised
    from the loop over it.
    """

    def __init__(self) -> None:
        """Wait for tokens on the running loop."""
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._tokens: deque[Token] = deque()
        self._error: EngineError | None = None
        self._ended = False
        self._news = asyncio.Event()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which `push` and `end` must be called."""
        return self._loop

    def push(self, token: Token) -> None:
        """Add a token."""
        self._tokens.append(token)
        self._news.set()

    def end(self, reason: FinishReason | None, error: EngineError | None = None) -> None:
        """End it: with a reason, or with an error. What comes after an end changes nothing."""
        if self._ended:
            return
        self.finish_reason = reason
        self._error = error
        self._ended = True
        self._news.set()

    async def some(self) -> list[Token]:
        """Return the tokens since the last call, at least one; none when the stream has ended."""
        await self._any()
        tokens = list(self._tokens)
        self._tokens.clear()
        return tokens

    def cancel(self) -> None:
        """Want no more: the engine frees the request's place within one step. May be called from any thread."""
        self.cancelled = True

    def __aiter__(self) -> "Stream":
        """Return itself."""
        return self

    async def __anext__(self) -> Token:
        """Return the next token."""
        await self._any()
        if not self._tokens:
            raise StopAsyncIteration
        return self._tokens.popleft()

    async def _any(self) -> None:
        """Return when there are tokens, or never will be; raises what the stream ended with."""
        while not self._tokens:
            if self._error:
                raise self._error
            if self._ended:
                return
            self._news.clear()
            await self._news.wait()


class Engine(Protocol):
    """A loaded model that serves many requests at once, fairly between short and long ones."""

    name: str
    context: int  # tokens, of prompt and answer together
    start: int  # the token that every text begins with
    end: int  # the token that ends a text
    tokenizer: Tokenizer

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Return the stream of what the model writes after `prompt`, token ids that begin with `start`.

        The same prompt and sampling give the same tokens, whatever else is running. Called from the loop's thread,
        returns at once. The caller has checked that prompt and max_new_tokens fit into the context.
        """

    @property
    def waiting(self) -> int:
        """Requests that have no place in the batch yet."""

    @property
    def running(self) -> int:
        """Requests in the batch."""

    def close(self) -> None:
        """End: requests that still run end with an EngineError; returns when the engine's memory is free."""


def unsupported_fields(engine: Engine) -> frozenset[str]:
    """Return the fields of a request that `engine` has no way to honour; most have none."""
    found: frozenset[str] = getattr(engine, "unsupported_fields", frozenset())
    return found
