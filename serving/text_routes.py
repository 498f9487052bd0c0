"""What the tasks that write text share: the route /generate, and a smoke test."""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from serving.body import BoundedRoute, parsed
from serving.engines.prompt_format import prompt_format
from serving.engines.protocol import Engine, FinishReason, Sampling, unsupported_fields
from serving.generation import Generation, TextGenerator
from serving.model_loader import RefusedError
from serving.schema import GenerateAnswer, GenerateRequest, Usage, errors_of, generated
from serving.served_model import ServedModel
from serving.streaming import EventStream, RequestResources, unless_disconnected

_SMOKE_TEST_PROMPTS = ("", "The", "1, 2, 3")  # a model must generate after at least one of these
_SMOKE_TEST_TOKENS = 8


@dataclass(frozen=True)
class GenerateRoute:
    """What /generate takes and says of itself, which differs by the task."""

    summary: str
    description: str
    body_type: type[GenerateRequest]
    answer_type: type[GenerateAnswer]
    events: str  # an example of a stream


def generate_router(
    served: ServedModel, generator: TextGenerator, route: GenerateRoute, timeout_seconds: float
) -> APIRouter:
    """Return /generate, which answers with `served`."""
    routes = APIRouter(route_class=BoundedRoute)

    @routes.post(
        "/generate",
        summary=route.summary,
        description=route.description,
        response_model=route.answer_type,
        responses={**generated(route.events), **errors_of(404, 504)},
    )
    @routes.post("/generate/", include_in_schema=False)
    async def generate(
        body: Annotated[GenerateRequest, parsed(route.body_type)], request: Request, resources: RequestResources
    ) -> Response:
        loaded = await resources.enter_async_context(served.acquire(body.model))
        ids = await generator.encode(loaded.engine, body.prompt)
        fit_to_context = "max_new_tokens" not in body.model_fields_set
        generation = generator.start(
            loaded, ids, body.sampling(), tuple(body.stop or ()), fit_to_context=fit_to_context
        )
        resources.callback(generation.cancel)
        if body.stream:
            return await EventStream.start(request, _events(generation), generation.headers(), timeout_seconds)
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


async def smoke_test(engine: Engine) -> None:
    """Generate greedily after several prompts; raises RefusedError unless the result is plausible."""
    written = 0
    for prompt in _SMOKE_TEST_PROMPTS:
        written += await _generate(engine, prompt)
    if not written:
        raise RefusedError("its smoke test ended at once after every prompt: the model generates nothing")


async def _generate(engine: Engine, prompt: str) -> int:
    """Return how many tokens the model generates after `prompt`; raises RefusedError for broken weights."""
    rules = prompt_format(engine)
    ids = rules.complete(rules.encode(prompt))
    count = min(_SMOKE_TEST_TOKENS, rules.room(ids))
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
