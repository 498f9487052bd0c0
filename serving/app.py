"""The HTTP routes as an app that BentoML mounts at `/`: those of every task here, then those of the project's task."""

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from pipeline.params import Service
from serving import errors, tasks
from serving.body import BoundedRoute
from serving.engines.protocol import EngineT
from serving.errors import ApiError
from serving.http_rules import policy, wants_page
from serving.model_loader import LoadedModel
from serving.model_verdict import ModelVerdict
from serving.openai_schema import Model, Models
from serving.schema import About, Health, RefusedVersion, ServedAdapter, Verdict, about_model, errors_of
from serving.served_model import ServedModel
from serving.tasks import ServingTask

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def make_app(task_name: str, served: ServedModel[EngineT], settings: Service) -> FastAPI:
    """Return the app of the task called `task_name` in params.yaml, which answers with `served`."""
    task: ServingTask[EngineT] = tasks.get_task(task_name)
    # BentoML has a specification of its own at /docs.json, which includes these routes.
    app = FastAPI(title=task.service_name, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.route_class = BoundedRoute
    errors.install(app)
    page = task.page(settings)
    tag, _ = task.tag
    for router in (_status_routes(task, served, page), _model_routes(served), *task.routers(served, settings)):
        app.include_router(router, tags=[tag])
    app.include_router(_pages(task, page))
    app.include_router(_routes_of_other_tasks(task_name, task))
    return app


def _status_routes(task: ServingTask[EngineT], served: ServedModel[EngineT], page: HTMLResponse) -> APIRouter:
    routes = APIRouter(route_class=BoundedRoute)
    about_type = about_model(task.routes)

    @routes.get("/", summary="The service and its model", response_model=about_type, responses=errors_of())
    async def about(request: Request, response: Response) -> About | Response:
        """Say which model is served, from where and why; a browser gets the playground."""
        if wants_page(request.scope):
            return page
        response.headers["Vary"] = "Accept"
        loaded, folder = served.loaded, served.folder
        return about_type(
            name=task.service_name,
            status=served.status,
            model=loaded.version if loaded else None,
            data=loaded.data if loaded else None,
            folder=str(folder.path) if folder else None,
            why=folder.why if folder else served.waiting_for,
            verdict=_verdict(folder.verdict) if loaded and folder else None,
            engine=loaded.engine.name if loaded else None,
            context=loaded.engine.context if loaded else None,
            models=served.names(),
            adapters={name: _adapter(*state) for name, state in served.adapters.state.items()},
            prompts=list(folder.prompts) if loaded and folder else [],
            refused=_refused(served),
            swaps=served.swaps,
        )

    @routes.get("/health", summary=f"Whether it can {task.ability}", responses=errors_of())
    async def health() -> Health:
        """Answer 200 when a model is loaded, else 503 with the reason."""
        async with served.acquire() as loaded:
            return Health(
                status=served.status,
                model=loaded.version,
                data=loaded.data,
                engine=loaded.engine.name,
                verdict=_verdict(served.folder.verdict) if served.folder else None,
                refused=_refused(served),
            )

    return routes


def _model_routes(served: ServedModel[EngineT]) -> APIRouter:
    """Return OpenAI's routes for models."""
    routes = APIRouter(prefix="/v1", route_class=BoundedRoute)

    @routes.get("/models", summary="List models", responses=errors_of())
    async def models() -> Models:
        """List the served model's version, and the names that may stand for another version later."""
        async with served.acquire():
            return Models(data=[_model(name) for name in served.names()])

    @routes.get("/models/{model}", summary="Look up a model", responses=errors_of(404))
    async def model(model: str) -> Model:
        """Return the model with this name."""
        async with served.acquire():
            names = served.names()
        if model not in names:
            message = f"there is no such model; there are {', '.join(names)}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return _model(model)

    return routes


def _pages(task: ServingTask[EngineT], page: HTMLResponse) -> APIRouter:
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
            title=task.title,
            swagger_js_url="/static_content/swagger-ui-bundle.js",
            swagger_css_url="/static_content/swagger-ui.css",
            swagger_favicon_url="/static_content/favicon-light-32x32.png",
        )
        sources = ("style-src 'self' 'unsafe-inline'", "img-src 'self' data:")  # Swagger sets inline styles
        swagger.headers["Content-Security-Policy"] = policy(bytes(swagger.body).decode(), *sources)
        return swagger

    return routes


def _routes_of_other_tasks(name: str, task: ServingTask[EngineT]) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    async def refuse() -> None:
        """Name this project's task to clients of another one."""
        own = " or ".join(task.routes)
        raise ApiError(404, f"this project's task is {name}; POST {own}", code="other_task")

    for path in tasks.routes_of_other_tasks(name):
        routes.add_api_route(path, refuse, methods=_METHODS)
    return routes


def _model(name: str) -> Model:
    return Model(id=name, created=0, owned_by="fresh-gpt2")


def _verdict(verdict: ModelVerdict) -> Verdict:
    return Verdict(outcome=verdict.outcome, reasons=list(verdict.reasons), at=verdict.at)


def _adapter(loaded: LoadedModel[EngineT] | None, refused: str | None) -> ServedAdapter:
    return ServedAdapter(
        model=loaded.version if loaded else None,
        data=loaded.data if loaded else None,
        why=loaded.folder.why if loaded else None,
        verdict=_verdict(loaded.folder.verdict) if loaded else None,
        refused=refused,
    )


def _refused(served: ServedModel[EngineT]) -> RefusedVersion | None:
    refusal = served.refusal
    return RefusedVersion(version=refusal.version, reason=refusal.reason, at=refusal.at) if refusal else None
