"""What every route that generates text uses: checks, the queue, timeouts, and text made of tokens."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from weakref import WeakSet

from pipeline.params import Service
from serving.detokenizer import IncrementalDetokenizer
from serving.engines.prompt_format import prompt_format
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
from serving.metrics import GenerationSpan
from serving.model_loader import LoadedModel

_SHORT_TEXT = 2_000  # characters, tokenized within a millisecond


class _TimeoutError(EngineError):
    """A timeout passed; the message says which."""


@dataclass(frozen=True)
class Delta:
    """What was generated since the last delta."""

    text: str  # may be empty; all deltas joined are the text
    tokens: tuple[Token, ...]  # none in a last delta that only ends the text
    finish_reason: FinishReason | None  # in the last delta only


class Generation:
    """A running generation: iterate over its deltas once, or await its `text`.

    Both raise ApiError: 504 when it takes too long, 500 when the engine fails. However the iteration ends, the engine
    stops generating; a generation that is not iterated over must be cancelled.
    """

    def __init__(
        self, loaded: LoadedModel, prompt: Sequence[int], sampling: Sampling, stop: tuple[str, ...], settings: Service
    ) -> None:
        """Submit `prompt` to the engine; `TextGenerator.start` has checked it."""
        self.loaded = loaded
        self.sampling = sampling
        self.prompt_tokens = len(prompt)
        self.completion_tokens = 0  # so far, with the end token and those of a stop string
        self.has_ended = False
        self._as_whole = False
        self._can_stop = bool(stop)
        self._timeout = settings.timeout
        preceding = prompt_format(loaded.engine).preceding(prompt)
        self._detokenizer = IncrementalDetokenizer(loaded.engine.tokenizer, preceding, stop)
        self._stream = loaded.engine.submit(prompt, sampling)
        self._span = GenerationSpan(loaded.version, len(prompt))
        self._began = self._stream.loop.time()
        # One timer, moved after the first token: a timer for each token would cost a tenth of handling it.
        self._timer = self._end_after(min(settings.first_token_seconds, settings.timeout))
        self._stream.on_first_token = self._begin

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield deltas as they come; tokens that are there already become one."""
        try:
            reason: FinishReason | None = None
            while not reason:
                tokens = await self._next_tokens()
                before = self._detokenizer.tokens
                text = self._detokenizer.add([token.id for token in tokens])
                taken = tokens[: self._detokenizer.tokens - before]
                self._count(len(taken))
                if not tokens:
                    text, reason = self._detokenizer.flush(), self._finish_reason()
                if self._detokenizer.stopped:
                    reason = "stop"
                if reason:
                    self._span.end(reason)
                yield Delta(text, tuple(taken), reason)
        except ApiError:
            self._span.end("error")
            raise
        finally:
            self.cancel()

    def as_whole(self) -> "Generation":
        """Return itself, to be iterated over at its end: a token then costs the event loop nothing.

        Has no effect where there are stop strings, which have to be found while the text is generated.
        """
        self._as_whole = not self._can_stop
        return self

    async def text(self) -> tuple[str, FinishReason]:
        """Return the whole text and why it ended."""
        self.as_whole()
        deltas = [delta async for delta in self]
        reason = deltas[-1].finish_reason
        assert reason
        return "".join(delta.text for delta in deltas), reason

    def headers(self) -> dict[str, str]:
        """Return the headers of an answer."""
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
        """The seed; None where the engine has none."""
        return None if "seed" in unsupported_fields(self.loaded.engine) else self.sampling.seed

    def cancel(self) -> None:
        """Stop generating. Idempotent, and without effect after the end."""
        self.has_ended = True
        self._timer.cancel()
        self._stream.cancel()
        self._span.end("cancelled")

    def _end_after(self, seconds: float) -> asyncio.TimerHandle:
        """End the stream with an error `seconds` after the beginning."""
        error = _TimeoutError(f"{seconds:g} s")
        return self._stream.loop.call_at(self._began + seconds, self._stream.end, None, error)

    def _begin(self) -> None:
        """Take the time of the first token, and give the rest until the timeout of a whole text."""
        if not self.has_ended:
            self._span.begin()
            self._timer.cancel()
            self._timer = self._end_after(self._timeout)

    async def _next_tokens(self) -> list[Token]:
        """Return the tokens since the last call, at least one; none when the stream has ended."""
        try:
            return await (self._stream.all_tokens() if self._as_whole else self._stream.next_tokens())
        except _TimeoutError as timeout:
            what = "nothing was generated" if self._stream.on_first_token else "the text was not finished"
            message = f"{what} within {timeout}; ask for fewer tokens, or try again later"
            raise ApiError(504, message, code="timeout") from None
        except UnavailableError as error:
            raise ApiError(503, str(error), code="unavailable", headers={"Retry-After": "5"}) from None
        except EngineError as error:
            raise ApiError(500, str(error), code="engine_error") from None

    def _finish_reason(self) -> FinishReason:
        """Return why the stream ended; the end token counts as generated."""
        reason = self._stream.finish_reason
        if reason is None:
            raise ApiError(500, "the generation was cancelled", code="cancelled")
        if reason == "stop":
            self._count(1)
        return reason

    def _count(self, tokens: int) -> None:
        self.completion_tokens += tokens
        self._span.add_tokens(tokens)


class TextGenerator:
    """Checks requests, bounds how many run and wait, and starts generations."""

    def __init__(self, settings: Service) -> None:
        """Take the bounds from `settings`."""
        self._settings = settings
        self._generations: WeakSet[Generation] = WeakSet()
        self._engines: WeakSet[Engine] = WeakSet()  # that have run generations
        self._tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizing")

    async def encode(self, engine: Engine, text: str) -> list[int]:
        """Return the tokens of `text`; a long one is tokenized beside the event loop.

        Raises ApiError 429 when the queue is full: before the work, not after it.
        """
        self._check_queue(engine)
        encode = prompt_format(engine).encode
        if len(text) <= _SHORT_TEXT:
            return encode(text)
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, encode, text)

    def start(
        self,
        loaded: LoadedModel,
        prompt: str | Sequence[int],
        sampling: Sampling,
        stop: tuple[str, ...] = (),
        *,
        fit_to_context: bool = False,
    ) -> Generation:
        """Start to generate with `loaded` after a prompt.

        Args:
            loaded: The model, acquired by the caller.
            prompt: A short text, or token ids.
            sampling: How to sample.
            stop: The text ends before the first of these strings.
            fit_to_context: Lower max_new_tokens to what the context leaves, as for a request that does not name it.

        Raises:
            ApiError: 400 when prompt and max_new_tokens exceed the context, 429 when the queue is full.
        """
        engine, rules = loaded.engine, prompt_format(loaded.engine)
        ids = rules.complete(rules.encode(prompt) if isinstance(prompt, str) else prompt)
        if fit_to_context:
            sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, max(1, rules.room(ids))))
        rules.check_length(ids, sampling.max_new_tokens)
        self._check_queue(engine)
        generation = Generation(loaded, ids, sampling, stop, self._settings)
        self._engines.add(engine)
        self._generations.add(generation)
        return generation

    def _check_queue(self, engine: Engine) -> None:
        """Raise ApiError 429 when the queue is full."""
        generations = sum(not generation.has_ended for generation in self._generations)
        # Cancelled generations stay in an engine for one more step, or wait there for memory.
        in_engines = sum(one.running + one.waiting for one in {*self._engines, engine})
        if max(generations, in_engines) >= self._settings.max_concurrency + self._settings.max_queue:
            message = "the service has as many requests as it can queue; try again later"
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": "1"})
