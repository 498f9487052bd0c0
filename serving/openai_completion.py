"""A request to /v1/completions: several choices for several prompts, generated at the same time."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from serving.engines.prompt_format import prompt_format
from serving.engines.protocol import Engine, Sampling, Token, unsupported_fields
from serving.errors import ApiError
from serving.generation import Generation, TextGenerator
from serving.model_loader import LoadedModel
from serving.openai_logprobs import LogprobsBuilder
from serving.openai_schema import Choice, Completion, CompletionRequest, Logprobs, OpenAIUsage, prompts_of
from serving.scoring_thread import ScoringThread
from serving.served_model import ServedModel

_MIN_TOP_P = 1e-9  # OpenAI's top_p may be 0: greedy, as this is

_T = TypeVar("_T")


@dataclass(frozen=True)
class CompletionService:
    """What all requests share."""

    served: ServedModel
    generator: TextGenerator
    scoring: ScoringThread
    timeout: float  # seconds for a whole request


class _Prompt:
    """A prompt, and the model's log-probabilities of its tokens."""

    def __init__(self, engine: Engine, original: str | list[int], tokens: list[int]) -> None:
        self.tokens = tokens
        self.ids = prompt_format(engine).complete(tokens)
        self._original = original
        self._engine = engine
        self._scored: list[Token] | None = None
        self._lock = asyncio.Lock()

    @property
    def text(self) -> str:
        """The prompt as text."""
        if isinstance(self._original, str):
            return self._original
        text: str = self._engine.tokenizer.decode(self._original, skip_special_tokens=False)
        return text

    async def scored(self, service: CompletionService, loaded: LoadedModel, top: int) -> list[Token]:
        """Return the tokens of the request with their log-probabilities, by the reference model in float32."""
        async with self._lock:  # the choices of a prompt share them
            if self._scored is None:
                scorer = await service.served.scorer(loaded)
                scored = await service.scoring.run(scorer.score, self.ids, top)
                self._scored = scored[-len(self.tokens) :]
        return self._scored


async def _read_prompt(generator: TextGenerator, engine: Engine, prompt: str | list[int]) -> _Prompt:
    """Return the prompt with its tokens; raises ApiError 400 for unknown ids."""
    if isinstance(prompt, str):
        return _Prompt(engine, prompt, await generator.encode(engine, prompt))
    await asyncio.sleep(0)  # yields to other requests between two prompts
    unknown = next((token for token in set(prompt) if engine.tokenizer.id_to_token(token) is None), None)
    if unknown is not None:
        message = f"prompt: {unknown} is not the id of a token of this model"
        raise ApiError(400, message, code="unknown_token", param="prompt")
    return _Prompt(engine, prompt, prompt)


class CompletionRun:
    """A running request: one generation for each choice."""

    def __init__(self, service: CompletionService, loaded: LoadedModel, request: CompletionRequest) -> None:
        """Take a request; `start` starts it."""
        self._service = service
        self._loaded = loaded
        self._request = request
        self._seed = secrets.randbits(32) if request.seed is None else request.seed
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._prompts: list[_Prompt] = []
        self._generations: list[Generation] = []

    async def start(self) -> None:
        """Start all choices, or none: `cancel` those that were started before an ApiError."""
        for original in prompts_of(self._request.prompt):
            self._prompts.append(await _read_prompt(self._service.generator, self._loaded.engine, original))
        for prompt in self._prompts:
            for choice in range(self._request.n):
                self._generations.append(self._generation(prompt.ids, self._sampling(choice)))

    def _sampling(self, choice: int) -> Sampling:
        """Return how choice 0, 1, ... of a prompt is sampled: like a single one with seed + choice."""
        request = self._request
        return Sampling(
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p or _MIN_TOP_P,
            top_k=request.top_k,
            repetition_penalty=request.repetition_penalty,
            seed=_wrapped(self._seed + choice),
            seeded=request.seed is not None,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            logprobs=request.logprobs,
        )

    def _generation(self, ids: list[int], sampling: Sampling) -> Generation:
        request = self._request
        fit_to_context = "max_tokens" not in request.model_fields_set
        start = self._service.generator.start
        try:
            return start(self._loaded, ids, sampling, tuple(request.stop), fit_to_context=fit_to_context)
        except ApiError as error:
            if error.code != "context_length_exceeded":
                raise
            message = error.message.replace("max_new_tokens", "max_tokens")  # the name in this protocol
            param = "prompt" if error.param == "prompt" else "max_tokens"
            raise ApiError(400, message, code=error.code, param=param) from None

    def cancel(self) -> None:
        """Stop generating. Idempotent, and without effect on choices that have ended."""
        for generation in self._generations:
            generation.cancel()

    @property
    def usage(self) -> OpenAIUsage:
        """Tokens read and generated so far."""
        read = sum(len(prompt.ids) for prompt in self._prompts)
        written = sum(generation.completion_tokens for generation in self._generations)
        return OpenAIUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        return {**self._generations[0].headers(), "X-Prompt-Tokens": str(self.usage.prompt_tokens)}

    async def answer(self) -> str:
        """Return the whole answer as JSON; yields to other requests while it renders many log-probabilities."""
        choices: dict[int, Choice] = {}
        async for part in self._parts():
            before = choices.get(part.index)
            choices[part.index] = _joined(before, part) if before else part
        rendered = []
        for index in range(len(self._generations)):
            rendered.append(choices[index].model_dump_json())
            await asyncio.sleep(0)
        rest = self._completion([], self.usage).model_dump_json()
        return rest.replace('"choices":[]', f'"choices":[{",".join(rendered)}]', 1)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the answer in parts while it is generated."""
        async for part in self._parts():
            yield self._completion([part]).model_dump()
        if self._request.stream_options and self._request.stream_options.include_usage:
            yield self._completion([], self.usage).model_dump()

    def _completion(self, choices: list[Choice], usage: OpenAIUsage | None = None) -> Completion:
        loaded = self._loaded
        return Completion(
            id=self._id,
            created=self._created,
            model=loaded.version,
            system_fingerprint=f"{loaded.version}-{loaded.engine.name}",
            choices=choices,
            usage=usage,
            data=loaded.data,
            seed=None if "seed" in unsupported_fields(loaded.engine) else self._seed,
            engine=loaded.engine.name,
        )

    def _parts(self) -> AsyncIterator[Choice]:
        """Return the parts of all choices, as they come."""
        choices = enumerate(self._generations)
        return _merged([self._choice(at, self._prompts[at // self._request.n], choice) for at, choice in choices])

    async def _choice(self, index: int, prompt: _Prompt, generation: Generation) -> AsyncIterator[Choice]:
        """Yield the parts of one choice."""
        request, end = self._request, self._loaded.engine.end
        builder = None if request.logprobs is None else LogprobsBuilder(self._loaded.engine)
        if request.echo:
            logprobs = await builder.of_prompt(prompt.text, await self._scored(prompt)) if builder else None
            yield Choice(index=index, text=prompt.text, logprobs=logprobs, finish_reason=None)
        written = 0
        if not request.stream:
            generation.as_whole()
        async for delta in generation:
            reason = delta.finish_reason
            written += len(delta.tokens)
            by_end_token = reason == "stop" and generation.completion_tokens > written  # not by a stop string
            if builder:
                builder.add(delta.text, [*delta.tokens, Token(end)] if by_end_token else delta.tokens)
            if delta.text or reason:
                logprobs = builder.take(all_pending=by_end_token or reason == "length") if builder else None
                yield Choice(index=index, text=delta.text, logprobs=logprobs, finish_reason=reason)

    async def _scored(self, prompt: _Prompt) -> list[Token]:
        timeout = self._service.timeout
        try:
            async with asyncio.timeout(timeout):
                return await prompt.scored(self._service, self._loaded, self._request.logprobs or 0)
        except TimeoutError:
            message = f"the prompt was not scored within {timeout:g} s; send fewer prompts at once"
            raise ApiError(504, message, code="timeout") from None


def _wrapped(seed: int) -> int:
    """Return `seed` as a signed integer of 64 bits."""
    return (seed + 2**63) % 2**64 - 2**63


def _joined(first: Choice, second: Choice) -> Choice:
    """Return two parts of a choice as one."""
    one, other = first.logprobs, second.logprobs
    return Choice(
        index=first.index,
        text=first.text + second.text,
        logprobs=one and other and Logprobs(**{name: values + getattr(other, name) for name, values in one}),
        finish_reason=second.finish_reason,
    )


async def _merged(sources: Sequence[AsyncIterator[_T]]) -> AsyncIterator[_T]:
    """Yield what all `sources` yield, as it comes; an error in one, or the end of the iteration, ends all."""
    ready: asyncio.Queue[_T | None] = asyncio.Queue()

    async def read(source: AsyncIterator[_T]) -> None:
        async for item in source:
            ready.put_nowait(item)

    reading = [asyncio.create_task(read(source)) for source in sources]
    finished = asyncio.gather(*reading)
    finished.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        while (item := await ready.get()) is not None:
            yield item
        await finished
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, finished, return_exceptions=True)
