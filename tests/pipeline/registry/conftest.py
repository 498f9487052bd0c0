"""A registry in a project and a BentoML home of its own."""

from pathlib import Path

import pytest

from pipeline.registry.store import Registry
from tests.conftest import Workspace


@pytest.fixture
def models(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of BentoML's models; the current folder is a project."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def registry(models: Path) -> Registry:
    return Registry()
