"""The bento's environment; its making is BentoML's one hook at build time, so what was packed is checked here."""

import shutil
from pathlib import Path
from typing import Any

import attrs
from bentoml.exceptions import BentoMLException
from bentoml.images import Image
from safetensors import SafetensorError, safe_open

from pipeline import paths
from serving import model_folder

# BentoML's template of the Dockerfile ends its part for us with lines of RUN, so these instructions hide in one.
# The first replaces one of the template's (in bentofile.yaml it would be without effect): all that is written goes to
# /tmp, so that the rest can be read-only. Kubernetes and compose have probes of their own; buildah leaves the second
# out unless BUILDAH_FORMAT=docker.
# No proxy that the environment names: it cannot reach the container's own port.
_PROBE = (
    "from urllib.request import ProxyHandler, build_opener; "
    "build_opener(ProxyHandler({})).open('http://127.0.0.1:3000/readyz', timeout=5)"
)
_INSTRUCTIONS = f"""true

ENV BENTOML_HOME=/tmp/bentoml

HEALTHCHECK --interval=10s --timeout=6s --start-period=120s CMD ["python", "-c", "{_PROBE}"]"""

_PINS = ("constraints.txt", "requirements.lock")  # versions; hashes of all but torch, which uv checks as constraints


@attrs.define
class CheckedImage(Image):
    """BentoML's image: refuses a bento without a whole model, and holds its packages to the lock."""

    base_image: str = "python:3.11-slim-bookworm"
    distro: str = "any"  # by a name that it knows BentoML would install a compiler, git and GnuPG: of no use here

    def freeze(self, bento_fs: Path, *rest: Any, **options: Any) -> Any:
        """Check the bento that was packed in `bento_fs`, then write its environment."""
        try:
            _check(bento_fs / "src")
        except BentoMLException:
            shutil.rmtree(bento_fs)  # BentoML leaves a bento that failed behind, with its copy of the model
            raise
        self.post_commands.append(_INSTRUCTIONS)
        return super().freeze(bento_fs, *rest, **options)

    def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:
        """Return the requirements; BentoML's own method would first install uv into the caller's environment."""
        python = bento_fs / "env" / "python"  # copied into the image before packages are installed there
        python.mkdir(parents=True)
        for name in _PINS:
            shutil.copy(bento_fs / "src" / name, python)
        pins = "".join(f"-c {name}\n" for name in _PINS)
        return f"--extra-index-url ${{TORCH_INDEX}}\n{self.python_requirements}{pins}"


def _check(source: Path) -> None:
    """Raise BentoMLException unless the model in a bento's sources is there, and its weights end where they should."""
    model_folder.check_packed(source)
    weights = paths.CANDIDATE / "model.safetensors"
    try:
        with safe_open(source / weights, "np"):  # reads the header alone
            pass
    except SafetensorError as error:
        raise BentoMLException(f"no model to pack: {weights} is damaged ({error}); make it with `dvc repro`") from None
