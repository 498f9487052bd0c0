"""The bento's environment. Making it is BentoML's one hook at build time, so the packed files are checked here."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from bentoml.exceptions import BentoMLException
from safetensors import SafetensorError, safe_open

from pipeline import paths
from serving import model_folder, settings, tasks
from serving.bentoml_internals import OwnRequirementsImage

# No proxy of the environment: it cannot reach the container's own port.
_PROBE = (
    "from urllib.request import ProxyHandler, build_opener; "
    "build_opener(ProxyHandler({})).open('http://127.0.0.1:3000/readyz', timeout=5)"
)
# BentoML's template of the Dockerfile ends its part for us with lines of RUN, so these instructions hide in one.
# The first overrides one of the template's, which bentofile.yaml cannot: all writes go to /tmp, so that the rest can be
# read-only. Kubernetes and compose have probes of their own; buildah drops the second unless BUILDAH_FORMAT=docker.
_INSTRUCTIONS = f"""true

ENV BENTOML_HOME=/tmp/bentoml

HEALTHCHECK --interval=10s --timeout=6s --start-period=120s CMD ["python", "-c", "{_PROBE}"]"""

_PINS = ("constraints.txt", "requirements.lock")  # versions; hashes of all but torch, which uv checks as constraints


@attrs.define
class CheckedImage(OwnRequirementsImage):
    """BentoML's image: refuses a bento without a complete model, and pins its packages to the lock."""

    base_image: str = "python:3.11-slim-bookworm"
    distro: str = "any"  # for a distribution that it knows, BentoML would install a compiler, git and GnuPG

    def freeze(self, bento_fs: Path, *rest: Any, **options: Any) -> Any:
        """Check the bento that was packed in `bento_fs`, then write its environment."""
        try:
            _check_model(bento_fs / "src")
        except BentoMLException:
            shutil.rmtree(bento_fs)  # BentoML leaves a failed bento behind, with its copy of the model
            raise
        self.post_commands.append(_INSTRUCTIONS)
        return super().freeze(bento_fs, *rest, **options)

    def write_requirements(self, bento: Path) -> str:
        """Return the requirements, pinned by files that are copied into the image before packages are installed."""
        python = bento / "env" / "python"
        python.mkdir(parents=True)
        for name in _PINS:
            shutil.copy(bento / "src" / name, python)
        pins = "".join(f"-c {name}\n" for name in _PINS)
        return f"--extra-index-url ${{TORCH_INDEX}}\n{self.python_requirements}{pins}"


def _check_model(source: Path) -> None:
    """Raise BentoMLException unless the model in a bento's sources is there, and its weights are not truncated."""
    model_folder.check_packed(source, partial(tasks.unsuitable_reason, settings.load_params(source).task))
    weights = paths.CANDIDATE / "model.safetensors"
    try:
        with safe_open(source / weights, "np"):  # reads the header alone
            pass
    except SafetensorError as error:
        raise BentoMLException(f"no model to pack: {weights} is damaged ({error}); make it with `dvc repro`") from None
