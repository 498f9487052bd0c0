"""The BentoML service of the project's task: `bentoml serve`, `bentoml build`. Its parts are in `serving/`."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

import bentoml
from starlette.types import ASGIApp

from serving import (
    access,
    app,
    bentoml_internals,
    errors,
    http_server,
    logs,
    metrics,
    model_folder,
    proxies,
    request_timeout,
    settings,
    specification,
    startup_checks,
    supervisor,
    tasks,
    telemetry,
)
from serving.bento_image import CheckedImage
from serving.http_rules import HttpRulesMiddleware
from serving.keys import Keys
from serving.served_model import ServedModel
from serving.shutdown import GracefulShutdown
from serving.specification import ServedSpecification

PARAMS = settings.load_params(settings.ROOT)
SETTINGS = PARAMS.service
TASK = tasks.get_task(PARAMS.task)
_LOADING_SECONDS = 10  # before a worker takes requests, so that a restarted one does not answer 503
_SPARE_SECONDS = 10  # by which BentoML's own timeout, which names no cause, is longer than ours

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
bentoml_internals.reread_do_not_track()
logs.configure_logging()
metrics.service_metrics()

_kind = tasks.model_kind(PARAMS.task, settings.engine_settings(SETTINGS, settings.ROOT))

# A server or a build without a model ends here with one sentence. A worker starts nevertheless, answers 503 and logs
# the reason, since BentoML would restart it again and again.
limit_server_shutdown: Callable[[int], None] | None = None
if bentoml_internals.worker_index() is None:
    supervisor.install()
    with contextlib.suppress(model_folder.CandidateWithheld):  # the workers wait for a champion, and log what to do
        model_folder.find(settings.ROOT, _kind.unsuitable_reason, serve_candidate=SETTINGS.serve_candidate)
else:
    limit_server_shutdown = http_server.install(SETTINGS)


served = ServedModel(settings.ROOT, _kind, SETTINGS)
_specifications: dict[bool, ServedSpecification] = {}  # with and without keys


class TextService(bentoml.Service[Any]):
    """BentoML's service behind access control, with its own errors (404, 504 …) in our format."""

    @property
    def openapi_spec(self) -> Any:
        """The specification at /docs.json."""
        if bentoml_internals.worker_index() is None:  # a build, which does not know whether keys will be required
            return specification.customize(super().openapi_spec, TASK)
        requires_key = bool(Keys())
        if requires_key not in _specifications:
            customized = specification.customize(super().openapi_spec, TASK)
            _specifications[requires_key] = ServedSpecification(customized, requires_key)
        return _specifications[requires_key]

    @property
    def doc(self) -> str:
        """The description in the specification; BentoML's own has pictures that a browser would fetch elsewhere."""
        return TASK.description

    def inject_config(self) -> None:
        """Check the configuration before the start: only here is it known which address the service binds."""
        super().inject_config()
        startup_checks.check(SETTINGS)

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Wrap the whole app: middleware that is added to a service sits inside what answers 404 and 504."""
        self.add_asgi_middleware(telemetry.RestorePathMiddleware)
        inner: Any = super().to_asgi(is_main)
        telemetry.trace_whole_requests(inner)
        request_timeout.install(inner)
        guarded = GracefulShutdown(access.wrap(inner, SETTINGS), SETTINGS.drain_seconds, limit_server_shutdown)
        formatted = HttpRulesMiddleware(errors.ErrorFormatMiddleware(guarded))
        observed = telemetry.TelemetryMiddleware(formatted, inner.routes)
        return proxies.TrustedProxiesMiddleware(observed, proxies.trusted_networks(SETTINGS))


@bentoml.service(
    name=TASK.service_name,
    service_class=TextService,
    description=TASK.description,
    image=CheckedImage(),
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
    traffic={"timeout": SETTINGS.timeout + _SPARE_SECONDS},
    http={"host": "127.0.0.1"},  # other machines need API keys, see serving/access.py
    logging={"access": {"enabled": False}},  # ours has no paths in it, see serving/telemetry.py
)
@bentoml.asgi_app(app.make_app(PARAMS.task, served, SETTINGS), path="/")
class ModelService:
    """The model of the project's task behind HTTP."""

    __doc__ = TASK.description  # which BentoML shows

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start loading, then follow the champion; until a model is loaded the service answers 503."""
        self._running = asyncio.create_task(served.run())
        await served.wait_for_first_attempt(_LOADING_SECONDS)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Stop."""
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        await served.close()

    async def __is_ready__(self) -> bool:
        """Answer /readyz."""
        return served.loaded is not None
