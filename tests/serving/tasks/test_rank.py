"""POST /rerank with the requests that Cohere's, Jina's and text-embeddings-inference's clients send."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serving import model_folder
from serving.tasks.rank import MAX_DOCUMENTS
from tests.serving.conftest import service_settings
from tests.serving.tasks.encoders import CONTEXT, client_of, error, make_encoder, reference_logits

SCORER = "AutoModelForSequenceClassification"
QUERY = "Where is the cat?"
PASSAGES = ["A small cat sat on the warm mat", "twelve red apples", "the golden crown of a king", "rain"]
PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = {"task": "rank", "max_length": CONTEXT}
    return make_encoder(tmp_path_factory.mktemp("ranker") / "model", request.param, SCORER, task, num_labels=1)


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MODEL_DIR", str(folder))
        with client_of("rank", tmp_path_factory.mktemp("project")) as client:
            yield client


@pytest.fixture
def logits(folder: Path) -> Any:
    """The passages' logits by plain transformers."""
    return np.concatenate(reference_logits(folder, SCORER, [(QUERY, passage) for passage in PASSAGES]))


def sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("path", PATHS)
def test_a_request_of_coheres_client_is_answered_in_its_shape(
    client: TestClient, folder: Path, logits: Any, path: str
) -> None:
    # cohere.ClientV2(...).rerank(model=..., query=..., documents=..., top_n=3, max_tokens_per_doc=4096)
    body = {"model": "champion", "query": QUERY, "documents": PASSAGES, "top_n": 3, "max_tokens_per_doc": 4096}
    answer = client.post(path, json=body).json()
    order = [int(at) for at in np.argsort(-logits)[:3]]
    assert [result["index"] for result in answer["results"]] == order
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == pytest.approx(sigmoid(logits)[order], abs=2e-6)
    assert [set(result) for result in answer["results"]] == [{"index", "relevance_score"}] * 3
    assert isinstance(answer["id"], str)
    assert answer["meta"]["api_version"] == {"version": "2"}
    assert answer["model"] == model_folder.version(folder)


def test_documents_of_coheres_first_version_are_objects_and_returned_whole(client: TestClient) -> None:
    # cohere.Client(...).rerank(query=..., documents=[{"text": ...}], return_documents=True)
    documents = [{"text": passage, "title": f"number {at}"} for at, passage in enumerate(PASSAGES)]
    body = {"query": QUERY, "documents": documents, "return_documents": True}
    results = client.post("/v1/rerank", json=body).json()["results"]
    assert {result["index"]: result["document"] for result in results} == dict(enumerate(documents))


def test_a_request_of_jinas_client_is_answered_in_its_shape(client: TestClient, logits: Any) -> None:
    # as curl in https://jina.ai/reranker sends it
    body = {"model": "champion", "query": QUERY, "top_n": 2, "documents": PASSAGES, "return_documents": True}
    answer = client.post("/v1/rerank", json=body).json()
    assert answer["object"] == "list"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 20
    best = int(np.argmax(logits))
    assert answer["results"][0]["document"] == {"text": PASSAGES[best]}
    assert len(answer["results"]) == 2


@pytest.mark.parametrize("raw", [False, True])
def test_a_request_of_text_embeddings_inferences_client_is_answered_in_its_shape(
    client: TestClient, logits: Any, raw: bool
) -> None:
    # as in its OpenAPI specification
    body = {
        "query": QUERY, "raw_scores": raw, "return_text": True, "texts": PASSAGES, "truncate": False,
        "truncation_direction": "right",
    }  # fmt: skip
    answer = client.post("/rerank", json=body)
    results = answer.json()
    order = [int(at) for at in np.argsort(-logits)]
    assert [result["index"] for result in results] == order
    expected = logits if raw else sigmoid(logits)
    assert [result["score"] for result in results] == pytest.approx(expected[order], abs=1e-5 if raw else 2e-6)
    assert [result["text"] for result in results] == [PASSAGES[at] for at in order]
    assert answer.headers["X-Engine"] == "transformers"
    plain = client.post("/rerank", json={"query": QUERY, "texts": PASSAGES}).json()
    assert {frozenset(result) for result in plain} == {frozenset({"index", "score"})}


def test_long_documents_are_cut_and_long_texts_refused_unless_they_may_be(client: TestClient) -> None:
    long = "rain " * 60
    assert client.post("/rerank", json={"query": QUERY, "documents": [long]}).status_code == 200
    refused = error(client.post("/rerank", json={"query": QUERY, "texts": ["a", long]}), 400)
    assert "texts.1 has" in refused["message"]
    assert f"the model reads {CONTEXT}" in refused["message"]
    assert client.post("/rerank", json={"query": QUERY, "texts": [long], "truncate": True}).status_code == 200


def test_max_tokens_per_doc_leaves_out_the_rest_of_a_document(client: TestClient) -> None:
    def score(document: str, **more: Any) -> Any:
        body = {"query": QUERY, "documents": [document], **more}
        return client.post("/rerank", json=body).json()["results"][0]["relevance_score"]

    assert score("rain the crown", max_tokens_per_doc=1) != score("rain the crown")
    short = client.post("/rerank", json={"query": QUERY, "documents": ["rain the crown"], "max_tokens_per_doc": 1})
    whole = client.post("/rerank", json={"query": QUERY, "documents": ["rain the crown"]})
    assert short.json()["usage"]["total_tokens"] < whole.json()["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": QUERY}, "one_of"),
        ({"query": QUERY, "texts": ["a"], "documents": ["a"]}, "one_of"),
        ({"query": "", "texts": ["a"]}, "string_too_short"),
        ({"query": QUERY, "documents": []}, "too_short"),
        ({"query": QUERY, "texts": ["a"] * (MAX_DOCUMENTS + 1)}, "too_long"),
        ({"query": QUERY, "documents": ["a"], "top_n": 0}, "greater_than_equal"),
        ({"query": QUERY, "texts": ["x" * (service_settings().max_prompt_characters + 1)]}, "string_too_long"),
        ({"query": QUERY, "texts": ["a"], "truncation_direction": "left"}, "literal_error"),
        ({"documents": ["a"]}, "missing"),
    ],
)
def test_a_request_beyond_the_limits_of_the_schema_is_400(client: TestClient, body: Any, code: str) -> None:
    assert error(client.post("/rerank", json=body), 400)["code"] == code


def test_a_route_of_another_task_is_404_and_names_this_projects(client: TestClient) -> None:
    for path in ("/generate", "/v1/completions", "/classify", "/fill-mask"):
        refused = error(client.post(path, json={"prompt": "a"}), 404)
        assert refused["message"] == "this project's task is rank; POST /rerank"
