"""BentoML's private names and its layout on disk, as pipeline/registry/bentoml_store.py relies on them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bentoml._internal.models import ModelStore
from bentoml._internal.models.model import ModelContext, ModelInfo
from bentoml._internal.tag import Tag

from pipeline.registry import bentoml_store
from pipeline.registry.model_version import MODEL_YAML

TAG = f"tales:{'0' * 40}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def add(tag: str) -> Path:
    folder = bentoml_store.version_folder(tag)
    folder.mkdir(parents=True)
    bentoml_store.write_model_yaml(folder, tag, {"data": "4d2d"}, {"perplexity": 9.5})
    return folder


def test_tag_from_str_splits_name_and_version() -> None:
    tag = Tag.from_str(TAG)
    assert (tag.name, tag.version, str(tag)) == ("tales", "0" * 40, TAG)


def test_model_context_names_the_framework() -> None:
    context = ModelContext(framework_name="transformers", framework_versions={})
    assert (context.framework_name, context.framework_versions) == ("transformers", {})


def test_model_info_dumps_what_it_reads_back(tmp_path: Path) -> None:
    created = bentoml_store.write_model_yaml(
        tmp_path, TAG, {"data": "4d2d"}, {"perplexity": 9.5, "forced": None, "groups": ({"a": 1}, None)}
    )
    with (tmp_path / MODEL_YAML).open(encoding="utf-8") as file:
        info = ModelInfo.from_yaml_file(file)
    assert (str(info.tag), info.labels) == (TAG, {"data": "4d2d"})
    assert info.metadata == {"perplexity": 9.5, "groups": [{"a": 1}]}  # BentoML's metadata cannot hold None
    assert info.creation_time.isoformat(timespec="seconds") == created


def test_bentoml_finds_a_version_in_its_folder_and_by_latest(home: Path) -> None:
    folder = add(TAG)
    bentoml_store.set_latest(TAG)
    store = ModelStore(home / "models")
    assert [store.get(name).path for name in (TAG, "tales:latest", "tales")] == [str(folder)] * 3


def test_latest_is_repaired_where_its_version_is_gone() -> None:
    folder, other = add(TAG), add(f"tales:{'1' * 40}")
    bentoml_store.set_latest(TAG)
    shutil.rmtree(folder)
    bentoml_store.repair_latest("tales")
    latest = folder.with_name("latest")
    assert latest.read_text(encoding="utf-8") == other.name
    shutil.rmtree(other)
    bentoml_store.repair_latest("tales")
    assert not latest.exists()


@pytest.mark.integration
@pytest.mark.parametrize("value", ["~/models of mine", "$ELSEWHERE/x"])
def test_home_is_where_bentoml_has_its_home(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("BENTOML_HOME", value)
    script = "from bentoml._internal.configuration.containers import BentoMLContainer as c; print(c.bentoml_home.get())"
    command = [sys.executable, "-W", "ignore", "-c", script]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    assert Path(printed.strip()).absolute() == bentoml_store.home()
