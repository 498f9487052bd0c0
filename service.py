"""The BentoML service `gpt2`: `bentoml serve`, `bentoml build`. Everything it does is in `serving/`."""

import asyncio
import os
from pathlib import Path

import bentoml
from bentoml._internal.context import server_context

from serving import errors, model_folder, routes
from serving.bento_image import CheckedImage
from serving.engine import Engine
from serving.limits import LIMITS, ROOT
from serving.served_model import ServedModel

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

NAME = "gpt2"
_BACKSTOP_SECONDS = 5  # the routes' own timeout answers first, in the shape that errors have here

# A server without a model, or a build, ends here with one sentence. Not so a worker: BentoML would start it again and
# again, so it starts, answers 503 and logs why.
if server_context.worker_index is None:
    model_folder.find(ROOT)


def _make_engine(folder: Path) -> Engine:
    from serving.transformers_engine import TransformersEngine  # torch, which BentoML's master has no use for

    return TransformersEngine(folder)


served = ServedModel(ROOT, _make_engine, LIMITS.max_concurrency)


# No max_concurrency here: BentoML's would count the health routes, too, and answers in another shape, without
# Retry-After. The routes hold to params.yaml's.
@bentoml.service(
    name=NAME,
    image=CheckedImage(),
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
    traffic={"timeout": LIMITS.timeout + _BACKSTOP_SECONDS},
)
@bentoml.asgi_app(routes.make_app(NAME, served, LIMITS.timeout), path="/")
class Gpt2:
    """A fine-tuned GPT-2 behind HTTP: POST a prompt to /generate, and it writes on."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]  # bentoml is not typed for mypy
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


Gpt2.add_asgi_middleware(errors.ErrorShape)
