"""Encoders by OpenVINO: the same bits in any company, compared with the reference, chosen where it is fast."""

import sys
from pathlib import Path

import pytest

from serving.engines import encoder_agreement, encoder_int8, encoder_openvino, encoder_selection, onednn
from serving.engines.encoder_transformers import TransformersEncoder
from serving.engines.protocol import EngineError
from tests.serving.conftest import engine_settings
from tests.serving.engines.test_encoder_int8 import CLASSIFIER, check_in_any_company, class_of
from tests.serving.tasks.encoders import client_of, make_encoder

pytest.importorskip("openvino")
KINDS = {"classifier": {"num_labels": 5}, "scorer": {"num_labels": 1}, "masked": {}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A BERT that classifies, a RoBERTa that scores and one that guesses masked tokens."""
    made = tmp_path_factory.mktemp("encoders")
    kinds = {"classifier": "bert", "scorer": "roberta", "masked": "roberta"}
    return {name: make_encoder(made / name, kind, class_of(name), **KINDS[name]) for name, kind in kinds.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path / "engines"))
    monkeypatch.setattr(encoder_agreement, "MAX_DRIFT", 1.0)  # a random model is undecided everywhere
    monkeypatch.setattr("serving.engines.agreement.MAX_GAP", 1.0)


@pytest.mark.parametrize("name", KINDS)
def test_a_text_has_the_same_bits_alone_and_in_any_company_close_to_float32s(
    folders: dict[str, Path], name: str
) -> None:
    runner = encoder_openvino.OpenVinoEncoder(folders[name], class_of(name))
    check_in_any_company(runner, TransformersEncoder(folders[name], class_of(name)), error=0.02)


def test_loading_it_imports_no_telemetry(folders: dict[str, Path]) -> None:
    encoder_openvino.OpenVinoEncoder(folders["scorer"], CLASSIFIER)
    assert not sys.modules["openvino_telemetry"]


@pytest.mark.parametrize("has_amx", [True, False])
def test_auto_takes_it_where_the_processor_multiplies_bfloat16(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_amx: bool
) -> None:
    monkeypatch.setattr(onednn, "has_amx", lambda: has_amx)
    monkeypatch.setenv("MODEL_DIR", str(folders["classifier"]))
    other = "transformers" if encoder_int8.unsupported_reason(folders["classifier"]) else "int8"
    with client_of("classify", tmp_path, engine="auto") as client:
        assert client.post("/classify", json={"text": "a cat"}).json()["engine"] == ("openvino" if has_amx else other)


def test_an_engine_that_drifts_or_is_not_installed_is_an_error_by_name(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_agreement, "MAX_DRIFT", -1.0)
    with pytest.raises(EngineError, match="the engine openvino drifts from the reference"):
        encoder_selection.make(folders["classifier"], CLASSIFIER, engine_settings("openvino"))
    monkeypatch.setattr(encoder_openvino, "PACKAGE", "not_installed")
    with pytest.raises(EngineError, match="the package not_installed is not installed; install it with `pip install"):
        encoder_selection.make(folders["classifier"], CLASSIFIER, engine_settings("openvino"))
