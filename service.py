"""The BentoML service `gpt2`: `bentoml serve`, `bentoml build`. Everything it does is in `serving/`."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import attrs
import bentoml
from bentoml._internal.context import server_context
from bentoml._internal.utils.analytics import usage_stats
from starlette.types import ASGIApp

from serving import access, errors, http_server, model_folder, proxies, request_timeout, supervisor, telemetry
from serving.bento_image import CheckedImage
from serving.engines.protocol import Engine
from serving.http_rules import HttpRulesMiddleware
from serving.keys import Keys
from serving.served_model import ServedModel
from serving.settings import LIMITS, ROOT
from serving.shutdown import GracefulShutdown
from serving.tasks import causal_lm

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
usage_stats.do_not_track.cache_clear()  # the command line has asked before it came here
telemetry.configure_logging()

NAME = "gpt2"
_LOADING_SECONDS = 10  # in which a worker takes no requests, so that one that was started again tells nobody to wait
_SPARE_SECONDS = 10  # BentoML's own time limit, behind ours: it would end a request without a word of what it was

# A server without a model, or a build, ends here with one sentence. Not so a worker: BentoML would start it again and
# again, so it starts, answers 503 and logs why.
if server_context.worker_index is None:
    supervisor.install()
    model_folder.find(ROOT)
else:
    http_server.install()


def _make_engine(folder: Path) -> Engine:
    from serving.engines import selection  # torch, which BentoML's master has no use for

    return selection.make(folder, LIMITS.engine)


served = ServedModel(ROOT, _make_engine)
_specifications: dict[bool, access.ServedSpecification] = {}  # with and without keys


def _our_specification(bentomls: Any) -> Any:
    """Return BentoML's specification with our title and version, our routes first, and the version of its words."""
    ours = causal_lm.TAG
    infrastructure = [tag for tag in bentomls.tags if tag.name == "Infrastructure"]
    return attrs.evolve(
        bentomls,
        openapi="3.1.0",
        info=attrs.evolve(bentomls.info, title=causal_lm.TITLE, version=causal_lm.VERSION, contact=None),
        tags=[attrs.evolve(infrastructure[0], name=ours, description="Texts, and what writes them."), *infrastructure],
    )


class TextService(bentoml.Service[Any]):
    """BentoML's service behind our doors, with its own errors (404, 504 …) in the shape that ours have."""

    @property
    def openapi_spec(self) -> Any:
        """The specification; FastAPI's part of it is in the words of 3.1, which BentoML would call 3.0.2."""
        if server_context.worker_index is None:  # a build writes it down, for whoever will have which keys
            return _our_specification(super().openapi_spec)
        keyed = bool(Keys())
        if keyed not in _specifications:
            specification = _our_specification(super().openapi_spec)
            _specifications[keyed] = access.ServedSpecification(specification, keyed)
        return _specifications[keyed]

    @property
    def doc(self) -> str:
        """The text above the specification; BentoML's own has pictures that a browser would fetch from other hosts."""
        return "A fine-tuned GPT-2 behind HTTP: POST a prompt to /generate, and it writes on."

    def inject_config(self) -> None:
        """Refuse to start where anyone could come in: only here it is known where the service will be bound."""
        super().inject_config()
        access.check_start()

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Wrap the whole app: middleware that is added to a service sits inside of what answers 404 and 504."""
        self.add_asgi_middleware(telemetry.RestorePathMiddleware)
        inner: Any = super().to_asgi(is_main)
        telemetry.trace_whole_requests(inner)
        request_timeout.install(inner)
        guarded = HttpRulesMiddleware(
            errors.ErrorFormatMiddleware(GracefulShutdown(access.wrap(inner), LIMITS.drain_seconds))
        )
        return proxies.TrustedProxiesMiddleware(
            telemetry.TelemetryMiddleware(guarded, inner.routes), proxies.trusted_networks()
        )


@bentoml.service(
    name=NAME,
    service_class=TextService,
    image=CheckedImage(),
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
    traffic={"timeout": LIMITS.timeout + _SPARE_SECONDS},
    http={"host": "127.0.0.1"},  # wider needs API keys, see serving/access.py
    logging={"access": {"enabled": False}},  # ours has no paths in it, see serving/telemetry.py
)
@bentoml.asgi_app(causal_lm.make_app(NAME, served), path="/")
class Gpt2:
    """A fine-tuned GPT-2 behind HTTP: POST a prompt to /generate, and it writes on."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start loading, then follow the champion; until a model is there the service answers 503."""
        self._running = asyncio.create_task(served.run())
        await served.settled(_LOADING_SECONDS)

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
