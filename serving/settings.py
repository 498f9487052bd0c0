"""The service's settings: section `service` of the params.yaml beside service.py, and the environment for engines."""

import os
from dataclasses import dataclass
from pathlib import Path

from bentoml.exceptions import BentoMLException

from pipeline import params, paths
from pipeline.command import UserError
from pipeline.params import Params, Service

ROOT = Path(__file__).absolute().parent.parent  # of the checkout, or of the bento's copy of it


@dataclass(frozen=True)
class EngineSettings:
    """Which engine runs a model, and what it needs to know."""

    name: str  # as in params.yaml
    max_concurrency: int
    timeout: float  # seconds for a whole request
    cache: Path  # where comparisons and converted models are kept; it need not exist
    vllm_python: str | None = None
    vllm_args: str = ""  # more arguments of vLLM's server, quoted as in a shell
    adapters: int = 0  # how many LoRA adapters the model is to serve


def load(root: Path) -> Service:
    """Return the settings in the params.yaml of `root`; raises BentoMLException."""
    return load_params(root).service


def load_params(root: Path) -> Params:
    """Return the params.yaml of `root`; raises BentoMLException."""
    try:
        return params.load(root / paths.PARAMS)
    except UserError as error:
        raise BentoMLException(str(error)) from None  # the one kind that `bentoml` prints without a traceback


def engine_settings(service: Service, root: Path) -> EngineSettings:
    """Return the engine's part of the settings, with ENGINES_DIR, VLLM_PYTHON and VLLM_ARGS of the environment."""
    return EngineSettings(
        name=service.engine,
        max_concurrency=service.max_concurrency,
        timeout=service.timeout,
        cache=_engine_cache(root),
        vllm_python=os.environ.get("VLLM_PYTHON"),
        vllm_args=os.environ.get("VLLM_ARGS", ""),
        adapters=len(service.adapters),
    )


def is_bento(root: Path) -> bool:
    """Return whether `root` holds the sources of a bento."""
    return root.name == "src" and (root.parent / "bento.yaml").is_file()


def _engine_cache(root: Path) -> Path:
    """Return ENGINES_DIR, else a folder in the project's registry or, in a bento, in the user's cache."""
    if folder := os.environ.get("ENGINES_DIR"):
        return Path(folder)
    if is_bento(root):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fresh-gpt2" / "engines"
    return root / paths.REGISTRY / "engines"
