"""POST /classify: probabilities of plain transformers, decisions of task.json, and limits."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bentoml.exceptions import BentoMLException
from starlette.testclient import TestClient

from pipeline.modeling.decision import Decision
from serving import model_folder, tasks
from serving.engines.protocol import EngineError
from serving.tasks.classify import MAX_TEXTS, results_of
from tests.serving.conftest import engine_settings, service_settings
from tests.serving.tasks.encoders import CONTEXT, TEXTS, client_of, error, make_encoder, reference_logits, softmax

CLASSIFIER = "AutoModelForSequenceClassification"
LABELS = ["ok", "fraud", "an unclear one"]
TASK = {
    "task": "classify", "temperature": 1.5, "thresholds": {"fraud": 0.2}, "by": "f1", "multi_label": False,
    "max_length": CONTEXT,
}  # fmt: skip


def make(folder: Path, task: dict[str, Any] | None, seed: int = 0) -> Path:
    return make_encoder(folder, "bert", CLASSIFIER, task, seed=seed, id2label=dict(enumerate(LABELS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("classifier") / "model", TASK)


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as here, client_of_folder(here, folder, tmp_path_factory) as client:
        yield client


def client_of_folder(here: pytest.MonkeyPatch, folder: Path, temporary: Any, **changes: Any) -> Any:
    here.setenv("MODEL_DIR", str(folder))
    return client_of("classify", temporary.mktemp("project"), **changes)


def test_an_answer_has_the_probabilities_of_transformers_and_names_what_gave_them(
    client: TestClient, folder: Path
) -> None:
    answer = client.post("/classify", json={"text": TEXTS}).json()
    assert list(answer) == ["results", "decision", "usage", "model", "data", "engine"]
    for result, logits in zip(answer["results"], reference_logits(folder, CLASSIFIER, TEXTS), strict=True):
        shares = dict(zip(LABELS, softmax(logits / 1.5), strict=True))
        given = {one["label"]: one["probability"] for one in result["probabilities"]}
        assert given == pytest.approx(shares, abs=2e-6)
        assert list(given.values()) == sorted(given.values(), reverse=True)
        others = max(("ok", "an unclear one"), key=lambda label: given[label])
        assert result["label"] == ("fraud" if given["fraud"] >= 0.2 else others)
        assert result["labels"] == [result["label"]]
    assert answer["decision"] == {
        "by": "f1",
        "thresholds": {"fraud": 0.2},
        "costs": {},
        "temperature": 1.5,
        "multi_label": False,
    }
    assert answer["model"] == model_folder.version(folder)
    assert (answer["data"], answer["engine"]) == ("0" * 64, "transformers")
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > len(TEXTS)


def test_one_text_is_answered_as_a_list_of_one_with_headers(client: TestClient, folder: Path) -> None:
    answer = client.post("/classify", json={"text": TEXTS[0], "top_k": 1})
    [result] = answer.json()["results"]
    assert len(result["probabilities"]) == 1
    assert answer.headers["X-Model-Version"] == model_folder.version(folder)
    assert answer.headers["X-Prompt-Tokens"] == str(answer.json()["usage"]["prompt_tokens"])


def test_a_text_gets_the_same_probabilities_alone_and_among_others_at_the_same_time(client: TestClient) -> None:
    def ask(text: Any) -> list[Any]:
        results: list[Any] = client.post("/classify", json={"text": text}).json()["results"]
        return results

    alone = [ask(text)[0] for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, [*TEXTS, TEXTS * 3, *TEXTS, TEXTS]))
    for results in together:
        for result in results:
            match = min(alone, key=lambda one: _distance(one, result))
            assert _distance(match, result) <= 1.01e-6
            assert match["label"] == result["label"]


def _distance(one: Any, other: Any) -> float:
    first, second = ({each["label"]: each["probability"] for each in of["probabilities"]} for of in (one, other))
    return max(abs(first[label] - second[label]) for label in LABELS)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"text": ""}, "string_too_short"),
        ({"text": []}, "too_short"),
        ({"text": ["a"] * (MAX_TEXTS + 1)}, "too_long"),
        ({"text": "x" * (service_settings().max_prompt_characters + 1)}, "string_too_long"),
        ({"text": 5}, "list_type"),
        ({"text": "a", "top_k": 0}, "greater_than_equal"),
        ({"text": "a", "prompt": "b"}, "extra_forbidden"),
        ({}, "missing"),
    ],
)
def test_a_request_beyond_the_limits_of_the_schema_is_400(client: TestClient, body: Any, code: str) -> None:
    assert error(client.post("/classify", json=body), 400)["code"] == code


def test_a_text_above_the_context_is_400_with_the_numbers_unless_it_may_be_cut(client: TestClient) -> None:
    text = "rain " * 40
    refused = error(client.post("/classify", json={"text": ["a", text]}), 400)
    assert "text.1 has 42 tokens" in refused["message"]
    assert f"the model reads {CONTEXT}" in refused["message"]
    assert (refused["code"], refused["param"]) == ("context_length_exceeded", "text")
    cut = client.post("/classify", json={"text": text, "truncate": True})
    assert cut.json()["usage"]["prompt_tokens"] == CONTEXT


def test_a_route_of_another_task_is_404_and_names_this_projects(client: TestClient) -> None:
    for path in ("/generate", "/v1/completions", "/v1/chat/completions", "/rerank", "/v2/rerank", "/fill-mask"):
        refused = error(client.post(path, json={"prompt": "a"}), 404)
        assert refused["message"] == "this project's task is classify; POST /classify"
        assert refused["code"] == "other_task"
    assert error(client.get("/elsewhere"), 404)["code"] == "not_found"


def test_what_every_task_answers_is_there(client: TestClient, folder: Path) -> None:
    about = client.get("/", headers={"Accept": "application/json"}).json()
    assert (about["name"], about["context"], about["engine"]) == ("classifier", CONTEXT, "transformers")
    assert about["links"]["classify"] == "/classify"
    assert "generate" not in about["links"]
    assert client.get("/health").json()["model"] == model_folder.version(folder)
    assert client.get("/v1/models").json()["data"][0]["id"] == model_folder.version(folder)
    assert client.get("/playground").headers["content-type"].startswith("text/html")
    unknown = error(client.post("/classify", json={"text": "a", "model": "nobody"}), 404)
    assert unknown["code"] == "model_not_found"


def test_above_the_queues_bound_requests_are_429(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of_folder(monkeypatch, folder, tmp_path_factory, max_concurrency=0, max_queue=0) as client:
        refused = client.post("/classify", json={"text": "a"})
    assert error(refused, 429)["code"] == "queue_full"
    assert refused.headers["retry-after"] == "1"


def test_above_the_time_limit_requests_are_504(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of_folder(monkeypatch, folder, tmp_path_factory, timeout=1e-9) as client:
        assert error(client.post("/classify", json={"text": TEXTS}), 504)["code"] == "timeout"


def labels_of(logits: list[float], **decision: Any) -> list[str]:
    """Return the labels that a text with these logits gets."""
    [result] = results_of(Decision(("a", "b", "c"), **decision), [np.array(logits, np.float32)])
    assert result.label == (None if decision.get("multi_label") else result.labels[0])
    return result.labels


def test_decisions_follow_thresholds_and_costs() -> None:
    logits = np.log([0.2, 0.5, 0.3]).tolist()
    assert labels_of(logits) == ["b"]
    assert labels_of(logits, thresholds={"b": 0.6}) == ["c"]  # the likeliest of the others
    assert labels_of(logits, thresholds={"a": 0.15}) == ["a"]
    assert labels_of(logits, costs={"a": {"b": 9.0, "c": 9.0}}) == ["a"]
    several = {"multi_label": True, "thresholds": {"a": 0.5, "b": 0.9, "c": 0.5}}
    assert labels_of([0.0, 1.0, 1.0], **several) == ["a", "c"]
    assert labels_of([-9.0, -1000.0, -9.0], **several) == []


def test_another_engine_than_the_encoders_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(
        EngineError, match=r"service\.engine is vllm, .* expected one of auto, openvino, int8, transformers"
    ):
        tasks.model_kind("classify", engine_settings("vllm")).make_engine(folder)


def test_a_folder_of_the_hub_without_task_json_takes_the_likeliest_label(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path_factory.mktemp("hub") / "model", None)
    with client_of_folder(monkeypatch, folder, tmp_path_factory) as client:
        answer = client.post("/classify", json={"text": TEXTS}).json()
    assert answer["decision"] == {
        "by": "argmax",
        "thresholds": {},
        "costs": {},
        "temperature": 1.0,
        "multi_label": False,
    }
    assert answer["data"] is None
    assert all(result["label"] == result["probabilities"][0]["label"] for result in answer["results"])


def test_a_model_of_another_task_is_refused_in_one_sentence(folder: Path, tmp_path: Path, tiny_gpt2: Path) -> None:
    reason = tasks.unsuitable_reason("causal_lm", folder)
    assert (
        reason == "holds a model of the task classify, while this project's task is causal_lm (`task` in params.yaml)"
    )
    assert tasks.unsuitable_reason("classify", folder) == ""
    assert "holds GPT2LMHeadModel, expected a model for classification" in tasks.unsuitable_reason(
        "classify", tiny_gpt2
    )
    one = make_encoder(tmp_path / "one", "bert", CLASSIFIER, None, num_labels=1)
    assert "one output" in tasks.unsuitable_reason("classify", one)
    assert "3 outputs" in tasks.unsuitable_reason("rank", make(tmp_path / "three", None))
    (one / "task.json").write_text("{", encoding="utf-8")
    assert "task.json that cannot be read" in tasks.unsuitable_reason("rank", one)
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MODEL_DIR", str(folder))
        with pytest.raises(BentoMLException, match=r"holds a model of the task classify, while .* set MODEL_DIR"):
            model_folder.find(tmp_path, lambda path: tasks.unsuitable_reason("causal_lm", path), serve_candidate=True)


@pytest.mark.parametrize(
    "wrong", [{"thresholds": {"no label": 0.5}}, {"temperature": 0}, {"thresholds": {"ok": 0.5, "fraud": 0.5}}]
)
def test_a_task_json_that_does_not_fit_its_model_is_refused_at_load(tmp_path: Path, wrong: dict[str, Any]) -> None:
    folder = make(tmp_path / "model", {**TASK, **wrong})
    kind = tasks.model_kind("classify", engine_settings("transformers"))
    with pytest.raises(EngineError, match=r"task\.json does not fit the labels"):
        kind.make_engine(folder)


def test_broken_weights_are_refused_by_the_smoke_test(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from serving.model_loader import RefusedError

    folder = make(tmp_path / "model", TASK)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    kind = tasks.model_kind("classify", engine_settings("transformers"))
    engine = kind.make_engine(folder)
    with pytest.raises(RefusedError, match="broken weights"):
        asyncio.run(kind.smoke_test(engine))
    engine.close()


def test_the_description_of_a_request_names_every_limit(client: TestClient) -> None:
    from serving.tasks.classify import classify_request

    schema = json.dumps(classify_request(service_settings()).model_json_schema())
    assert f'"maxItems": {MAX_TEXTS}' in schema
    assert f'"maxLength": {service_settings().max_prompt_characters}' in schema
