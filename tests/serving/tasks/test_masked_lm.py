"""POST /fill-mask: the fillings of transformers' own pipeline, in the shape of the inference API of Hugging Face."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from serving import tasks
from serving.engines.protocol import EngineError
from serving.tasks.masked_lm import MAX_FILLINGS, MAX_MASKS
from tests.serving.conftest import engine_settings, service_settings
from tests.serving.tasks.encoders import CONTEXT, client_of, error, make_encoder

MODEL = "AutoModelForMaskedLM"
ONE = "A small cat sat on the {} mat."
TWO = "A {} cat sat on the {} mat."


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = {"task": "masked_lm", "max_length": CONTEXT}
    return make_encoder(tmp_path_factory.mktemp("masked") / "model", request.param, MODEL, task)


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MODEL_DIR", str(folder))
        with client_of("masked_lm", tmp_path_factory.mktemp("project")) as client:
            yield client


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    model = AutoModelForMaskedLM.from_pretrained(folder)
    return pipeline("fill-mask", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))


def close_to(expected: Any) -> Any:
    """Return fillings with scores that may differ in the last digit."""
    return [{**filling, "score": pytest.approx(filling["score"], abs=2e-6)} for filling in expected]


@pytest.mark.parametrize("mask", ["[MASK]", "<mask>"])
@pytest.mark.parametrize("name", ["inputs", "text"])
def test_a_gap_gets_the_fillings_of_transformers_pipeline(
    client: TestClient, reference: Any, mask: str, name: str
) -> None:
    answer = client.post("/fill-mask", json={name: ONE.format(mask), "top_k": 3})
    assert answer.json() == close_to(reference(ONE.format(reference.tokenizer.mask_token), top_k=3))
    assert answer.headers["X-Engine"] == "transformers"


def test_several_gaps_get_a_list_each(client: TestClient, reference: Any) -> None:
    mask = reference.tokenizer.mask_token
    # As huggingface_hub's InferenceClient.fill_mask sends it.
    body = {"inputs": TWO.format(mask, mask), "parameters": {"top_k": 2}}
    answer = client.post("/fill-mask", json=body).json()
    expected = reference(TWO.format(mask, mask), top_k=2)
    assert answer == [close_to(of_mask) for of_mask in expected]
    assert len(answer) == 2


def test_without_top_k_there_are_five(client: TestClient) -> None:
    assert len(client.post("/fill-mask", json={"inputs": ONE.format("<mask>")}).json()) == 5


def test_a_text_without_a_gap_is_400_and_names_the_mask(client: TestClient, reference: Any) -> None:
    refused = error(client.post("/fill-mask", json={"inputs": "no gap"}), 400)
    assert f"write {reference.tokenizer.mask_token} where a word is missing" in refused["message"]
    assert (refused["code"], refused["param"]) == ("no_mask", "inputs")


def test_too_many_gaps_and_tokens_are_400_with_the_numbers(client: TestClient) -> None:
    many = error(client.post("/fill-mask", json={"text": "<mask>" * (MAX_MASKS + 1)}), 400)
    assert f"{MAX_MASKS + 1} gaps" in many["message"]
    long = "<mask> " + "rain " * 60
    refused = error(client.post("/fill-mask", json={"text": long}), 400)
    assert refused["message"].startswith("text has ")
    assert (refused["code"], refused["param"]) == ("context_length_exceeded", "text")
    assert client.post("/fill-mask", json={"text": long, "truncate": True}).status_code == 200
    cut_off = error(client.post("/fill-mask", json={"text": "rain " * 60 + "<mask>", "truncate": True}), 400)
    assert "no gap within what the model reads" in cut_off["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "one_of"),
        ({"text": "<mask>", "inputs": "<mask>"}, "one_of"),
        ({"text": ""}, "string_too_short"),
        ({"text": "<mask>", "top_k": MAX_FILLINGS + 1}, "less_than_equal"),
        ({"text": "<mask>", "parameters": {"targets": ["a"]}}, "extra_forbidden"),
        ({"text": "x" * (service_settings().max_prompt_characters + 1)}, "string_too_long"),
    ],
)
def test_a_request_beyond_the_limits_of_the_schema_is_400(client: TestClient, body: Any, code: str) -> None:
    assert error(client.post("/fill-mask", json=body), 400)["code"] == code


def test_a_route_of_another_task_is_404_and_names_this_projects(client: TestClient) -> None:
    for path in ("/generate", "/v1/completions", "/classify", "/rerank"):
        refused = error(client.post(path, json={"prompt": "a"}), 404)
        assert refused["message"] == "this project's task is masked_lm; POST /fill-mask"


def test_a_classifier_and_a_tokenizer_without_a_mask_are_refused(tmp_path: Path) -> None:
    classifier = make_encoder(tmp_path / "classifier", "bert", "AutoModelForSequenceClassification")
    assert "holds BertForSequenceClassification, expected" in tasks.unsuitable_reason("masked_lm", classifier)
    folder = make_encoder(tmp_path / "maskless", "bert", MODEL)
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"mask_token"', '"other_token"'), encoding="utf-8")
    with pytest.raises(EngineError, match="names no mask_token"):
        tasks.model_kind("masked_lm", engine_settings("transformers")).make_engine(folder)
