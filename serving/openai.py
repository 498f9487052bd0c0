"""OpenAI's routes for models and completions, as its SDK and evaluation harnesses expect them."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from serving import generation
from serving.body import BoundedRoute
from serving.engines.protocol import Engine, Sampling, Token, unsupported_fields
from serving.errors import ApiError
from serving.generation import Generation
from serving.openai_schema import (
    Choice,
    Completion,
    CompletionRequest,
    Logprobs,
    Model,
    Models,
    OpenAIUsage,
    prompts_of,
)
from serving.schema import errors_of, generated
from serving.scoring_thread import ScoringThread
from serving.served_model import LoadedModel, ServedModel
from serving.settings import LIMITS
from serving.streaming import EventStream, UntilAnswered, unless_gone

_LEAST_TOP_P = 1e-9  # OpenAI's may be 0, which leaves the likeliest token alone, as this does
_HALF = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are no character (yet)
_LONGEST_CHARACTER = 4  # bytes in UTF-8, and so tokens
_TOKENS_AT_ONCE = 64  # of a prompt that are listed within a few milliseconds
_EVENTS = """data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"0123456789ab","system_fingerprint":\
"0123456789ab-int8","choices":[{"index":0,"text":" there was","logprobs":null,"finish_reason":"length"}],"usage":null,\
"data":null,"seed":1,"engine":"int8"}

data: [DONE]

"""

_T = TypeVar("_T")

_scoring = ScoringThread()


def router(served: ServedModel) -> APIRouter:
    """Return the routes under /v1, which answer with `served`."""
    routes = APIRouter(prefix="/v1", route_class=BoundedRoute)

    @routes.get("/models", summary="Which models can be asked for", responses=errors_of())
    async def models() -> Models:
        """List the served model's version, and the names that may stand for another one later."""
        async with served.take():
            return Models(data=[_model(name) for name in served.names()])

    @routes.get("/models/{model}", summary="Whether a model can be asked for", responses=errors_of(404))
    async def model(model: str) -> Model:
        """Return the model called so."""
        async with served.take():
            known = served.names()
        if model not in known:
            message = f"there is no such model; there are {', '.join(known)}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return _model(model)

    @routes.post(
        "/completions",
        summary="Write on from prompts, as OpenAI's API does",
        response_model=Completion,
        responses={**generated(_EVENTS), **errors_of(404, 504)},
    )
    async def completions(wanted: CompletionRequest, request: Request, until_answered: UntilAnswered) -> Response:
        """Write n texts for each prompt, at the same time: all at once, or with `stream` as they are being written."""
        loaded = await until_answered.enter_async_context(served.take(wanted.model))
        work = _CompletionRun(served, loaded, wanted)
        until_answered.callback(work.cancel)
        await work.start()
        if wanted.stream:
            return await EventStream.begun(request, work.events(), work.headers())
        answer = await unless_gone(request, work.answer())
        headers = {**work.headers(), "X-Completion-Tokens": str(work.usage.completion_tokens)}
        return Response(answer, media_type="application/json", headers=headers)

    @routes.post("/chat/completions", include_in_schema=False)
    async def chat() -> None:
        """Say what is here instead, to the many clients that ask for a chat first."""
        message = "there is no chat: the model writes on from a text; POST it as `prompt` to /v1/completions"
        raise ApiError(404, message, code="unsupported")

    return routes


def _model(name: str) -> Model:
    return Model(id=name, created=0, owned_by="fresh-gpt2")


class _Prompt:
    """A prompt, and what the model itself thinks of its tokens."""

    def __init__(self, engine: Engine, given: str | list[int], tokens: list[int]) -> None:
        """Take a prompt as it was given, and its tokens."""
        self.tokens = tokens
        self.ids = generation.with_start(engine, tokens)
        self._given = given
        self._engine = engine
        self._scored: list[Token] | None = None
        self._lock = asyncio.Lock()

    @classmethod
    async def read(cls, engine: Engine, given: str | list[int]) -> "_Prompt":
        """Return the prompt with its tokens; raises ApiError 400 for ids that the model does not know."""
        if isinstance(given, str):
            return cls(engine, given, await generation.encode(engine, given))
        await asyncio.sleep(0)  # others may go on between one prompt and the next
        unknown = next((token for token in set(given) if engine.tokenizer.id_to_token(token) is None), None)
        if unknown is not None:
            message = f"prompt: {unknown} is not the id of a token of this model"
            raise ApiError(400, message, code="unknown_token", param="prompt")
        return cls(engine, given, given)

    @property
    def text(self) -> str:
        """The prompt as text."""
        if isinstance(self._given, str):
            return self._given
        text: str = self._engine.tokenizer.decode(self._given, skip_special_tokens=False)
        return text

    async def scored(self, served: ServedModel, loaded: LoadedModel, top: int) -> list[Token]:
        """Return the tokens as they were given, with their log-probabilities by the reference model in float32."""
        async with self._lock:  # the choices of a prompt share them
            if self._scored is None:
                scorer = await served.scorer(loaded)
                scored = await _scoring.run(scorer.score, self.ids, top)
                self._scored = scored[-len(self.tokens) :]
        return self._scored


class _CompletionRun:
    """A request on its way: a job a choice."""

    def __init__(self, served: ServedModel, loaded: LoadedModel, wanted: CompletionRequest) -> None:
        self._served = served
        self._loaded = loaded
        self._wanted = wanted
        self._seed = secrets.randbits(32) if wanted.seed is None else wanted.seed
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._prompts: list[_Prompt] = []
        self._jobs: list[Generation] = []

    async def start(self) -> None:
        """Let all choices in, or none: what was let in before an ApiError must be cancelled."""
        self._prompts = [await _Prompt.read(self._loaded.engine, given) for given in prompts_of(self._wanted.prompt)]
        for prompt in self._prompts:
            for choice in range(self._wanted.n):
                self._jobs.append(self._job(prompt, self._sampling(choice)))

    def _sampling(self, choice: int) -> Sampling:
        """Return how choice 0, 1, ... of a prompt is drawn: as one that is asked for alone with seed + choice."""
        wanted = self._wanted
        return Sampling(
            max_new_tokens=wanted.max_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p or _LEAST_TOP_P,
            top_k=wanted.top_k,
            repetition_penalty=wanted.repetition_penalty,
            seed=_wrapped(self._seed + choice),
            seeded=wanted.seed is not None,
            presence_penalty=wanted.presence_penalty,
            frequency_penalty=wanted.frequency_penalty,
            logprobs=wanted.logprobs,
        )

    def _job(self, prompt: _Prompt, sampling: Sampling) -> Generation:
        try:
            by_default = "max_tokens" not in self._wanted.model_fields_set
            return generation.start(self._loaded, prompt.ids, sampling, tuple(self._wanted.stop), by_default=by_default)
        except ApiError as error:
            if error.code != "context_length_exceeded":
                raise
            message = error.message.replace("max_new_tokens", "max_tokens")  # as this protocol has it
            param = "prompt" if error.param == "prompt" else "max_tokens"
            raise ApiError(400, message, code=error.code, param=param) from None

    def cancel(self) -> None:
        """Want no more of any choice; without effect on those that have ended."""
        for job in self._jobs:
            job.cancel()

    @property
    def usage(self) -> OpenAIUsage:
        """Tokens read and written so far."""
        read = sum(len(prompt.ids) for prompt in self._prompts)
        written = sum(job.completion_tokens for job in self._jobs)
        return OpenAIUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def headers(self) -> dict[str, str]:
        """Return what the answer's headers say of it."""
        return {**self._jobs[0].headers(), "X-Prompt-Tokens": str(self.usage.prompt_tokens)}

    async def answer(self) -> str:
        """Return all of it as JSON; the log-probabilities of many prompts take long to write, so others may go on."""
        choices: dict[int, Choice] = {}
        async for part in self._parts():
            before = choices.get(part.index)
            choices[part.index] = _joined(before, part) if before else part
        written = []
        for index in range(len(self._jobs)):
            written.append(choices[index].model_dump_json())
            await asyncio.sleep(0)
        rest = self._completion([], self.usage).model_dump_json()
        return rest.replace('"choices":[]', f'"choices":[{",".join(written)}]', 1)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield it as it is being written."""
        async for part in self._parts():
            yield self._completion([part]).model_dump()
        if self._wanted.stream_options and self._wanted.stream_options.include_usage:
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
        parts = [self._choice(at, self._prompts[at // self._wanted.n], job) for at, job in enumerate(self._jobs)]
        return _merged(parts)

    async def _choice(self, index: int, prompt: _Prompt, job: Generation) -> AsyncIterator[Choice]:
        """Yield the parts of one choice."""
        wanted = self._wanted
        listing = None if wanted.logprobs is None else _LogprobsBuilder(self._loaded.engine)
        if wanted.echo:
            logprobs = await listing.of_prompt(prompt.text, await self._scored(prompt)) if listing else None
            yield Choice(index=index, text=prompt.text, logprobs=logprobs, finish_reason=None)
        written = 0
        async for piece in job:
            reason = piece.finish_reason
            written += len(piece.tokens)
            ended = reason == "stop" and job.completion_tokens > written  # by the end token, not by a stop string
            if listing:
                listing.add(piece.text, [*piece.tokens, Token(self._loaded.engine.end)] if ended else piece.tokens)
            if piece.text or reason:
                logprobs = listing.take(whole=ended or reason == "length") if listing else None
                yield Choice(index=index, text=piece.text, logprobs=logprobs, finish_reason=reason)

    async def _scored(self, prompt: _Prompt) -> list[Token]:
        try:
            async with asyncio.timeout(LIMITS.timeout):
                return await prompt.scored(self._served, self._loaded, self._wanted.logprobs or 0)
        except TimeoutError:
            message = f"the prompt was not scored within {LIMITS.timeout:g} s; send fewer prompts at once"
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
        logprobs=one and other and Logprobs(**{name: having + getattr(other, name) for name, having in one}),
        finish_reason=second.finish_reason,
    )


async def _merged(parts: Sequence[AsyncIterator[_T]]) -> AsyncIterator[_T]:
    """Yield what all of `parts` yield, as it comes; an error in one, or the end of the iteration, ends all."""
    ready: asyncio.Queue[_T | None] = asyncio.Queue()

    async def read(part: AsyncIterator[_T]) -> None:
        async for one in part:
            ready.put_nowait(one)

    reading = [asyncio.create_task(read(part)) for part in parts]
    finished = asyncio.gather(*reading)
    finished.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        while (one := await ready.get()) is not None:
            yield one
        await finished
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, finished, return_exceptions=True)


def _byte_of_letter() -> dict[str, int]:
    """Return which byte each letter of a byte-level vocabulary stands for.

    Source: bytes_to_unicode in https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTES = _byte_of_letter()


class _LogprobsBuilder:
    """The tokens of a text with their log-probabilities, in the form of OpenAI's completions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._before = engine.tokenizer.encode("a", add_special_tokens=False).ids  # what texts begin with may differ
        self._skipped = len(self._decode(self._before))
        self._length = 0  # of the text, in characters
        self._offset = 0  # in it, of the next token
        self._half: list[int] = []  # tokens whose characters are incomplete
        self._waiting: list[tuple[Token, int]] = []  # with their offsets

    async def of_prompt(self, text: str, tokens: Sequence[Token]) -> Logprobs:
        """Return the tokens of the prompt, with which the text begins; others may go on meanwhile."""
        listed: dict[str, list[Any]] = {name: [] for name in Logprobs.model_fields}
        for begin in range(0, len(tokens), _TOKENS_AT_ONCE):
            self.add("" if begin else text, tokens[begin : begin + _TOKENS_AT_ONCE])
            for name, values in self.take(whole=True):
                listed[name] += values
            await asyncio.sleep(0)
        self._offset, self._half = self._length, []
        return Logprobs(**listed)

    def add(self, text: str, tokens: Sequence[Token]) -> None:
        """Take what came of the text, and of its tokens: a token may come before the text in which it stands."""
        self._length += len(text)
        for token in tokens:
            self._waiting.append((token, self._offset))
            self._half.append(token.id)
            whole = self._text(self._half)
            if not whole.endswith(_HALF) or len(self._half) >= _LONGEST_CHARACTER:
                self._offset += len(whole)
                self._half = []

    def take(self, whole: bool) -> Logprobs:
        """Return the tokens since the last call: all, or unless `whole` those that begin in the text so far.

        The others may belong to a stop string, which is no part of the text.
        """
        kept = [] if whole else [waiting for waiting in self._waiting if waiting[1] >= self._length]
        taken = self._waiting[: len(self._waiting) - len(kept)]
        self._waiting = kept
        return Logprobs(
            tokens=[self._spelled(token.id) for token, _ in taken],
            token_logprobs=[token.logprob for token, _ in taken],
            top_logprobs=[self._top(token) for token, _ in taken],
            text_offset=[offset for _, offset in taken],
        )

    def _top(self, token: Token) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for other, logprob in (*token.top, (token.id, token.logprob)):
            top.setdefault(self._spelled(other), logprob)
        return top

    def _spelled(self, token: int) -> str:
        """Return a token's text; of one without whole characters its bytes, in OpenAI's way."""
        text = self._text([token])
        letters = self._engine.tokenizer.id_to_token(token)
        if _HALF not in text or letters is None or not all(letter in _BYTES for letter in letters):
            return text
        if letters.isascii():  # other tokenizers' way to name a byte: <0xE2>
            return letters
        return "bytes:" + "".join(f"\\x{_BYTES[letter]:02x}" for letter in letters)

    def _text(self, ids: Sequence[int]) -> str:
        return self._decode([*self._before, *ids])[self._skipped :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._engine.tokenizer.decode(ids, skip_special_tokens=False)
