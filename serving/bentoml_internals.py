"""The private names of BentoML that the service uses, so that an upgrade breaks here and nowhere else.

tests/serving/test_bentoml_internals.py checks each of them.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.context import server_context
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from bentoml._internal.server.metrics.prometheus import PrometheusClient
from bentoml._internal.service.openapi.specification import OpenAPISpecification
from bentoml._internal.utils.analytics import usage_stats
from bentoml.images import Image
from opentelemetry.trace import Tracer

__all__ = ["OpenAPISpecification", "TimeoutMiddleware"]


def worker_index() -> int | None:
    """Return the number of this worker; None in the master and in a build."""
    index: int | None = server_context.worker_index
    return index


def reread_do_not_track() -> None:
    """Have BentoML read BENTOML_DO_NOT_TRACK again; its command line has read it before service.py is imported."""
    usage_stats.do_not_track.cache_clear()


def configured_address() -> tuple[str, int]:
    """Return host and port of `bentoml serve` where its command line names none."""
    return BentoMLContainer.http.host.get(), BentoMLContainer.http.port.get()


def home() -> Path:
    """Return BENTOML_HOME."""
    return Path(BentoMLContainer.bentoml_home.get())


def bento_store() -> Path:
    """Return the folder of all bentos."""
    return Path(BentoMLContainer.bento_store_dir.get())


def tracer(name: str) -> Tracer:
    """Return a tracer of BentoML's provider, which samples nothing unless configured."""
    made: Tracer = BentoMLContainer.tracer_provider.get().get_tracer(name)
    return made


def set_metrics_folder(folder: Path) -> None:
    """Have BentoML clear `folder` when it starts, instead of the one that all servers share."""
    BentoMLContainer.prometheus_multiproc_dir.set(str(folder))


def keep_metrics_in_memory() -> None:
    """Have BentoML's metrics use no files."""
    BentoMLContainer.metrics_client.set(PrometheusClient(multiproc=False))


def replace_arbiter(create: Callable[..., Any]) -> bool:
    """Have `bentoml serve` make its supervisor with `create`; return False where this version of BentoML does not."""
    from _bentoml_impl.server import serve_http
    from bentoml._internal.utils import circus  # not at import: workers need no circus

    names = inspect.unwrap(serve_http).__code__.co_names
    if circus.__name__ not in names or "create_standalone_arbiter" not in names:
        return False
    circus.create_standalone_arbiter = create
    return True


def make_arbiter(watchers: list[Any], *, threaded: bool, **options: Any) -> Any:
    """Return a supervisor of circus, as BentoML uses it."""
    from bentoml._internal.utils import circus

    return (circus.ThreadedArbiter if threaded else circus.Arbiter)(watchers, **options)


def packed_files(context: Path, bentofile: str) -> list[str]:
    """Return the names of the files in `context` that its `bentofile` packs; raises BentoMLException."""
    from bentoml._internal.bento.build_config import BentoBuildConfig, BentoPathSpec

    config = BentoBuildConfig.from_file(str(context / bentofile)).with_defaults()
    spec = BentoPathSpec(config.include, config.exclude, str(context))
    files = [path.relative_to(context).as_posix() for path in sorted(context.rglob("*")) if path.is_file()]
    return [name for name in files if spec.includes(name)]


@attrs.define
class OwnRequirementsImage(Image):
    """An image whose subclass writes its requirements: BentoML would first install uv into the caller's environment."""

    def write_requirements(self, bento: Path) -> str:
        """Return the content of the bento's requirements.txt, and put what it refers to beside it."""
        raise NotImplementedError

    def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:
        return self.write_requirements(bento_fs)
