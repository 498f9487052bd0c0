"""The HTTP routes, as an app that BentoML mounts at `/`."""

import asyncio
import secrets

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from serving import errors
from serving.engine import Generation, PromptTooLongError, Sampling
from serving.errors import ApiError
from serving.schema import About, ErrorAnswer, GenerateAnswer, GenerateRequest, Health, Usage
from serving.served_model import Loaded, ServedModel

_DISCONNECT_CHECK_SECONDS = 0.25
_CLIENT_CLOSED_REQUEST = 499  # nobody reads it, but the access log and the metrics have it
_ERRORS: dict[int | str, dict[str, object]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request is at fault; 429: come back later"},
    "5XX": {"model": ErrorAnswer, "description": "The service is at fault, is loading, or took too long"},
}


def make_app(name: str, served: ServedModel) -> FastAPI:
    """Return the app named `name` that answers with `served`."""
    # BentoML has a specification of its own at /docs.json, which takes these routes in.
    app = FastAPI(title=name, openapi_url=None, docs_url=None, redoc_url=None)
    errors.install(app)

    @app.get("/", summary="What is served here")
    async def about() -> About:
        """Say which model is served, from where and why."""
        loaded, folder = served.loaded, served.folder
        return About(
            name=name,
            status=served.status,
            model=loaded.version if loaded else None,
            data=loaded.data if loaded else None,
            folder=str(folder.path) if folder else None,
            why=folder.why if folder else None,
            engine=loaded.engine.name if loaded else None,
        )

    @app.get("/health", summary="Whether it can generate", responses=_ERRORS)
    async def health() -> Health:
        """Answer 200 when a model is loaded, else 503."""
        loaded = _loaded(served)
        return Health(status=served.status, model=loaded.version, data=loaded.data)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Show the specification, with what BentoML brings along: nothing is fetched from elsewhere."""
        return get_swagger_ui_html(
            openapi_url="/docs.json",
            title=name,
            swagger_js_url="/static_content/swagger-ui-bundle.js",
            swagger_css_url="/static_content/swagger-ui.css",
            swagger_favicon_url="/static_content/favicon-light-32x32.png",
        )

    @app.post("/generate", summary="Write on from a prompt", responses=_ERRORS)
    @app.post("/generate/", include_in_schema=False)
    async def generate(wanted: GenerateRequest, request: Request) -> GenerateAnswer:
        """Write on from a prompt."""
        loaded = _loaded(served)
        sampling = Sampling(
            max_new_tokens=wanted.max_new_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            top_k=wanted.top_k,
            repetition_penalty=wanted.repetition_penalty,
            seed=secrets.randbits(32) if wanted.seed is None else wanted.seed,
            stop=tuple(wanted.stop or ()),
        )
        generation = await _generation(served, loaded, wanted.prompt, sampling, request)
        return GenerateAnswer(
            text=generation.text,
            finish_reason=generation.finish_reason,
            usage=Usage(prompt_tokens=generation.prompt_tokens, completion_tokens=generation.completion_tokens),
            model=loaded.version,
            data=loaded.data,
            seed=sampling.seed,
            engine=loaded.engine.name,
        )

    return app


def _loaded(served: ServedModel) -> Loaded:
    """Return the loaded model, or say that there is none."""
    if served.loaded is not None:
        return served.loaded
    if served.status == "failed":
        raise ApiError(503, "the model could not be loaded; the service's log says why", code="model_failed")
    raise ApiError(503, "the model is still being loaded", code="model_loading", headers={"Retry-After": "1"})


async def _generation(
    served: ServedModel, loaded: Loaded, prompt: str, sampling: Sampling, request: Request
) -> Generation:
    """Return what the model writes; the work ends early when the client goes away or BentoML's timeout cancels this."""
    work = asyncio.create_task(served.generate(loaded, prompt, sampling))
    try:
        while not (await asyncio.wait({work}, timeout=_DISCONNECT_CHECK_SECONDS))[0]:
            if await request.is_disconnected():
                raise ApiError(_CLIENT_CLOSED_REQUEST, "the client went away", code="client_closed_request")
        return await work
    except PromptTooLongError as error:
        raise ApiError(400, str(error), code="context_length_exceeded", param="max_new_tokens") from None
    finally:
        work.cancel()
