"""Encoders in int8: the same bits in any company, and checked against the reference before they serve."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, GPT2Config

from serving.engines import encoder_agreement, encoder_int8, encoder_selection, onednn
from serving.engines.agreement import Agreement
from serving.engines.encoder import Encoded, EncoderRunner
from serving.engines.encoder_int8 import Int8Encoder
from serving.engines.encoder_transformers import TransformersEncoder
from serving.engines.protocol import EngineError
from tests.serving.conftest import engine_settings
from tests.serving.tasks.encoders import CONTEXT, KINDS, client_of, make_encoder

CLASSIFIER, MASKED = "AutoModelForSequenceClassification", "AutoModelForMaskedLM"
HEADS = {
    "classifier": (CLASSIFIER, {"num_labels": 5}),
    "scorer": (CLASSIFIER, {"num_labels": 1}),
    "masked": (MASKED, {}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier of each architecture, a scorer and a masked model."""
    made = tmp_path_factory.mktemp("encoders")
    folders = {kind: make_encoder(made / kind, kind, CLASSIFIER, num_labels=5) for kind in KINDS}
    folders["scorer"] = make_encoder(made / "scorer", "roberta", CLASSIFIER, num_labels=1)
    folders["masked"] = make_encoder(made / "masked", "roberta", MASKED)
    if reason := encoder_int8.unsupported_reason(folders["bert"]):
        pytest.skip(reason)
    return folders


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path / "engines"))
    monkeypatch.setattr(onednn, "has_amx", lambda: False)
    return tmp_path / "engines"


def class_of(name: str) -> str:
    return MASKED if name == "masked" else CLASSIFIER


def some_texts(count: int) -> list[Encoded]:
    """Return texts of random tokens, of 1 to CONTEXT tokens."""
    random = np.random.default_rng(0)
    texts = []
    for length in random.integers(1, CONTEXT + 1, count).tolist():
        masks = tuple(range(0, length, 3))[: length % 4]
        texts.append(Encoded(random.integers(5, 90, length).tolist(), [0] * length, masks))
    return texts


def check_in_any_company(runner: EncoderRunner, reference: EncoderRunner, error: float) -> None:
    """Check that texts have the same bits alone and in any order, and a mean error below a share of their spread."""
    texts = some_texts(40)
    expected = reference.logits(texts)
    together = runner.logits(texts)
    for at, (text, joint, one) in enumerate(zip(texts, together, expected, strict=True)):
        np.testing.assert_array_equal(runner.logits([text])[0], joint)
        np.testing.assert_array_equal(runner.logits([*texts[at:], *texts[:at]])[0], joint)
        assert joint.shape == one.shape
    joined, expected_rows = (np.concatenate([np.atleast_2d(one) for one in all_]) for all_ in (together, expected))
    assert np.abs(joined - expected_rows).mean() < error * expected_rows.std()


@pytest.mark.parametrize("name", [*KINDS, "scorer", "masked"])
def test_a_text_has_the_same_bits_alone_and_in_any_company_close_to_float32s(
    folders: dict[str, Path], name: str
) -> None:
    runner = Int8Encoder(folders[name], class_of(name))
    check_in_any_company(runner, TransformersEncoder(folders[name], class_of(name)), error=0.05)


def compared(folder: Path, auto_class: str = CLASSIFIER, change: Any = None) -> Agreement:
    runner = Int8Encoder(folder, auto_class)
    if change:
        change(runner)
    return encoder_agreement.compare(folder, "v", "int8", runner, auto_class)


@pytest.mark.parametrize("name", ["bert", "scorer", "masked"])
def test_the_comparison_sees_whether_a_layer_is_right(folders: dict[str, Path], name: str) -> None:
    def broken(runner: Int8Encoder) -> None:
        runner._layers._layers[1].norm.parameters["weight"].mul_(2.0)

    right = compared(folders[name], class_of(name))
    wrong = compared(folders[name], class_of(name), broken)
    assert right.perplexity == pytest.approx(right.reference, rel=0.02)
    assert "the reference's, at most" in wrong.reason


def test_auto_takes_int8_where_it_agrees_and_answers_name_it(
    folders: dict[str, Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_agreement, "MAX_DRIFT", 1.0)  # a random model is undecided everywhere
    monkeypatch.setattr("serving.engines.agreement.MAX_GAP", 1.0)
    monkeypatch.setenv("MODEL_DIR", str(folders["bert"]))
    with client_of("classify", tmp_path, engine="auto") as client:
        assert client.post("/classify", json={"text": "a cat"}).json()["engine"] == "int8"
        assert client.get("/health").json()["engine"] == "int8"
    [record] = cache.iterdir()
    assert "-int8-" in record.name


def test_where_int8_drifts_auto_takes_transformers_and_says_so_and_int8_is_an_error(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoder_agreement, "MAX_DRIFT", -1.0)
    caplog.set_level("INFO", "bentoml.serving")
    engine = encoder_selection.make(folders["bert"], CLASSIFIER, engine_settings("auto"))
    engine.close()
    assert engine.name == "transformers"
    assert "the engine int8 drifts from the reference" in caplog.text
    with pytest.raises(EngineError, match="the engine int8 drifts from the reference"):
        encoder_selection.make(folders["bert"], CLASSIFIER, engine_settings("int8"))


def test_models_that_int8_cannot_run_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    assert "this model is of type gpt2" in encoder_int8.unsupported_reason(tmp_path / "gpt2")
    config = AutoConfig.from_pretrained(folders["bert"])
    config.is_decoder = True
    config.save_pretrained(tmp_path / "decoder")
    assert "config.json says is_decoder" in encoder_int8.unsupported_reason(tmp_path / "decoder")
