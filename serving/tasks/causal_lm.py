"""The HTTP routes of a causal language model, as an app that BentoML mounts at `/`."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from pipeline.params import Service
from serving import errors, openai, playground
from serving.body import BoundedRoute, parsed
from serving.engines.protocol import FinishReason
from serving.generation import Generation, TextGenerator
from serving.http_rules import policy, wants_page
from serving.schema import (
    About,
    GenerateAnswer,
    GenerateRequest,
    Health,
    RefusedVersion,
    Usage,
    Verdict,
    errors_of,
    generate_request,
    generated,
)
from serving.served_model import ServedModel
from serving.streaming import EventStream, RequestResources, unless_disconnected

TITLE = "Text generation"  # of the specification, and so of Swagger's page
VERSION = "1.0"  # of the routes and their bodies; every answer has the model's version
TAG = "Generation"

_EVENTS = """data: {"text":" there was"}

data: {"text":"","finish_reason":"length","usage":{"prompt_tokens":5,"completion_tokens":2},"model":"0123456789ab",\
"data":null,"seed":1,"engine":"int8"}

data: [DONE]

"""


def make_app(name: str, served: ServedModel, settings: Service) -> FastAPI:
    """Return the app named `name` that answers with `served`."""
    # BentoML has a specification of its own at /docs.json, which includes these routes.
    app = FastAPI(title=name, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.route_class = BoundedRoute
    errors.install(app)
    generator = TextGenerator(settings)
    body_type = generate_request(settings)
    page = playground.response(body_type, settings.timeout)
    app.include_router(_status_routes(name, served, page), tags=[TAG])
    app.include_router(openai.router(served, generator, settings), tags=[TAG])
    app.include_router(_pages(page))
    app.include_router(_generate_routes(served, generator, body_type, settings.timeout), tags=[TAG])
    return app


def _status_routes(name: str, served: ServedModel, page: HTMLResponse) -> APIRouter:
    routes = APIRouter(route_class=BoundedRoute)

    @routes.get("/", summary="The service and its model", response_model=About, responses=errors_of())
    async def about(request: Request, response: Response) -> About | Response:
        """Say which model is served, from where and why; a browser gets the playground."""
        if wants_page(request.scope):
            return page
        response.headers["Vary"] = "Accept"
        loaded, folder = served.loaded, served.folder
        return About(
            name=name,
            status=served.status,
            model=loaded.version if loaded else None,
            data=loaded.data if loaded else None,
            folder=str(folder.path) if folder else None,
            why=folder.why if folder else served.waiting_for,
            verdict=_verdict(served),
            engine=loaded.engine.name if loaded else None,
            context=loaded.engine.context if loaded else None,
            models=served.names(),
            prompts=list(folder.prompts) if loaded and folder else [],
            refused=_refused(served),
            swaps=served.swaps,
        )

    @routes.get("/health", summary="Whether it can generate", responses=errors_of())
    async def health() -> Health:
        """Answer 200 when a model is loaded, else 503 with the reason."""
        async with served.acquire() as loaded:
            return Health(
                status=served.status,
                model=loaded.version,
                data=loaded.data,
                verdict=_verdict(served),
                refused=_refused(served),
            )

    return routes


def _pages(page: HTMLResponse) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/playground")
    async def show_playground() -> HTMLResponse:
        """Show the playground."""
        return page

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        """Show the specification with the files of BentoML: nothing is fetched from elsewhere."""
        swagger = get_swagger_ui_html(
            openapi_url="/docs.json",
            title=TITLE,
            swagger_js_url="/static_content/swagger-ui-bundle.js",
            swagger_css_url="/static_content/swagger-ui.css",
            swagger_favicon_url="/static_content/favicon-light-32x32.png",
        )
        sources = ("style-src 'self' 'unsafe-inline'", "img-src 'self' data:")  # Swagger sets inline styles
        swagger.headers["Content-Security-Policy"] = policy(bytes(swagger.body).decode(), *sources)
        return swagger

    return routes


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


def _verdict(served: ServedModel) -> Verdict | None:
    if served.loaded is None or served.folder is None:
        return None
    verdict = served.folder.verdict
    return Verdict(outcome=verdict.outcome, reasons=list(verdict.reasons), at=verdict.at)


def _refused(served: ServedModel) -> RefusedVersion | None:
    refusal = served.refusal
    return RefusedVersion(version=refusal.version, reason=refusal.reason, at=refusal.at) if refusal else None
