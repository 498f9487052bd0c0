"""What every route that generates goes through: checks, the queue, times, and text made of tokens."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from weakref import WeakSet

from serving import telemetry
from serving.detokenizer import IncrementalDetokenizer
from serving.engines.protocol import (
    Engine,
    EngineError,
    FinishReason,
    Sampling,
    Token,
    UnavailableError,
    unsupported_fields,
)
from serving.errors import ApiError
from serving.served_model import LoadedModel
from serving.settings import LIMITS

_SHORT = 2_000  # characters, which are tokens within a millisecond
_tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizing")
_jobs: "WeakSet[Generation]" = WeakSet()  # that have not ended: choices that are written, or whose prompt is scored
_engines: WeakSet[Engine] = WeakSet()  # that have had jobs


class _LateError(EngineError):
    """Time is up; the text says how much it was."""


@dataclass(frozen=True)
class Delta:
    """What came of a text since the piece before."""

    text: str  # may be empty; all pieces joined are the text
    tokens: tuple[Token, ...]  # that were written since; none in a last piece that only ends the text
    finish_reason: FinishReason | None  # in the last piece only


class Generation:
    """A request that was let in: iterate over its pieces once, or await its `text`.

    Both raise ApiError: 504 when it takes too long, 500 when the engine fails. Whichever way the iteration ends, the
    engine writes no more; a job that is not iterated over must be cancelled.
    """

    def __init__(self, loaded: LoadedModel, prompt: Sequence[int], sampling: Sampling, stop: tuple[str, ...]) -> None:
        """Hand `prompt` to the engine; `start` has checked it."""
        self.loaded = loaded
        self.sampling = sampling
        self.prompt_tokens = len(prompt)
        self.completion_tokens = 0  # so far, with the end token and those of a stop string
        self._writer = IncrementalDetokenizer(loaded.engine.tokenizer, prompt, stop)
        self._stream = loaded.engine.submit(prompt, sampling)
        self._seen = telemetry.GenerationSpan(loaded.version, len(prompt))
        self._began = self._stream.loop.time()
        # One timer, moved on when there is a first token: one for each token would cost a tenth of handling it.
        self._timer = self._end_in(min(LIMITS.first_token_seconds, LIMITS.timeout))
        _engines.add(loaded.engine)
        _jobs.add(self)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield pieces as they come; tokens that are there already become one."""
        try:
            reason: FinishReason | None = None
            while not reason:
                tokens = await self._next()
                before = self._writer.tokens
                text = self._writer.write([token.id for token in tokens])
                taken = tokens[: self._writer.tokens - before]
                self._count(len(taken))
                if not tokens:
                    text, reason = self._writer.end(), self._ended()
                if self._writer.stopped:
                    reason = "stop"
                if reason:
                    self._seen.end(reason)
                yield Delta(text, tuple(taken), reason)
        except ApiError:
            self._seen.end("error")
            raise
        finally:
            self.cancel()

    async def text(self) -> tuple[str, FinishReason]:
        """Return all of it."""
        pieces = [piece async for piece in self]
        reason = pieces[-1].finish_reason
        assert reason
        return "".join(piece.text for piece in pieces), reason

    def headers(self) -> dict[str, str]:
        """Return what an answer's headers say of it."""
        headers = {
            "X-Model-Version": self.loaded.version,
            "X-Data-Hash": self.loaded.data,
            "X-Seed": self.seed,
            "X-Engine": self.loaded.engine.name,
            "X-Prompt-Tokens": self.prompt_tokens,
        }
        return {name: str(value) for name, value in headers.items() if value is not None}

    @property
    def seed(self) -> int | None:
        """The seed it is drawn with; None where the engine has none."""
        return None if "seed" in unsupported_fields(self.loaded.engine) else self.sampling.seed

    def cancel(self) -> None:
        """Want no more; without effect when it has ended."""
        self._timer.cancel()
        self._stream.cancel()
        self._seen.end("cancelled")
        _jobs.discard(self)

    def _end_in(self, seconds: float) -> asyncio.TimerHandle:
        """End the stream when so many seconds have passed since the beginning."""
        return self._stream.loop.call_at(self._began + seconds, self._stream.end, None, _LateError(f"{seconds:g} s"))

    async def _next(self) -> list[Token]:
        """Return the tokens since the last call, at least one; none when the stream has ended."""
        try:
            tokens = await self._stream.some()
        except _LateError as late:
            what = "the text was not finished" if self.completion_tokens else "nothing was written"
            message = f"{what} within {late}; ask for fewer tokens, or come back when there is less to do"
            raise ApiError(504, message, code="timeout") from None
        except UnavailableError as error:
            raise ApiError(503, str(error), code="unavailable", headers={"Retry-After": "5"}) from None
        except EngineError as error:
            raise ApiError(500, str(error), code="engine_error") from None
        if not self.completion_tokens:
            self._timer.cancel()
            self._timer = self._end_in(LIMITS.timeout)
        return tokens

    def _ended(self) -> FinishReason:
        """Return why the stream ended; the end token counts as written."""
        reason = self._stream.finish_reason
        if reason is None:
            raise ApiError(500, "the text was cancelled", code="cancelled")
        if reason == "stop":
            self._count(1)
        return reason

    def _count(self, tokens: int) -> None:
        self.completion_tokens += tokens
        self._seen.wrote(tokens)


async def encode(engine: Engine, text: str) -> list[int]:
    """Return the tokens of `text`; a long one is read beside the event loop.

    Raises ApiError 429 when the queue is full: before the work, not after it.
    """
    _require_room(engine)
    if len(text) <= _SHORT:
        return _encode(engine, text)
    return await asyncio.get_running_loop().run_in_executor(_tokenizing, _encode, engine, text)


def _encode(engine: Engine, text: str) -> list[int]:
    name = engine.tokenizer.id_to_token(engine.start)  # a text may begin with it; everywhere else it is text
    begun = name is not None and text.startswith(name)
    # A batch of one: `encode` does not let go of Python's lock meanwhile.
    [found] = engine.tokenizer.encode_batch([text[len(name or "") :] if begun else text], add_special_tokens=False)
    ids: list[int] = found.ids
    return [engine.start, *ids] if begun else ids


def _require_room(engine: Engine) -> None:
    # Jobs that were cancelled are in an engine for one more step, or wait there for others to make room.
    in_engines = sum(one.running + one.waiting for one in {*_engines, engine})
    if max(len(_jobs), in_engines) >= LIMITS.max_concurrency + LIMITS.max_queue:
        message = "the service has as many requests as it takes; come back later"
        raise ApiError(429, message, code="queue_full", headers={"Retry-After": "1"})


def with_start(engine: Engine, ids: Sequence[int]) -> list[int]:
    """Return a prompt's tokens behind the start token, as models learn documents; not behind a second one."""
    return list(ids) if ids and ids[0] == engine.start else [engine.start, *ids]


def start(
    loaded: LoadedModel,
    prompt: str | Sequence[int],
    sampling: Sampling,
    stop: tuple[str, ...] = (),
    *,
    by_default: bool = False,
) -> Generation:
    """Let a request in: have `loaded` write on from a short text, or from token ids, up to one of the strings `stop`.

    With `by_default` the request named no max_new_tokens, so it is lowered to what the context leaves. Raises
    ApiError: 400 when prompt and max_new_tokens exceed the context, 429 when the queue is full.
    """
    engine = loaded.engine
    ids = with_start(engine, _encode(engine, prompt) if isinstance(prompt, str) else prompt)
    if by_default:
        room = max(1, engine.context - len(ids))
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
    if len(ids) + sampling.max_new_tokens > engine.context:
        message = (
            f"the prompt has {len(ids)} tokens (with the start token) and max_new_tokens is "
            f"{sampling.max_new_tokens}; together they must not exceed the model's context of {engine.context} tokens"
        )
        param = "prompt" if len(ids) >= engine.context else "max_new_tokens"
        raise ApiError(400, message, code="context_length_exceeded", param=param)
    _require_room(engine)
    return Generation(loaded, ids, sampling, stop)
