"""OpenAI's routes for completions, as its SDK and evaluation harnesses expect them."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from pipeline.params import Service
from serving.body import BoundedRoute, parsed
from serving.errors import ApiError
from serving.generation import TextGenerator
from serving.openai_completion import CompletionRun, CompletionService
from serving.openai_schema import Completion, CompletionRequest, completion_request
from serving.schema import errors_of, generated
from serving.scoring_thread import ScoringThread
from serving.served_model import ServedModel
from serving.streaming import EventStream, RequestResources, unless_disconnected

_EVENTS = """data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"0123456789ab","system_fingerprint":\
"0123456789ab-int8","choices":[{"index":0,"text":" there was","logprobs":null,"finish_reason":"length"}],"usage":null,\
"data":null,"seed":1,"engine":"int8"}

data: [DONE]

"""


def router(served: ServedModel, generator: TextGenerator, settings: Service) -> APIRouter:
    """Return the routes under /v1 that continue prompts, with `served`."""
    service = CompletionService(served, generator, ScoringThread(), settings.timeout)
    routes = completions_router(service, completion_request(settings), "Continue prompts, as OpenAI's API does")

    @routes.post("/chat/completions", include_in_schema=False)
    async def chat() -> None:
        """Name the supported route to clients that try a chat first."""
        message = "there is no chat: the model continues a text; POST it as `prompt` to /v1/completions"
        raise ApiError(404, message, code="unsupported")

    return routes


def completions_router(service: CompletionService, body_type: type[CompletionRequest], summary: str) -> APIRouter:
    """Return /v1/completions with the fields of `body_type`."""
    routes = APIRouter(prefix="/v1", route_class=BoundedRoute)

    @routes.post(
        "/completions",
        summary=summary,
        response_model=Completion,
        responses={**generated(_EVENTS), **errors_of(404, 504)},
    )
    async def completions(
        body: Annotated[CompletionRequest, parsed(body_type)], request: Request, resources: RequestResources
    ) -> Response:
        """Generate n texts for each prompt at the same time: as a whole, or with `stream` while they are generated."""
        loaded = await resources.enter_async_context(service.served.acquire(body.model))
        run = CompletionRun(service, loaded, body)
        resources.callback(run.cancel)
        await run.start()
        if body.stream:
            return await EventStream.start(request, run.events(), run.headers(), service.timeout)
        answer = await unless_disconnected(request, run.answer())
        headers = {**run.headers(), "X-Completion-Tokens": str(run.usage.completion_tokens)}
        return Response(answer, media_type="application/json", headers=headers)

    return routes
