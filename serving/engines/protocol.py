"""The protocols of engines: what runs a model, interchangeable behind the same HTTP service."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenizers import Tokenizer
from typing_extensions import TypeVar

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the next tokens are sampled. Stop strings are not part of it: `serving.detokenizer` finds them."""

    max_new_tokens: int  # 0 writes nothing
    temperature: float  # 0 is greedy
    top_p: float
    top_k: int  # 0 is off
    repetition_penalty: float  # 1 is off; applies to tokens of the prompt and of the completion
    seed: int
    presence_penalty: float = 0.0  # OpenAI's: subtracted once from the logits of tokens in the completion
    frequency_penalty: float = 0.0  # OpenAI's: subtracted for each occurrence in the completion
    seeded: bool = False  # whether the caller chose the seed
    logprobs: int | None = None  # how many of the likeliest tokens to report with each; 0: only the token's own


@dataclass(frozen=True)
class Token:
    """A generated token, with natural log-probabilities by the model itself, before temperature and penalties."""

    id: int
    logprob: float | None = None  # where Sampling.logprobs requests it
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens, best first


class EngineError(Exception):
    """The engine could not complete a request; the message says why and contains nothing of the prompt."""


class UnavailableError(EngineError):
    """The request is valid, and would succeed later or elsewhere."""


class Stream:
    """The tokens of one request as they are generated: `async for token in stream`. Bound to the loop that made it.

    The end token is not among the tokens. `finish_reason` is set once the stream has ended; iterating raises the
    EngineError that it ended with. An engine's thread adds tokens without the loop, which it calls where `append` says
    so: for the first token, and while somebody waits for the next one. A reader of the whole text costs one call.
    """

    def __init__(self) -> None:
        """Bind to the running loop."""
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self.on_first_token: Callable[[], None] | None = None  # called once, on the loop
        self._loop = asyncio.get_running_loop()
        self._tokens: deque[Token] = deque()
        self._error: EngineError | None = None
        self._ended = False
        self._next: asyncio.Future[None] | None = None  # of a reader that waits for a token
        self._whole: asyncio.Future[None] | None = None  # of a reader that waits for the end

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which `push`, `notify` and `end` must be called."""
        return self._loop

    def append(self, token: Token) -> bool:
        """Add a token; return whether `notify` must be called afterwards. Thread-safe."""
        self._tokens.append(token)  # first: a reader checks for tokens once more before it waits
        return self._next is not None or self.on_first_token is not None

    def notify(self) -> None:
        """Wake the reader of tokens that `append` has added."""
        if self.on_first_token:
            called, self.on_first_token = self.on_first_token, None
            called()
        _wake(self._next)

    def push(self, token: Token) -> None:
        """Add a token, and wake its reader."""
        if self.append(token):
            self.notify()

    def end(self, reason: FinishReason | None, error: EngineError | None = None) -> None:
        """End the stream with a reason or an error. Idempotent: the first call wins."""
        if self._ended:
            return
        self.finish_reason = reason
        self._error = error
        self._ended = True
        _wake(self._next)
        _wake(self._whole)

    async def next_tokens(self) -> list[Token]:
        """Return all tokens since the last call, waiting for at least one; empty once the stream has ended."""
        await self._wait_for_token()
        return self._taken()

    async def all_tokens(self) -> list[Token]:
        """Return all tokens since the last call once the stream has ended; raises the error that it ended with."""
        if not self._ended:
            self._whole = self._loop.create_future()
            await self._whole
        if self._error:
            raise self._error
        return self._taken()

    def cancel(self) -> None:
        """Stop the request: the engine frees its slot within one step. Thread-safe."""
        self.cancelled = True

    def __aiter__(self) -> "Stream":
        """Return itself."""
        return self

    async def __anext__(self) -> Token:
        """Return the next token."""
        await self._wait_for_token()
        if not self._tokens:
            raise StopAsyncIteration
        return self._tokens.popleft()

    def _taken(self) -> list[Token]:
        """Return the tokens that are there, one by one: the engine's thread may add some meanwhile."""
        return [self._tokens.popleft() for _ in range(len(self._tokens))]

    async def _wait_for_token(self) -> None:
        """Wait for a token or the end; raises the error that the stream ended with."""
        while not self._tokens:
            if self._error:
                raise self._error
            if self._ended:
                return
            self._next = self._loop.create_future()
            try:
                if not self._tokens:
                    await self._next
            finally:
                self._next = None


def _wake(reader: "asyncio.Future[None] | None") -> None:
    if reader and not reader.done():
        reader.set_result(None)


class ModelEngine(Protocol):
    """A loaded model of any task. What requests call differs by the task."""

    name: str
    context: int  # the most tokens that a request may have

    def close(self) -> None:
        """End running requests with an EngineError, and return once the engine's memory is free."""


class Engine(ModelEngine, Protocol):
    """A loaded model that generates text for many requests at once, fairly between short and long ones."""

    name: str
    context: int  # tokens, prompt and completion together
    start: int  # id of the token that every text begins with
    end: int  # id of the token that ends a text
    tokenizer: Tokenizer

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Return the stream of tokens that the model generates after `prompt`, token ids that begin with `start`.

        The same prompt and sampling give the same tokens, whatever else is running. Call it from the loop's thread;
        it does not block. The caller has checked that prompt and max_new_tokens fit into the context.
        """

    @property
    def waiting(self) -> int:
        """Requests without a slot in the batch."""

    @property
    def running(self) -> int:
        """Requests in the batch."""


EngineT = TypeVar("EngineT", bound=ModelEngine, default=Engine)


def unsupported_fields(engine: Engine) -> frozenset[str]:
    """Return the fields of a request that `engine` does not support; empty for most engines."""
    fields: frozenset[str] = getattr(engine, "unsupported_fields", frozenset())
    return fields
