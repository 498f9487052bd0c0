"""The BentoML service `gpt2`: `bentoml serve`, `bentoml build`. Everything it does is in `serving/`."""

import asyncio
import os
from pathlib import Path
from typing import Any

import bentoml
from bentoml._internal.context import server_context
from bentoml._internal.utils.analytics import usage_stats
from starlette.types import ASGIApp

from serving import errors, model_folder, routes
from serving.bento_image import CheckedImage
from serving.engine import Engine
from serving.limits import LIMITS, ROOT
from serving.served_model import ServedModel

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
usage_stats.do_not_track.cache_clear()  # the command line has asked before it came here

NAME = "gpt2"

# A server without a model, or a build, ends here with one sentence. Not so a worker: BentoML would start it again and
# again, so it starts, answers 503 and logs why.
if server_context.worker_index is None:
    model_folder.find(ROOT)


def _make_engine(folder: Path) -> Engine:
    from serving.transformers_engine import TransformersEngine  # torch, which BentoML's master has no use for

    return TransformersEngine(folder)


served = ServedModel(ROOT, _make_engine)


class OneErrorShape(bentoml.Service[Any]):
    """BentoML's service, with its own errors (404, 429, 504 …) in the shape that ours have."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Wrap the whole app: middleware that is added to a service sits inside of what answers 429 and 504."""
        return errors.ErrorShape(super().to_asgi(is_main))


@bentoml.service(
    name=NAME,
    service_class=OneErrorShape,
    image=CheckedImage(),
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
    traffic={"timeout": LIMITS.timeout, "max_concurrency": LIMITS.max_concurrency},
)
@bentoml.asgi_app(routes.make_app(NAME, served), path="/")
class Gpt2:
    """A fine-tuned GPT-2 behind HTTP: POST a prompt to /generate, and it writes on."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def load(self) -> None:
        """Start loading; meanwhile the service answers 503."""
        self._loading = asyncio.create_task(served.load())

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Stop."""
        self._loading.cancel()
        served.close()

    async def __is_ready__(self) -> bool:
        """Answer /readyz."""
        return served.loaded is not None
