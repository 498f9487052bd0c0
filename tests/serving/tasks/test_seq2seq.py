"""The routes of seq2seq over a tiny T5: in process, by OpenAI's own SDK, in a browser, and by schemathesis."""

import asyncio
import contextlib
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from docs.picture import browser
from serving import app, tasks
from serving.model_loader import ModelKind
from serving.served_model import ServedModel
from tests.conftest import LINES
from tests.serving.conftest import DATA, Server, engine_settings, service_settings
from tests.serving.seq2seq_models import LIMITS, make_t5
from tests.serving.test_playground import Tab, needs_chromium
from tests.serving.test_schemathesis import run as run_schemathesis
from tests.serving.test_served_model import Project, until

SETTINGS = service_settings(serve_candidate=True, follow_seconds=0.02, drain_seconds=1)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_t5(tmp_path_factory.mktemp("model") / "t5")
    (folder / "manifest.json").write_text(json.dumps({"data": DATA}), encoding="utf-8")
    return folder


def kind(engine: str = "transformers") -> ModelKind[Any]:
    return tasks.model_kind("seq2seq", engine_settings(engine))


@asynccontextmanager
async def running(root: Path, engine: str = "transformers") -> AsyncIterator[tuple[ServedModel, httpx.AsyncClient]]:
    """Serve the model that `root` or MODEL_DIR names, to a client in this process."""
    served = ServedModel(root, kind(engine), SETTINGS)
    task = asyncio.create_task(served.run())
    await served.wait_for_first_attempt(300)
    transport = httpx.ASGITransport(app.make_app("seq2seq", served, SETTINGS))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=300) as client:
            yield served, client
    finally:
        task.cancel()
        await served.close()


@pytest.fixture
def serve(t5: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a test of a client of the service."""
    monkeypatch.setenv("MODEL_DIR", str(t5))

    def run(test: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]], engine: str = "transformers") -> Any:
        async def serving() -> Any:
            async with running(t5.parent, engine) as (_, client):
                return await test(client)

        return asyncio.run(serving())

    return run


async def generate(client: httpx.AsyncClient, **body: Any) -> Any:
    answer = await client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(client: httpx.AsyncClient, path: str = "/generate", status: int = 400, **body: Any) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def streamed(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_source_is_rewritten_greedily_as_a_whole_or_as_a_stream(serve: Callable[..., Any]) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        for line in LINES:
            whole = await generate(client, prompt=line)
            assert whole == await generate(client, prompt=line, seed=whole["seed"], temperature=0)
            assert whole["finish_reason"] == "stop"
            assert whole["text"].startswith(line.split()[0])
            assert line not in whole["text"]  # nothing of the source is repeated in front
            assert (whole["engine"], whole["data"]) == ("transformers", DATA)
            answer = await client.post("/generate", json={"prompt": line, "stream": True, "seed": whole["seed"]})
            *parts, last = streamed(answer.text)
            assert len(parts) > 1
            assert "".join(part["text"] for part in parts) == whole["text"]
            assert {**last, "text": whole["text"]} == whole
            assert answer.headers["x-prompt-tokens"] == str(whole["usage"]["prompt_tokens"])

    serve(test)


def test_stop_strings_lengths_and_seeds_work_as_for_every_generated_text(serve: Callable[..., Any]) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        text = (await generate(client, prompt=LINES[0]))["text"]
        word = text.split()[2]
        cut = await generate(client, prompt=LINES[0], stop=[word])
        assert (cut["text"], cut["finish_reason"]) == (text[: text.index(word)], "stop")
        short = await generate(client, prompt=LINES[0], max_new_tokens=2)
        assert (short["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 2)
        assert text.startswith(short["text"])
        drawn = [await generate(client, prompt=LINES[0], temperature=2, seed=seed) for seed in (1, 1, 2, 3, 4)]
        assert drawn[0] == drawn[1]
        assert len({one["text"] for one in drawn}) > 1

    serve(test)


def test_what_exceeds_the_models_limits_is_refused_with_figures(serve: Callable[..., Any]) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        error = await refused(client, prompt=" ".join(LINES))
        assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
        assert f"this model reads at most {LIMITS['max_source_tokens']}" in error["message"]
        error = await refused(client, prompt="a", max_new_tokens=100)
        assert error["message"].startswith("max_new_tokens is 100, but this model writes at most 24 tokens")
        error = await refused(client, "/v1/completions", prompt="a", max_tokens=100)
        assert error["param"] == "max_tokens"
        assert error["message"].startswith("max_tokens is 100, but this model writes at most 24 tokens")

    serve(test)


def test_completions_answer_in_openais_format(serve: Callable[..., Any]) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        own = [(await generate(client, prompt=line))["text"] for line in LINES]
        http = httpx.AsyncClient(transport=client._transport, base_url="http://localhost")
        sdk = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=http)
        answer = await sdk.completions.create(model="champion", prompt=LINES, n=2)
        assert [choice.text for choice in answer.choices] == [text for text in own for _ in range(2)]
        assert {choice.finish_reason for choice in answer.choices} == {"stop"}
        parts = [part async for part in await sdk.completions.create(model="champion", prompt=LINES[0], stream=True)]
        assert "".join(part.choices[0].text for part in parts) == own[0]
        scored = await sdk.completions.create(model="champion", prompt=LINES[0], logprobs=2)
        logprobs = scored.choices[0].logprobs
        assert logprobs
        assert logprobs.token_logprobs
        assert all(value is not None and value <= 0 for value in logprobs.token_logprobs[:-1])
        with pytest.raises(openai.BadRequestError, match="the answer is the target, which holds no prompt"):
            await sdk.completions.create(model="champion", prompt=LINES[0], echo=True)
        assert (await sdk.models.list()).data[1].id == "champion"

    serve(test)


def test_token_ids_are_a_whole_source(serve: Callable[..., Any], t5: Path) -> None:
    from serving.engines.seq2seq import read_folder

    async def test(client: httpx.AsyncClient) -> None:
        rules = read_folder(t5).format
        body = {"prompt": rules.encode(LINES[1])[:-1]}  # the end token is added, the prefix is not
        answer = await client.post("/v1/completions", json=body)
        assert answer.json()["choices"][0]["text"] == (await generate(client, prompt=LINES[1]))["text"]
        assert answer.json()["usage"]["prompt_tokens"] == len(body["prompt"]) + 1
        error = await refused(client, "/v1/completions", prompt=[100_000])
        assert "100000 is not the id of a token" in error["message"]

    serve(test)


def test_routes_of_other_tasks_name_this_one(serve: Callable[..., Any]) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        error = await refused(client, "/v1/chat/completions", 404, messages=[])
        assert error["message"] == "this project's task is seq2seq; POST /generate or /v1/completions"
        about = (await client.get("/")).json()
        assert (about["name"], about["engine"], about["links"]["generate"]) == ("seq2seq", "transformers", "/generate")

    serve(test)


def test_a_model_of_another_task_is_refused_in_a_sentence(t5: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    reason = tasks.unsuitable_reason("seq2seq", tiny_gpt2)
    assert reason == "holds a model of type gpt2, while seq2seq needs an encoder with a decoder, such as T5 or BART"
    assert "holds a model of the task seq2seq" in tasks.unsuitable_reason("causal_lm", t5)
    assert tasks.unsuitable_reason("seq2seq", t5) == ""


def test_many_requests_at_once_get_what_each_gets_alone(serve: Callable[..., Any]) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        bodies = [{"prompt": LINES[n % 4], "temperature": n % 3, "seed": n} for n in range(24)]
        together = await asyncio.gather(*(generate(client, **body) for body in bodies))
        assert together == [await generate(client, **body) for body in bodies]

    serve(test)


def test_a_seed_that_ctranslate2_lacks_is_refused_only_where_texts_are_sampled(serve: Callable[..., Any]) -> None:
    pytest.importorskip("ctranslate2", reason="an optional package")

    async def test(client: httpx.AsyncClient) -> None:
        greedy = await generate(client, prompt=LINES[0], seed=1)
        assert (greedy["engine"], greedy["seed"]) == ("ctranslate2", None)
        assert greedy["text"].startswith("The quick")
        assert (await refused(client, prompt=LINES[0], seed=1, temperature=1))["param"] == "seed"
        answer = await client.post("/generate", json={"prompt": LINES[0], "stream": True})
        assert "".join(event["text"] for event in streamed(answer.text)) == greedy["text"]

    serve(test, engine="ctranslate2")


@pytest.fixture
def project(tmp_path: Path, t5: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("MODEL_DIR", raising=False)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    root = tmp_path / "project"
    root.mkdir()
    return Project(root, t5)


def test_a_new_champion_is_swapped_in_without_a_failed_request(project: Project) -> None:
    async def test() -> None:
        first = project.promote("first")
        async with running(project.root) as (served, client):
            answers: list[Any] = []

            async def ask() -> None:
                while not answers or answers[-1]["model"] == first.version:
                    answers.append(await generate(client, prompt=LINES[0]))

            asking = [asyncio.create_task(ask()) for _ in range(4)]
            await until(lambda: len(answers) > 8)
            second = project.promote("second")
            await asyncio.gather(*asking)
            assert served.swaps == 1
            assert {answer["model"] for answer in answers} == {first.version, second.version}
            assert len({answer["text"] for answer in answers}) == 1

    asyncio.run(test())


@pytest.fixture(scope="module")
def server(t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a thread, as schemathesis and a browser need one."""
    patch = pytest.MonkeyPatch()
    # Sources that any length fits, and targets that end soon.
    root = tmp_path_factory.mktemp("server")
    roomy = Path(shutil.copytree(t5, root / "t5"))
    task = {**json.loads((roomy / "task.json").read_text()), "max_source_tokens": 20_000, "max_target_tokens": 512}
    (roomy / "task.json").write_text(json.dumps(task), encoding="utf-8")
    patch.setenv("MODEL_DIR", str(roomy))
    settings = SETTINGS.model_copy(update={"max_new_tokens": 8, "default_new_tokens": 8})
    served = ServedModel(root, kind(), settings)
    application = app.make_app("seq2seq", served, settings)
    application.add_api_route("/docs.json", application.openapi, include_in_schema=False)

    @contextlib.asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        following = asyncio.create_task(served.run())
        await served.wait_for_first_attempt(300)
        yield
        following.cancel()
        await served.close()

    application.router.lifespan_context = lifespan
    config = uvicorn.Config(application, port=0, log_config=None, ws="none", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            thread.join(0.05)
        port = running.servers[0].sockets[0].getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}", root / "server.log", 0)
    finally:
        running.should_exit = True
        thread.join()
        patch.undo()


@pytest.mark.integration
def test_every_documented_operation_answers_as_documented(server: Server, tmp_path: Path) -> None:
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--max-time", "5")
    seen = run_schemathesis(server, tmp_path, *phases, "--seed", "1")
    assert all(seen[route, 200] for route in ("POST /generate", "POST /v1/completions"))


@needs_chromium
@pytest.mark.integration
def test_the_playground_shows_a_source_and_its_target_and_marks_what_was_copied(server: Server) -> None:
    with browser() as page:
        tab = Tab(page)
        tab.visit(f"{server.url}/playground")
        assert tab.value("document.querySelector('label[for=prompt]').textContent") == "Source"
        assert tab.value("document.getElementById('text').textContent") == "Target"
        tab.fill("prompt", LINES[0])
        tab.run()
        [text] = tab.texts()
        assert text == httpx.post(f"{server.url}/generate", json={"prompt": LINES[0]}).json()["text"]
        assert text.startswith("The quick")
        assert tab.value("document.querySelector('.written .prompt').textContent") == ""
        marked = tab.value("[...document.querySelectorAll('.written mark')].map(one => one.textContent)")
        assert {"The", "quick"} <= set(marked) <= {word.strip(".") for word in LINES[0].split()}
        assert tab.value("document.querySelector('.continue').hidden")
        assert not tab.complaints()
        tab.value("document.getElementById('kind').value = 'openai'")
        tab.value("document.getElementById('kind').dispatchEvent(new Event('change'))")
        code = tab.value("document.getElementById('line').textContent")
        assert "max_tokens" not in code
        assert "temperature=0" in code
