"""The bento's environment; its making is BentoML's one hook at build time, so what was packed is checked here."""

import shutil
from pathlib import Path
from typing import Any

from bentoml.exceptions import BentoMLException
from bentoml.images import Image

from serving import model_folder


class CheckedImage(Image):
    """BentoML's image: refuses a bento without a whole model, and holds its packages to constraints.txt."""

    def freeze(self, bento_fs: Path, *rest: Any, **options: Any) -> Any:
        """Check the bento that was packed in `bento_fs`, then write its environment."""
        try:
            model_folder.check_packed(bento_fs / "src")
        except BentoMLException:
            shutil.rmtree(bento_fs)  # BentoML leaves a bento that failed behind, with its copy of the model
            raise
        return super().freeze(bento_fs, *rest, **options)

    def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:
        """Return the requirements; BentoML's own method would first install uv into the caller's environment."""
        python = bento_fs / "env" / "python"  # copied into the image before packages are installed there
        python.mkdir(parents=True)
        shutil.copy(bento_fs / "src" / "constraints.txt", python)
        return f"{self.python_requirements}-c constraints.txt\n"
