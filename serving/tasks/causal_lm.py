"""Causal language models for the service: they continue texts."""

import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from pipeline.params import Service
from serving import openai, playground
from serving.body import BoundedRoute, parsed
from serving.engines.protocol import Engine, FinishReason, Sampling, unsupported_fields
from serving.generation import Generation, TextGenerator
from serving.model_loader import RefusedError
from serving.schema import GenerateAnswer, GenerateRequest, Usage, errors_of, generate_request, generated
from serving.served_model import ServedModel
from serving.settings import EngineSettings
from serving.streaming import EventStream, RequestResources, unless_disconnected

_SMOKE_TEST_PROMPTS = ("", "The", "1, 2, 3")  # a model must generate after at least one of these
_SMOKE_TEST_TOKENS = 8

_EVENTS = """data: {"text":" there was"}

data: {"text":"","finish_reason":"length","usage":{"prompt_tokens":5,"completion_tokens":2},"model":"0123456789ab",\
"data":null,"seed":1,"engine":"int8"}

data: [DONE]

"""


class CausalLM:
    """See `serving.tasks.ServingTask`."""

    service_name = "gpt2"
    title = "Text generation"
    description = "A fine-tuned GPT-2 behind HTTP: POST a prompt to /generate to continue it."
    tag = ("Generation", "Generate text with the served models.")
    ability = "generate"
    routes = ("/generate", "/v1/completions")
    other_routes = ("/generate/", "/v1/chat/completions")

    def unsuitable_reason(self, _folder: Path) -> str:
        """Return nothing: engines say which architectures they run."""
        return ""

    def make_engine(self, folder: Path, settings: EngineSettings) -> Engine:
        """Return the engine that the settings name; raises EngineError."""
        from serving.engines import selection  # torch, which BentoML's master does not need

        return selection.make(folder, settings)

    async def smoke_test(self, engine: Engine) -> None:
        """Generate greedily after several prompts; raises RefusedError unless the result is plausible."""
        written = 0
        for prompt in _SMOKE_TEST_PROMPTS:
            written += await _generate(engine, prompt)
        if not written:
            raise RefusedError("its smoke test ended at once after every prompt: the model generates nothing")

    def routers(self, served: ServedModel, settings: Service) -> Sequence[APIRouter]:
        """Return the routes of OpenAI's API, and /generate."""
        generator = TextGenerator(settings)
        own = _generate_routes(served, generator, generate_request(settings), settings.timeout)
        return openai.router(served, generator, settings), own

    def page(self, settings: Service) -> HTMLResponse:
        """Return the playground."""
        return playground.response(generate_request(settings), settings.timeout)


TASK = CausalLM()


async def _generate(engine: Engine, prompt: str) -> int:
    """Return how many tokens the model generates after `prompt`; raises RefusedError for broken weights."""
    ids = [engine.start, *engine.tokenizer.encode(prompt, add_special_tokens=False).ids]
    count = min(_SMOKE_TEST_TOKENS, engine.context - len(ids))
    logprobs = None if "logprobs" in unsupported_fields(engine) else 0
    stream = engine.submit(ids, Sampling(count, 0.0, 1.0, 0, 1.0, seed=0, logprobs=logprobs))
    written = 0
    try:
        async for token in stream:
            written += 1
            if logprobs is not None and not (token.logprob is not None and math.isfinite(token.logprob)):
                raise RefusedError(f"its smoke test gave a log-probability of {token.logprob}: broken weights")
    finally:
        stream.cancel()
    return written


def _generate_routes(
    served: ServedModel, generator: TextGenerator, body_type: type[GenerateRequest], timeout: float
) -> APIRouter:
    routes = APIRouter(route_class=BoundedRoute)

    @routes.post(
        "/generate",
        summary="Continue a prompt",
        response_model=GenerateAnswer,
        responses={**generated(_EVENTS), **errors_of(404, 504)},
    )
    @routes.post("/generate/", include_in_schema=False)
    async def generate(
        body: Annotated[GenerateRequest, parsed(body_type)], request: Request, resources: RequestResources
    ) -> Response:
        """Continue a prompt: as a whole, or with `stream` while the text is generated."""
        loaded = await resources.enter_async_context(served.acquire(body.model))
        ids = await generator.encode(loaded.engine, body.prompt)
        fit_to_context = "max_new_tokens" not in body.model_fields_set
        generation = generator.start(
            loaded, ids, body.sampling(), tuple(body.stop or ()), fit_to_context=fit_to_context
        )
        resources.callback(generation.cancel)
        if body.stream:
            return await EventStream.start(request, _events(generation), generation.headers(), timeout)
        answer = _answer(generation, *await unless_disconnected(request, generation.text()))
        headers = {**generation.headers(), "X-Completion-Tokens": str(generation.completion_tokens)}
        return Response(answer.model_dump_json(), media_type="application/json", headers=headers)

    return routes


async def _events(generation: Generation) -> AsyncIterator[dict[str, Any]]:
    """Yield the text while it is generated, and at the end what generated it."""
    async for delta in generation:
        if delta.text:
            yield {"text": delta.text}
        if delta.finish_reason:
            yield _answer(generation, "", delta.finish_reason).model_dump()


def _answer(generation: Generation, text: str, reason: FinishReason) -> GenerateAnswer:
    loaded = generation.loaded
    return GenerateAnswer(
        text=text,
        finish_reason=reason,
        usage=Usage(prompt_tokens=generation.prompt_tokens, completion_tokens=generation.completion_tokens),
        model=loaded.version,
        data=loaded.data,
        seed=generation.seed,
        engine=loaded.engine.name,
    )
