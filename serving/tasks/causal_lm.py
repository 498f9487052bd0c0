"""The HTTP routes, as an app that BentoML mounts at `/`."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from serving import errors, generation, openai, playground
from serving.body import BoundedRoute
from serving.engines.protocol import FinishReason
from serving.generation import Generation
from serving.http_rules import policy, wants_page
from serving.schema import (
    About,
    GenerateAnswer,
    GenerateRequest,
    Health,
    RefusedVersion,
    Usage,
    errors_of,
    generated,
)
from serving.served_model import ServedModel
from serving.streaming import EventStream, UntilAnswered, unless_gone

TITLE = "Text generation"  # of the specification, and so of Swagger's page
VERSION = "1.0"  # of the routes and their bodies; the model's version is in every answer
TAG = "Generation"

_EVENTS = """data: {"text":" there was"}

data: {"text":"","finish_reason":"length","usage":{"prompt_tokens":5,"completion_tokens":2},"model":"0123456789ab",\
"data":null,"seed":1,"engine":"int8"}

data: [DONE]

"""


def make_app(name: str, served: ServedModel) -> FastAPI:
    """Return the app named `name` that answers with `served`."""
    # BentoML has a specification of its own at /docs.json, which takes these routes in.
    app = FastAPI(title=name, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.route_class = BoundedRoute
    errors.install(app)

    page = playground.response()

    @app.get("/", summary="What is served here", response_model=About, responses=errors_of(), tags=[TAG])
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
            why=folder.why if folder else None,
            engine=loaded.engine.name if loaded else None,
            context=loaded.engine.context if loaded else None,
            models=served.names(),
            refused=_refused(served),
            swaps=served.swaps,
        )

    @app.get("/health", summary="Whether it can generate", responses=errors_of(), tags=[TAG])
    async def health() -> Health:
        """Answer 200 when a model is loaded, else 503."""
        async with served.take() as loaded:
            return Health(status=served.status, model=loaded.version, data=loaded.data, refused=_refused(served))

    app.include_router(openai.router(served), tags=[TAG])
    app.include_router(playground.router())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Show the specification, with what BentoML brings along: nothing is fetched from elsewhere."""
        swagger = get_swagger_ui_html(
            openapi_url="/docs.json",
            title=TITLE,
            swagger_js_url="/static_content/swagger-ui-bundle.js",
            swagger_css_url="/static_content/swagger-ui.css",
            swagger_favicon_url="/static_content/favicon-light-32x32.png",
        )
        sources = (
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
        )  # Swagger writes styles
        swagger.headers["Content-Security-Policy"] = policy(bytes(swagger.body).decode(), *sources)
        return swagger

    @app.post(
        "/generate",
        summary="Write on from a prompt",
        response_model=GenerateAnswer,
        responses={**generated(_EVENTS), **errors_of(404, 504)},
        tags=[TAG],
    )
    @app.post("/generate/", include_in_schema=False)
    async def generate(wanted: GenerateRequest, request: Request, until_answered: UntilAnswered) -> Response:
        """Write on from a prompt: all at once, or with `stream` as it is being written."""
        loaded = await until_answered.enter_async_context(served.take(wanted.model))
        ids = await generation.encode(loaded.engine, wanted.prompt)
        by_default = "max_new_tokens" not in wanted.model_fields_set
        job = generation.start(loaded, ids, wanted.sampling(), tuple(wanted.stop or ()), by_default=by_default)
        until_answered.callback(job.cancel)
        if wanted.stream:
            return await EventStream.begun(request, _events(job), job.headers())
        answer = _answer(job, *await unless_gone(request, job.text()))
        headers = {**job.headers(), "X-Completion-Tokens": str(job.completion_tokens)}
        return Response(answer.model_dump_json(), media_type="application/json", headers=headers)

    return app


async def _events(job: Generation) -> AsyncIterator[dict[str, Any]]:
    """Yield the text as it is being written, and at the end what made it."""
    async for piece in job:
        if piece.text:
            yield {"text": piece.text}
        if piece.finish_reason:
            yield _answer(job, "", piece.finish_reason).model_dump()


def _answer(job: Generation, text: str, reason: FinishReason) -> GenerateAnswer:
    return GenerateAnswer(
        text=text,
        finish_reason=reason,
        usage=Usage(prompt_tokens=job.prompt_tokens, completion_tokens=job.completion_tokens),
        model=job.loaded.version,
        data=job.loaded.data,
        seed=job.seed,
        engine=job.loaded.engine.name,
    )


def _refused(served: ServedModel) -> RefusedVersion | None:
    """Return the version that was not taken over, if there is one."""
    refused = served.refused
    return RefusedVersion(version=refused.version, reason=refused.reason, at=refused.at) if refused else None
