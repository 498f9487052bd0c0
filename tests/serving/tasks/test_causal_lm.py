"""The whole service in process, BentoML's own routes and middleware included."""

import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving import keys
from serving.bentoml_internals import server_context
from serving.schema import generate_request
from tests.serving.conftest import CONTEXT, DATA, PROMPT, service_settings

SETTINGS = service_settings()

PRIVATE = "the prompt that nobody may log"


def generate(client: TestClient, **body: Any) -> Any:
    return client.post("/generate", json={"prompt": PROMPT, "max_new_tokens": 8, **body})


def error(response: Any, status: int) -> dict[str, Any]:
    """Return the error in `response`, which must have the usual format."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["message"]
    content: dict[str, Any] = body["error"]
    return content


@pytest.mark.parametrize("path", ["/generate", "/generate/"])
def test_generate_answers_at_both_paths_without_a_redirect(client: TestClient, path: str) -> None:
    response = client.post(path, json={"prompt": PROMPT, "max_new_tokens": 8, "seed": 1})
    assert response.status_code == 200
    assert response.json() == generate(client, seed=1).json()


def test_an_answer_has_everything_to_generate_it_again(client: TestClient) -> None:
    answer = generate(client).json()
    assert list(answer) == ["text", "finish_reason", "usage", "model", "data", "seed", "engine"]
    assert answer["data"] == DATA
    assert answer["engine"] in ("int8", "ctranslate2", "transformers")
    assert re.fullmatch("[0-9a-f]{40}", answer["model"])
    assert answer["usage"]["completion_tokens"] <= 8
    assert generate(client, seed=answer["seed"]).json() == answer


def test_requests_without_a_seed_get_different_ones(client: TestClient) -> None:
    assert generate(client).json()["seed"] != generate(client).json()["seed"]


def test_the_same_seed_writes_the_same_while_other_requests_run(client: TestClient) -> None:
    alone = generate(client, seed=7, max_new_tokens=32).json()
    with ThreadPoolExecutor(8) as pool:
        seeds = [7, None, 7, 3, None, 7, 7, 9]
        answers = list(pool.map(lambda seed: generate(client, seed=seed, max_new_tokens=32).json(), seeds))
    assert [answer for answer, seed in zip(answers, seeds, strict=True) if seed == 7] == [alone] * 4


def test_a_prompt_with_a_start_token_gets_no_second_one(client: TestClient) -> None:
    alone, started = (generate(client, prompt=text, seed=1).json() for text in (PROMPT, "<|endoftext|>" + PROMPT))
    assert started == alone


def test_a_special_tokens_name_inside_a_prompt_is_text_in_every_route(client: TestClient) -> None:
    name = "<|endoftext|>"
    inside = generate(client, prompt=f"{PROMPT}{name}", seed=1).json()["usage"]["prompt_tokens"]
    alone = generate(client, prompt=PROMPT, seed=1).json()["usage"]["prompt_tokens"]
    assert inside > alone + 1
    body = {"prompt": [f"{name}{PROMPT}", f"{name}{PROMPT}{name}"], "max_tokens": 1, "echo": True, "logprobs": 0}
    begun, ended = (
        choice["logprobs"]["tokens"] for choice in client.post("/v1/completions", json=body).json()["choices"]
    )
    assert begun[0] == ended[0] == name
    assert name not in ended[1:]
    assert len(ended) > len(begun) + 1


def test_a_stop_string_may_stand_alone_or_in_a_list(client: TestClient) -> None:
    stop = generate(client, seed=1).json()["text"][3]
    alone = generate(client, seed=1, stop=stop).json()
    assert alone["finish_reason"] == "stop"
    assert stop not in alone["text"]
    assert alone == generate(client, seed=1, stop=[stop]).json()


INSIDE: dict[str, list[Any]] = {
    "prompt": ["x"],
    "max_new_tokens": [1],
    "temperature": [0, 5, 0.5],
    "top_p": [1e-9, 1],
    "top_k": [0, 1, 2**31 - 1],
    "repetition_penalty": [1e-9, 5],
    "seed": [0, -(2**63), 2**63 - 1, None],
    "stop": [None, [], "x", ["a", "b", "c", "d"], "\x00", "\N{GRINNING FACE}"],
    "presence_penalty": [-2, 2, 0.5],
    "frequency_penalty": [-2, 2],
    "stream": [False, True],
    "model": [None, "champion"],
}
OUTSIDE: dict[str, list[Any]] = {
    "prompt": ["", "x" * (SETTINGS.max_prompt_characters + 1), 5, None, ["x"]],
    "max_new_tokens": [0, -1, SETTINGS.max_new_tokens + 1, 1.5, "8", True, None],
    "temperature": [-0.1, 5.1, "1", float("nan"), float("inf"), 10**400, None],
    "top_p": [0, -1, 1.1, float("nan"), "1"],
    "top_k": [-1, 2**31, 1.5, float("inf")],
    "repetition_penalty": [0, -1, 5.1, float("-inf")],
    "seed": [-(2**63) - 1, 2**63, 10**1000, 1.5, "1", True],
    "stop": [
        "",
        [""],
        ["a", "b", "c", "d", "e"],
        [1],
        1,
        "x" * 201,
        {"a": 1},
    ],
    "presence_penalty": [-2.1, 2.1, float("nan"), "1", None],
    "frequency_penalty": [-2.1, 2.1, float("inf"), 10**400],
    "stream": [1, "true", None],
    "model": ["x" * 201, 1, []],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in INSIDE for value in INSIDE[field]])
def test_a_value_inside_the_bounds_is_answered(client: TestClient, field: str, value: Any) -> None:
    assert generate(client, **{field: value}).status_code == 200


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in OUTSIDE for value in OUTSIDE[field]])
def test_a_value_outside_the_bounds_is_refused_by_name(client: TestClient, field: str, value: Any) -> None:
    body = json.dumps({"prompt": PROMPT, "max_new_tokens": 8, field: value})  # writes NaN, Infinity and surrogates
    refused = error(client.post("/generate", content=body, headers={"content-type": "application/json"}), 400)
    assert refused["type"] == "invalid_request_error"
    assert refused["param"].split(".")[0] == field
    assert refused["message"].startswith(field)


def test_an_unknown_field_is_refused(client: TestClient) -> None:
    assert error(generate(client, max_tokens=5), 400)["message"] == "max_tokens: unknown field"


def test_a_missing_prompt_is_refused(client: TestClient) -> None:
    assert error(client.post("/generate", json={}), 400)["param"] == "prompt"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"5", b'"x"', b"null", b"\x00", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"prompt": "\xff"}'),
        b'{"prompt": "x", "\\ud800": 1}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "stop": ["a", "\\udfff"]}',
        b'{"prompt": "x", "seed": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "x", "temperature": 1e400}',
        b'{"prompt": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"prompt": "x", "stop": ' + b"[" * 500 + b"]" * 500 + b"}",
        '{"prompt": "x"'.encode("utf-16"),
    ],
)
def test_a_body_that_is_no_good_json_object_is_refused(client: TestClient, body: bytes) -> None:
    error(client.post("/generate", content=body, headers={"content-type": "application/json"}), 400)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.fixed_dictionaries({}, optional=dict.fromkeys(generate_request(SETTINGS).model_fields, ANYTHING))
TYPES = (
    *("application/json", "application/x+json", "application/json; charset=\xff", "text/plain"),
    *("application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=a", "a", "", ";=/"),
)


@settings(max_examples=100, deadline=None)
@given(
    body=st.binary()
    | ANYTHING
    | BODIES
    | st.builds(lambda rest: {"prompt": PRIVATE, "max_new_tokens": 2, **rest}, BODIES),
    content_type=st.sampled_from(["application/json"] * 9 + [*TYPES]),
)
def test_whatever_is_sent_is_answered(client: TestClient, body: Any, content_type: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": content_type.encode("latin-1")}
    response = client.post("/generate", content=content, headers=headers)  # type: ignore[arg-type]
    if response.status_code != 200:
        assert response.status_code in (400, 404)
        error(response, response.status_code)
        assert PRIVATE not in response.text


@pytest.mark.parametrize("path", ["/%ff", "/\N{GRINNING FACE}", "/%00", "/generate/%2e", "/generate?%ff=%00"])
def test_any_path_is_answered(client: TestClient, path: str) -> None:
    error(client.get(path), 405 if "?" in path else 404)


def test_an_unknown_model_is_404(client: TestClient) -> None:
    unknown = error(generate(client, model="nobody"), 404)
    assert (unknown["code"], unknown["param"]) == ("model_not_found", "model")


def test_each_model_that_root_names_can_be_asked_for(client: TestClient) -> None:
    about = client.get("/").json()
    assert "champion" in about["models"]
    answers = [generate(client, model=name, seed=1).json() for name in (None, "champion", about["model"])]
    assert answers[0] == answers[1] == answers[2]


def test_json_that_is_not_declared_as_json_is_refused_with_a_hint(client: TestClient) -> None:
    assert (
        "Content-Type: application/json" in error(client.post("/generate", content=b'{"prompt": "x"}'), 400)["message"]
    )


def test_more_tokens_than_the_context_are_refused_with_both_numbers(client: TestClient) -> None:
    refused = error(generate(client, max_new_tokens=CONTEXT), 400)
    prompt_tokens = generate(client).json()["usage"]["prompt_tokens"]
    assert f"{prompt_tokens} tokens" in refused["message"]
    assert f"{CONTEXT} tokens" in refused["message"]
    assert (refused["code"], refused["param"]) == ("context_length_exceeded", "max_new_tokens")
    assert error(generate(client, prompt="a " * CONTEXT, max_new_tokens=1), 400)["param"] == "prompt"


@pytest.mark.parametrize("route", ["/generate", "/v1/completions"])
def test_without_max_new_tokens_a_text_may_fill_the_rest_of_the_context(client: TestClient, route: str) -> None:
    prompt = "a " * (CONTEXT - 20)
    while (answer := client.post(route, json={"prompt": prompt})).status_code == 400:
        assert error(answer, 400)["param"] == "prompt"  # never the number that nobody gave
        prompt = prompt[:-2]
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] <= CONTEXT
    assert usage["prompt_tokens"] > CONTEXT - 20


@pytest.mark.parametrize("path", ["/nothing", "/generate/more", "/docs/nothing"])
def test_an_unknown_path_is_404(client: TestClient, path: str) -> None:
    error(client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/generate"), ("PUT", "/generate/"), ("POST", "/health"), ("POST", "/metrics")]
)
def test_a_wrong_method_is_405_and_names_the_right_one(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert response.headers["allow"] in error(response, 405)["message"]


def test_root_says_what_is_served_and_why(client: TestClient) -> None:
    about = client.get("/").json()
    assert about["status"] == "up"
    assert about["model"] == generate(client).json()["model"]
    assert about["data"] == DATA
    assert "MODEL_DIR" in about["why"]
    assert (about["refused"], about["swaps"], about["context"]) == (None, 0, CONTEXT)
    for path in about["links"].values():
        assert client.get(path).status_code in (200, 405), path


def test_health_is_a_summary_of_the_root_route(client: TestClient) -> None:
    about, health = client.get("/").json(), client.get("/health").json()
    assert health == {name: about[name] for name in ("status", "model", "data", "engine", "verdict", "refused")}


def test_bentomls_own_routes_answer(client: TestClient) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/metrics", "/docs.json", "/schema.json"):
        assert client.get(path).status_code == 200, path


def test_the_specification_shows_every_bound(client: TestClient) -> None:
    specification = client.get("/docs.json").json()
    fields = specification["components"]["schemas"]["GenerateRequest"]["properties"]
    assert fields["prompt"]["minLength"] == 1
    assert fields["prompt"]["maxLength"] == SETTINGS.max_prompt_characters
    assert (fields["max_new_tokens"]["minimum"], fields["max_new_tokens"]["maximum"]) == (1, SETTINGS.max_new_tokens)
    assert (fields["temperature"]["minimum"], fields["temperature"]["maximum"]) == (0, 5)
    assert (fields["top_p"]["exclusiveMinimum"], fields["top_p"]["maximum"]) == (0, 1)
    assert fields["top_k"]["minimum"] == 0
    assert (fields["repetition_penalty"]["exclusiveMinimum"], fields["repetition_penalty"]["maximum"]) == (0, 5)
    assert fields["seed"]["anyOf"][0] == {"type": "integer", "minimum": -(2**63), "exclusiveMaximum": 2**63}
    string = {"type": "string", "minLength": 1, "maxLength": 200}
    assert fields["stop"]["anyOf"] == [string, {"type": "array", "items": string, "maxItems": 4}, {"type": "null"}]


@pytest.mark.parametrize("path", ["/", "/health", "/generate"])
def test_the_specification_shows_every_answer(client: TestClient, path: str) -> None:
    [route] = client.get("/docs.json").json()["paths"][path].values()
    expected = {"200", "400", "401", "403", "405", "408", "413", "429", "500", "503", "4XX"}
    assert set(route["responses"]) == (expected | {"404", "504"} if path == "/generate" else expected)
    for status in ("429", "503"):
        assert "Retry-After" in route["responses"][status]["headers"]
    if path == "/generate":
        written = route["responses"]["200"]
        assert set(written["content"]) == {"application/json", "text/event-stream"}
        assert set(generate(client).headers) >= {name.lower() for name in written["headers"]}


def test_the_documentation_fetches_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "://" not in page
    for path in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert client.get(path).status_code == 200, path


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that is logged; BentoML's loggers do not propagate."""
    bentoml = logging.getLogger("bentoml")
    bentoml.addHandler(caplog.handler)
    with caplog.at_level(logging.DEBUG):
        yield caplog
    bentoml.removeHandler(caplog.handler)


def test_no_prompt_is_ever_logged(client: TestClient, log: pytest.LogCaptureFixture, capfd: Any) -> None:
    generate(client, prompt=PRIVATE)
    generate(client, prompt=PRIVATE, temperature=9)
    generate(client, prompt=PRIVATE, max_new_tokens=CONTEXT)
    generate(client, prompt=PRIVATE * 1000)
    client.post("/generate", content=PRIVATE)
    assert "POST /generate 400" in log.text
    assert PRIVATE not in log.text + "".join(capfd.readouterr())


def test_a_crash_is_a_500_without_details_and_a_log_without_the_prompt(
    client: TestClient, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import service

    def crash(*_: object) -> None:
        raise RuntimeError(f"cannot continue {PRIVATE}")

    assert service.served.loaded is not None
    monkeypatch.setattr(service.served.loaded.engine, "submit", crash)
    crashed = error(generate(client, prompt=PRIVATE), 500)
    assert crashed["type"] == "server_error"
    assert "RuntimeError" not in crashed["message"]
    assert "RuntimeError" in log.text
    assert "in crash" in log.text
    assert PRIVATE not in log.text


def test_while_the_model_is_loading_or_failed_it_answers_503(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import service

    monkeypatch.setattr(service.served, "_served", None)
    for status in ("loading", "failed"):
        monkeypatch.setattr(service.served, "status", status)
        assert error(client.get("/health"), 503)["code"] == f"model_{status}"
        assert error(generate(client), 503)["code"] == f"model_{status}"
        assert client.get("/").json()["status"] == status
        assert client.get("/livez").status_code == 200
        error(client.get("/readyz"), 503)


def test_the_specification_says_which_routes_require_a_key(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import service

    assert "security" not in client.get("/docs.json").json()
    monkeypatch.setattr(server_context, "worker_index", 1)
    monkeypatch.setenv("API_KEYS", keys.new("alice")[1])
    document = client.get("/docs.json").json()
    assert service.ModelService.openapi_spec.asdict() is service.ModelService.openapi_spec.asdict()  # made once
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in document["paths"]["/generate"]["post"]
