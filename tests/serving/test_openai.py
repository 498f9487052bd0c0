"""OpenAI's routes: in process, by OpenAI's own SDK, and over an engine that a test holds in its hand."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from fastapi import FastAPI
from starlette.testclient import TestClient
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from serving import errors
from serving import openai as openai_routes
from serving.engines.protocol import EngineError, Sampling, Stream, Token
from serving.engines.scoring import Scorer
from serving.generation import TextGenerator
from serving.model_folder import ModelFolder
from serving.model_loader import LoadedModel
from tests.serving.conftest import CONTEXT, DATA, PROMPT, REPOSITORY, Server, service_settings, serving

SETTINGS = service_settings()
MAX_CHOICES = SETTINGS.max_concurrency

START = END = "<|endoftext|>"


def complete(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 8, "seed": 1, **body})


def texts(client: TestClient, **body: Any) -> list[str]:
    answer = complete(client, **body)
    assert answer.status_code == 200, answer.text
    return [choice["text"] for choice in answer.json()["choices"]]


def refusal(answer: Any, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error


def events(client: TestClient, **body: Any) -> list[Any]:
    answer = complete(client, stream=True, **body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_chat_request_is_answered_with_the_supported_route(client: TestClient) -> None:
    answer = client.post("/v1/chat/completions", json={"model": "champion", "messages": []})
    assert refusal(answer, 404)["message"].endswith("POST it as `prompt` to /v1/completions")


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model / "tokenizer.json"))


# In process


def test_models_are_the_served_version_and_its_names(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    names = [model["id"] for model in listed["data"]]
    assert names[:2] == [client.get("/").json()["model"], "champion"]
    for model in listed["data"]:
        assert client.get(f"/v1/models/{model['id']}").json() == model
        assert complete(client, model=model["id"]).status_code == 200
    assert refusal(client.get("/v1/models/gpt-4"), 404)["code"] == "model_not_found"
    assert refusal(complete(client, model="gpt-4"), 404)["param"] == "model"


def test_body_and_headers_of_an_answer_agree(client: TestClient) -> None:
    answer = complete(client, n=2)
    body, headers = answer.json(), answer.headers
    assert body["object"] == "text_completion"
    assert body["model"] == headers["x-model-version"] == client.get("/").json()["model"]
    assert body["data"] == headers["x-data-hash"] == DATA
    assert (body["seed"], headers["x-seed"]) == (1, "1")
    assert body["engine"] == headers["x-engine"]
    assert body["system_fingerprint"] == f"{body['model']}-{body['engine']}"
    usage = body["usage"]
    assert (str(usage["prompt_tokens"]), str(usage["completion_tokens"])) == (
        headers["x-prompt-tokens"],
        headers["x-completion-tokens"],
    )
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_prompt_may_be_text_or_ids_alone_or_in_a_list_with_or_without_the_start_token(
    client: TestClient, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode(PROMPT).ids
    start = tokenizer.token_to_id(START)
    forms: list[Any] = [PROMPT, [PROMPT], ids, [ids], [start, *ids], [[start, *ids]], START + PROMPT]
    answers = [complete(client, prompt=prompt).json() for prompt in forms]
    assert len({answer["choices"][0]["text"] for answer in answers}) == 1
    assert {answer["usage"]["prompt_tokens"] for answer in answers} == {len(ids) + 1}


def test_choices_are_those_of_seed_plus_i_and_prompts_do_not_change_each_other(client: TestClient) -> None:
    alone = [texts(client, prompt=prompt, seed=seed) for prompt in (PROMPT, "My") for seed in (5, 6, 7)]
    together = complete(client, prompt=[PROMPT, "My"], n=3, best_of=3, seed=5).json()
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2, 3, 4, 5]
    assert [[choice["text"]] for choice in together["choices"]] == alone
    assert texts(client, n=2, seed=2**63 - 1)[1:] == texts(client, seed=-(2**63))


def test_its_text_is_that_of_the_native_route(client: TestClient) -> None:
    sampling = {"seed": 3, "temperature": 0.9, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
    native = client.post("/generate", json={"prompt": PROMPT, "max_new_tokens": 8, **sampling}).json()
    assert texts(client, **sampling) == [native["text"]]


def test_echoed_log_probabilities_are_the_models_own(client: TestClient, tokenizer: Tokenizer, model: Path) -> None:
    choice = complete(client, echo=True, max_tokens=0, logprobs=3).json()["choices"][0]
    ids = [tokenizer.token_to_id(START), *tokenizer.encode(PROMPT).ids]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(torch.tensor([ids])).logits[0]
    reference = logits.log_softmax(-1)[:-1]
    own = reference.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    result = choice["logprobs"]
    assert choice["text"] == PROMPT  # the start token is ours, so it is not told
    assert "".join(result["tokens"]) == PROMPT
    assert result["token_logprobs"] == pytest.approx(own.tolist(), abs=1e-4)
    for top, row, token, logprob in zip(
        result["top_logprobs"], reference, result["tokens"], result["token_logprobs"], strict=True
    ):
        assert list(top.values())[:3] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert top[token] == logprob
        assert 3 <= len(top) <= 4


def test_prompts_that_are_only_scored_share_one_thread(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []
    score = Scorer.score

    def noted(scorer: Scorer, ids: Sequence[int], top: int) -> list[Token]:
        scored.append(threading.current_thread().name)
        time.sleep(0.01)
        return score(scorer, ids, top)

    monkeypatch.setattr(Scorer, "score", noted)
    answer = complete(client, prompt=["a cat", "a dog", "the sea"] * 4, echo=True, max_tokens=0, logprobs=0)
    assert answer.status_code == 200
    assert (len(scored), len(set(scored))) == (12, 1)


def test_scoring_leaves_no_thread_behind_that_would_slow_the_engine(client: TestClient) -> None:
    complete(client, echo=True, max_tokens=0, logprobs=0)
    for _ in range(100):
        if not (left := [thread.name for thread in threading.enumerate() if thread.name.startswith("scoring")]):
            break
        time.sleep(0.05)
    assert left == []


def test_ids_are_echoed_unchanged(client: TestClient, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a b").ids
    start = tokenizer.token_to_id(START)
    given = complete(client, prompt=[ids, [start, *ids]], echo=True, max_tokens=1, logprobs=0).json()["choices"]
    without, having = (choice["logprobs"] for choice in given)
    assert without["tokens"][: len(ids)] == having["tokens"][1 : len(ids) + 1]
    assert without["token_logprobs"][: len(ids)] == having["token_logprobs"][1 : len(ids) + 1]
    assert (having["tokens"][0], having["token_logprobs"][0], having["top_logprobs"][0]) == (START, None, None)


@pytest.mark.parametrize("temperature", [0, 1])
def test_written_tokens_come_with_the_likeliest_at_that_place(client: TestClient, temperature: float) -> None:
    choice = complete(client, logprobs=5, temperature=temperature, max_tokens=20).json()["choices"][0]
    result = choice["logprobs"]
    for token, logprob, top in zip(result["tokens"], result["token_logprobs"], result["top_logprobs"], strict=True):
        if token == END:
            assert (logprob, top) == (None, None)  # the engine does not say
            continue
        assert top[token] == logprob
        assert list(top.values())[:5] == sorted(list(top.values())[:5], reverse=True)
        if temperature == 0:
            assert logprob == max(top.values())


def test_tokens_without_whole_characters_are_reported_as_bytes(client: TestClient) -> None:
    result = complete(client, prompt="é", echo=True, max_tokens=0, logprobs=0).json()["choices"][0]["logprobs"]
    assert result["tokens"] == [r"bytes:\xc3", r"bytes:\xa9"]
    assert result["text_offset"] == [0, 0]
    text = "Ärger, 12 € and 🙂 the cat"
    result = complete(client, prompt=text, echo=True, max_tokens=0, logprobs=0).json()["choices"][0]["logprobs"]
    for token, offset in zip(result["tokens"], result["text_offset"], strict=True):
        assert token.startswith("bytes:") or text[offset:].startswith(token)


def test_the_end_token_is_listed_so_that_tokens_can_be_counted(client: TestClient) -> None:
    for seed in range(100):
        answer = complete(client, temperature=5, seed=seed, max_tokens=40, logprobs=0, echo=True).json()
        choice = answer["choices"][0]
        assert len(choice["logprobs"]["tokens"]) == answer["usage"]["total_tokens"] - 1  # our start token is not told
        if choice["finish_reason"] == "stop":
            assert choice["logprobs"]["tokens"][-1] == END
            assert END not in choice["text"]
            return
    raise AssertionError("no text ended")


@pytest.mark.parametrize("logprobs", [None, 2])
@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_joined_is_the_answer(client: TestClient, logprobs: int | None, echo: bool) -> None:
    request: dict[str, Any] = {"prompt": [PROMPT, "My"], "n": 2, "max_tokens": 24, "logprobs": logprobs, "echo": echo}
    request["stop"] = texts(client, **request)[0][-3:-1]
    whole = complete(client, **request).json()
    *parts, last = events(client, stream_options={"include_usage": True}, **request)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(part["usage"] is None for part in parts)
    for choice in whole["choices"]:
        mine = [part["choices"][0] for part in parts if part["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert [part["finish_reason"] for part in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        for name in choice["logprobs"] or ():
            assert [one for part in mine for one in part["logprobs"][name]] == choice["logprobs"][name]
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert {part["id"] for part in parts} == {last["id"]}
    for name in ("model", "data", "seed", "engine", "system_fingerprint", "object"):
        assert {part[name] for part in (*parts, last)} == {whole[name]}


def test_a_stop_string_is_in_neither_text_nor_tokens(client: TestClient) -> None:
    whole = complete(client, max_tokens=24, temperature=0, logprobs=0).json()["choices"][0]
    stop = whole["text"][4:7]
    cut = complete(client, max_tokens=24, temperature=0, logprobs=0, stop=stop).json()["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert all(offset < len(cut["text"]) for offset in cut["logprobs"]["text_offset"])
    assert cut["logprobs"]["tokens"] == whole["logprobs"]["tokens"][: len(cut["logprobs"]["tokens"])]


def test_null_is_the_default_everywhere(client: TestClient) -> None:
    names = client.get("/docs.json").json()["components"]["schemas"]["CompletionRequest"]["properties"]
    nulls = {name: None for name in names if name not in ("prompt", "seed")}
    assert texts(client, **nulls) == texts(client, max_tokens=16, temperature=1, top_p=1, n=1, user="me")


@pytest.mark.parametrize(
    "more",
    [
        {"logit_bias": {}},
        {"logit_bias": None, "suffix": None},
        {"suffix": ""},
        {"seed": 1 - 2**63},
        {"seed": 2**63 - 1},
    ],
)
def test_empty_values_count_as_left_out(client: TestClient, more: dict[str, Any]) -> None:
    assert texts(client, **{"seed": 1, **more}) == texts(client, seed=more.get("seed", 1))


def test_a_seed_and_its_negative_write_different_texts(client: TestClient) -> None:
    assert texts(client, seed=-5, temperature=2) != texts(client, seed=5, temperature=2)


def test_a_streams_obfuscation_is_ignored(client: TestClient) -> None:
    sent = events(client, stream_options={"include_obfuscation": True})
    assert "".join(event["choices"][0]["text"] for event in sent) == texts(client)[0]
    assert set(sent[0]) == set(events(client)[0])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"n": 0}, "n"),
        ({"n": MAX_CHOICES + 1}, "n"),
        ({"prompt": ["x"] * 2, "n": MAX_CHOICES // 2 + 1}, "n"),
        ({"prompt": ["x"] * (MAX_CHOICES + 1)}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": SETTINGS.max_new_tokens + 1}, "max_tokens"),
        ({"max_tokens": CONTEXT}, "max_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": list("abcde")}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": True}}, "stream_options.x"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": 2**63}, "seed"),
        ({"messages": []}, "messages"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["x", 1]}, "prompt"),
        ({"prompt": [1, "x"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [2**70]}, "prompt"),
        ({"prompt": "x" * (SETTINGS.max_prompt_characters + 1)}, "prompt"),
    ],
)
def test_unsupported_fields_are_refused_by_name(client: TestClient, body: dict[str, Any], param: str) -> None:
    content = json.dumps({"prompt": PROMPT, **body})
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    error = refusal(answer)
    assert error["param"] == param
    assert param in error["message"]
    assert error["type"] == "invalid_request_error"


def test_penalties_are_applied(client: TestClient) -> None:
    greedy = {"temperature": 0, "max_tokens": 40, "logprobs": 0}
    repeats = []
    for penalty in ({}, {"frequency_penalty": 2}, {"presence_penalty": 2}, {"repetition_penalty": 5}):
        tokens = complete(client, **greedy, **penalty).json()["choices"][0]["logprobs"]["tokens"]
        repeats.append(len(tokens) - len(set(tokens)))
    assert all(fewer < repeats[0] for fewer in repeats[1:])


# Over an engine that the test holds


class ScriptedEngine:
    """An engine whose streams the test feeds."""

    name = "scripted"
    context = 64
    start = end = 0
    waiting = running = 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.streams: list[Stream] = []
        self.begun = asyncio.Event()

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        self.streams.append(Stream())
        self.begun.set()
        return self.streams[-1]

    def close(self) -> None:
        pass


class FakeServedModel:
    """Lends a model, and counts its leases."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.loaded = LoadedModel(engine, "v1", None, ModelFolder(Path(), "a test"), "champion")
        self.leases = 0

    @asynccontextmanager
    async def acquire(self, name: str | None = None) -> AsyncIterator[LoadedModel]:
        self.leases += 1
        try:
            yield self.loaded
        finally:
            self.leases -= 1


async def post(app: FastAPI, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return await client.post("/v1/completions", json=body)


def test_prompts_that_are_only_scored_count_to_the_queue(tokenizer: Tokenizer) -> None:
    async def ask() -> str:
        settings = service_settings(max_concurrency=2, max_queue=1)
        app = FastAPI()
        errors.install(app)
        served = FakeServedModel(ScriptedEngine(tokenizer))
        app.include_router(openai_routes.router(served, TextGenerator(settings), settings))  # type: ignore[arg-type]
        first = asyncio.create_task(post(app, prompt=["a cat", "a dog"], max_tokens=5))
        while len(served.engine.streams) < 2:
            await asyncio.sleep(0.01)
        refused = await post(app, prompt=["x", "y"], echo=True, max_tokens=0, logprobs=0)
        first.cancel()
        return str(refused.json()["error"]["code"])

    assert asyncio.run(ask()) == "queue_full"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["the client goes", "one choice fails"])
def test_a_disconnect_or_a_failing_choice_cancels_all_choices(tokenizer: Tokenizer, stream: bool, end: str) -> None:
    async def run() -> None:
        engine = ScriptedEngine(tokenizer)
        served = FakeServedModel(engine)
        app = FastAPI()
        errors.install(app)
        app.include_router(openai_routes.router(served, TextGenerator(SETTINGS), SETTINGS))  # type: ignore[arg-type]
        body = json.dumps({"prompt": ["x", "y"], "n": 2, "stream": stream}).encode()
        sent: list[Any] = []
        gone = asyncio.Event()
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST", "http_version": "1.1",
            "path": "/v1/completions", "query_string": b"", "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip
        answering = asyncio.create_task(app(scope, receive, send))
        await asyncio.wait_for(engine.begun.wait(), 300)
        assert len(engine.streams) == 4
        assert served.leases == 1
        engine.streams[1].push(Token(40))
        while stream and len(sent) < 2:
            await asyncio.sleep(0.01)
        if end == "the client goes":
            gone.set()
        else:
            engine.streams[2].end(None, EngineError("too warm"))
        await asyncio.wait_for(answering, 5)
        assert all(one.cancelled for one in engine.streams)
        assert served.leases == 0
        if end == "one choice fails":
            received = b"".join(message.get("body", b"") for message in sent)
            assert b"too warm" in received
            assert b"[DONE]" not in received

    asyncio.run(run())


# By OpenAI's SDK, over the network


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with serving(str(REPOSITORY), cwd=folder, MODEL_DIR=str(model), ENGINES_DIR=str(folder)) as server:
        yield server


@pytest.fixture
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as sdk:
        yield sdk


@pytest.mark.integration
def test_the_sdk_lists_models(sdk: openai.OpenAI) -> None:
    listed = [model.id for model in sdk.models.list()]
    assert "champion" in listed
    assert sdk.models.retrieve("champion").object == "model"
    with pytest.raises(openai.NotFoundError) as error:
        sdk.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"


@pytest.mark.integration
def test_the_sdk_completes(sdk: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": "champion", "prompt": [PROMPT, "My"], "n": 2, "max_tokens": 8, "seed": 1}
    answer = sdk.completions.create(**request, logprobs=2, echo=True, user="me", extra_body={"top_k": 50})
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text.startswith(PROMPT)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.tokens
    assert logprobs.token_logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs)
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer == sdk.completions.create(
        **request, logprobs=2, echo=True, extra_body={"top_k": 50}
    ).model_copy(update={"id": answer.id, "created": answer.created})  # fmt: skip
    with_raw = sdk.completions.with_raw_response.create(**request)
    assert with_raw.headers["x-model-version"] == answer.model


@pytest.mark.integration
def test_the_sdk_streams_with_usage(sdk: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": "champion", "prompt": PROMPT, "max_tokens": 16, "seed": 1}
    whole = sdk.completions.create(**request)
    parts = list(sdk.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for part in parts for choice in part.choices) == whole.choices[0].text
    assert parts[-1].usage == whole.usage
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.integration
def test_the_sdk_raises_its_own_errors_with_our_messages(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="not supported by this service") as error:
        sdk.completions.create(model="champion", prompt=PROMPT, suffix="x")
    assert error.value.param == "suffix"
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.completions.create(model="gpt-4", prompt=PROMPT)
    assert unknown.value.param == "model"


@pytest.mark.integration
def test_the_asynchronous_sdk_writes_many_at_once_as_each_alone(server: Server) -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as sdk:
            calls = [
                sdk.completions.create(model="champion", prompt=PROMPT, seed=seed, max_tokens=20)
                for seed in (1, 2, 3, 1, 2, 3)
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    written = asyncio.run(run())
    assert written[:3] == written[3:]
    assert len(set(written)) == 3
