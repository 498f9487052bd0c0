"""The layer under all routes that generate, over an engine that writes what a test tells it to, when it tells it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from tokenizers import Tokenizer

from serving import generation
from serving.engines.protocol import EngineError, FinishReason, Sampling, Stream, Token
from serving.errors import ApiError
from serving.generation import Generation, start
from serving.model_folder import ModelFolder
from serving.served_model import LoadedModel

SAMPLING = Sampling(max_new_tokens=16, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=1)


class Told:
    """An engine whose streams the test feeds."""

    name = "told"
    context = 64
    start = end = 0
    waiting = running = 0

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.stream = Stream.__new__(Stream)
        self.prompt: Sequence[int] = ()

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        self.prompt, self.stream = prompt, Stream()
        return self.stream

    def write(self, text: str) -> int:
        """Write the tokens of `text`; return how many."""
        ids = self.ids(text)
        for token in ids:
            self.stream.push(Token(token))
        return len(ids)

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def close(self) -> None:
        pass


@pytest.fixture
def engine(tiny_gpt2: Path) -> Told:
    return Told(tiny_gpt2)


@pytest.fixture
def loaded(engine: Told) -> LoadedModel:
    return LoadedModel(engine, "v1", None, ModelFolder(Path(), "a test"), "champion")


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    """Await `test`, with an end should it hang."""

    async def bounded() -> Any:
        async with asyncio.timeout(300):
            return await test()

    return asyncio.run(bounded())


def limit(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setattr(generation, "LIMITS", generation.LIMITS.model_copy(update=changes))


async def after(seconds: float, do: Callable[[], Any]) -> None:
    await asyncio.sleep(seconds)
    do()


def test_a_prompt_begins_with_the_start_token_be_it_text_or_tokens(engine: Told, loaded: LoadedModel) -> None:
    async def prompts() -> list[list[int]]:
        heard = []
        for prompt in ("a cat", engine.ids("a cat"), [0, *engine.ids("a cat")], "", []):
            start(loaded, prompt, SAMPLING).cancel()
            heard.append(list(engine.prompt))
        return heard

    assert run(prompts) == [[0, *engine.ids("a cat")]] * 3 + [[0]] * 2


def test_tokens_that_are_there_already_become_one_piece(engine: Told, loaded: LoadedModel) -> None:
    async def pieces() -> list[generation.Delta]:
        job = start(loaded, "", SAMPLING)
        engine.write("the fox")
        taken = []
        async for piece in job:
            taken.append(piece)
            if len(taken) == 1:
                engine.write(" and the dog")
                engine.stream.end("length")
        return taken

    first, second, last = run(pieces)
    assert (first.text, second.text, last.text) == ("the fox", " and the dog", "")
    assert [token.id for token in first.tokens] == engine.ids("the fox")
    assert (first.finish_reason, second.finish_reason, last.finish_reason) == (None, None, "length")


@pytest.mark.parametrize(("reason", "more"), [("length", 0), ("stop", 1)])
def test_the_end_token_counts_as_written(engine: Told, loaded: LoadedModel, reason: FinishReason, more: int) -> None:
    async def text() -> tuple[Generation, Any, int]:
        job = start(loaded, "a cat", SAMPLING)
        written = engine.write("the fox")
        engine.stream.end(reason)
        return job, await job.text(), written

    job, answer, written = run(text)
    assert answer == ("the fox", reason)
    assert job.completion_tokens == written + more
    assert job.prompt_tokens == 1 + len(engine.ids("a cat"))


def test_after_a_stop_string_no_more_is_taken_and_the_engine_is_told(engine: Told, loaded: LoadedModel) -> None:
    async def text() -> tuple[Generation, Any, int]:
        job = start(loaded, "", SAMPLING, ("fox",))
        counted = engine.write("the fox")
        engine.write(" and the dog")
        return job, await job.text(), counted

    job, answer, counted = run(text)
    assert answer == ("the ", "stop")
    assert job.completion_tokens == counted
    assert engine.stream.cancelled


def test_who_stops_listening_frees_the_engine(engine: Told, loaded: LoadedModel) -> None:
    async def listen() -> list[bool]:
        job = start(loaded, "", SAMPLING)
        engine.write("the fox")
        async for _ in job:
            break
        await asyncio.sleep(0.01)  # the loop closes what nobody iterates over any more
        left = engine.stream.cancelled

        task = asyncio.create_task(start(loaded, "", SAMPLING).text())
        await asyncio.sleep(0)
        running = engine.stream.cancelled
        task.cancel()
        await asyncio.wait({task})
        return [left, running, engine.stream.cancelled]

    assert run(listen) == [True, False, True]


def refused(call: Callable[[], Awaitable[Any]]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        run(call)
    return caught.value


def test_nothing_within_the_time_of_the_first_token_is_504(
    engine: Told, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, first_token_seconds=0.05)
    error = refused(lambda: start(loaded, "", SAMPLING).text())
    assert error.status == 504
    assert "nothing was written within 0.05 s" in error.message
    assert engine.stream.cancelled


def test_a_text_that_is_not_finished_in_time_is_504_though_it_began(
    engine: Told, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, first_token_seconds=0.1, timeout=0.3)
    seen: list[str] = []

    async def listen() -> None:
        job = start(loaded, "", SAMPLING)
        engine.write("the")
        late = asyncio.create_task(after(0.2, lambda: engine.write(" fox")))
        async for piece in job:
            seen.append(piece.text)
        await late

    error = refused(listen)
    assert seen == ["the", " fox"]
    assert error.status == 504
    assert "not finished within 0.3 s" in error.message


def test_an_engine_that_fails_is_500_with_its_reason_after_what_it_wrote(engine: Told, loaded: LoadedModel) -> None:
    seen: list[str] = []

    async def listen() -> None:
        job = start(loaded, "", SAMPLING)
        engine.write("the")
        engine.stream.end(None, EngineError("out of memory"))
        async for piece in job:
            seen.append(piece.text)

    error = refused(listen)
    assert (error.status, error.message, seen) == (500, "out of memory", ["the"])


def test_above_the_places_and_the_queue_it_is_429_with_retry_after(
    engine: Told, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_concurrency=2, max_queue=3)

    async def ask() -> None:
        start(loaded, "", SAMPLING).cancel()

    engine.running, engine.waiting = 2, 2
    run(ask)
    engine.waiting = 3
    error = refused(ask)
    assert error.status == 429
    assert error.headers
    assert int(error.headers["Retry-After"]) >= 1


def test_more_tokens_than_the_context_are_refused_with_all_numbers(engine: Told, loaded: LoadedModel) -> None:
    async def ask(tokens: int) -> None:
        start(loaded, list(range(1, tokens)), SAMPLING).cancel()

    run(lambda: ask(engine.context - SAMPLING.max_new_tokens))
    error = refused(lambda: ask(engine.context - SAMPLING.max_new_tokens + 1))
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert all(number in error.message for number in ("49 tokens", "is 16", "64 tokens"))


def test_the_limit_counts_the_jobs_of_all_models_and_those_that_have_nothing_to_write(
    engine: Told, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_concurrency=2, max_queue=0)
    monkeypatch.setattr(generation, "_jobs", WeakSet())  # without what other tests left behind
    monkeypatch.setattr(generation, "_engines", WeakSet())
    other = LoadedModel(engine, "v2", None, ModelFolder(Path(), "a test"), "base")
    nothing = Sampling(max_new_tokens=0, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=1)

    async def let_in() -> str | None:
        jobs = [start(loaded, "a cat", nothing), start(other, "a cat", SAMPLING)]
        with pytest.raises(ApiError) as refused:
            start(loaded, "a cat", SAMPLING)
        jobs[0].cancel()
        start(loaded, "a cat", SAMPLING).cancel()
        jobs[1].cancel()
        return refused.value.code

    assert run(let_in) == "queue_full"


def test_a_long_text_has_the_tokens_that_it_has_when_it_is_read_on_the_loop(engine: Told) -> None:
    text = "the quick brown fox " * 200
    assert run(lambda: generation.encode(engine, text)) == engine.ids(text)
