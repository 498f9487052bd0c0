"""Generations over an engine whose tokens the test scripts."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from serving import metrics
from serving.engines.protocol import EngineError, FinishReason, Sampling, Stream, Token
from serving.errors import ApiError
from serving.generation import Delta, Generation, TextGenerator
from serving.model_folder import ModelFolder
from serving.model_loader import LoadedModel
from tests.serving.conftest import service_settings

SAMPLING = Sampling(max_new_tokens=16, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=1)


class ScriptedEngine:
    """An engine whose streams the test feeds."""

    name = "scripted"
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
def engine(tiny_gpt2: Path) -> ScriptedEngine:
    return ScriptedEngine(tiny_gpt2)


@pytest.fixture
def loaded(engine: ScriptedEngine) -> LoadedModel:
    return LoadedModel(engine, "v1", None, ModelFolder(Path(), "a test"), "champion")


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    """Await `test`, with an end should it hang."""

    async def bounded() -> Any:
        async with asyncio.timeout(300):
            return await test()

    return asyncio.run(bounded())


def start(loaded: LoadedModel, prompt: str | Sequence[int], stop: tuple[str, ...] = (), **limits: Any) -> Generation:
    return TextGenerator(service_settings(**limits)).start(loaded, prompt, SAMPLING, stop)


async def after(seconds: float, do: Callable[[], Any]) -> None:
    await asyncio.sleep(seconds)
    do()


def test_a_prompt_of_text_or_tokens_begins_with_one_start_token(engine: ScriptedEngine, loaded: LoadedModel) -> None:
    async def prompts() -> list[list[int]]:
        heard = []
        for prompt in ("a cat", engine.ids("a cat"), [0, *engine.ids("a cat")], "", []):
            start(loaded, prompt).cancel()
            heard.append(list(engine.prompt))
        return heard

    assert run(prompts) == [[0, *engine.ids("a cat")]] * 3 + [[0]] * 2


def test_tokens_that_are_there_already_become_one_delta(engine: ScriptedEngine, loaded: LoadedModel) -> None:
    async def deltas() -> list[Delta]:
        generation = start(loaded, "")
        engine.write("the fox")
        taken = []
        async for delta in generation:
            taken.append(delta)
            if len(taken) == 1:
                engine.write(" and the dog")
                engine.stream.end("length")
        return taken

    first, second, last = run(deltas)
    assert (first.text, second.text, last.text) == ("the fox", " and the dog", "")
    assert [token.id for token in first.tokens] == engine.ids("the fox")
    assert (first.finish_reason, second.finish_reason, last.finish_reason) == (None, None, "length")


def test_a_text_that_nobody_streams_is_one_delta_at_its_end_unless_it_has_stop_strings(
    engine: ScriptedEngine, loaded: LoadedModel
) -> None:
    async def deltas(stop: tuple[str, ...]) -> list[str]:
        texts: list[str] = []

        async def read() -> None:
            async for delta in start(loaded, "", stop).as_whole():
                texts.append(delta.text)

        reading = asyncio.create_task(read())
        for word in ("the", " quick", " fox"):
            await asyncio.sleep(0.01)
            engine.write(word)
        await asyncio.sleep(0.01)
        engine.stream.end("length")
        await reading
        return texts

    assert run(lambda: deltas(())) == ["the quick fox", ""]
    assert run(lambda: deltas(("dog",))) == ["the", " quick", " fox", ""]


@pytest.mark.parametrize(("reason", "more"), [("length", 0), ("stop", 1)])
def test_the_end_token_counts_as_written(
    engine: ScriptedEngine, loaded: LoadedModel, reason: FinishReason, more: int
) -> None:
    async def text() -> tuple[Generation, Any, int]:
        generation = start(loaded, "a cat")
        written = engine.write("the fox")
        engine.stream.end(reason)
        return generation, await generation.text(), written

    generation, answer, written = run(text)
    assert answer == ("the fox", reason)
    assert generation.completion_tokens == written + more
    assert generation.prompt_tokens == 1 + len(engine.ids("a cat"))


def test_after_a_stop_string_no_token_is_taken_and_the_engine_is_cancelled(
    engine: ScriptedEngine, loaded: LoadedModel
) -> None:
    async def text() -> tuple[Generation, Any, int]:
        generation = start(loaded, "", ("fox",))
        counted = engine.write("the fox")
        engine.write(" and the dog")
        return generation, await generation.text(), counted

    generation, answer, counted = run(text)
    assert answer == ("the ", "stop")
    assert generation.completion_tokens == counted
    assert engine.stream.cancelled


def test_the_end_of_iteration_cancels_the_engine(engine: ScriptedEngine, loaded: LoadedModel) -> None:
    async def listen() -> list[bool]:
        generation = start(loaded, "")
        engine.write("the fox")
        async for _ in generation:
            break
        await asyncio.sleep(0.01)  # the loop closes what nobody iterates over any more
        left = engine.stream.cancelled

        task = asyncio.create_task(start(loaded, "").text())
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


def test_no_first_token_in_time_is_504(engine: ScriptedEngine, loaded: LoadedModel) -> None:
    error = refused(lambda: start(loaded, "", first_token_seconds=0.05).text())
    assert error.status == 504
    assert "nothing was generated within 0.05 s" in error.message
    assert engine.stream.cancelled


def test_a_text_that_is_not_finished_in_time_is_504(engine: ScriptedEngine, loaded: LoadedModel) -> None:
    seen: list[str] = []

    async def listen() -> None:
        generation = start(loaded, "", first_token_seconds=0.1, timeout=0.3)
        engine.write("the")
        late = asyncio.create_task(after(0.2, lambda: engine.write(" fox")))
        async for delta in generation:
            seen.append(delta.text)
        await late

    error = refused(listen)
    assert seen == ["the", " fox"]
    assert error.status == 504
    assert "not finished within 0.3 s" in error.message


def test_a_text_that_nobody_streams_has_begun_with_its_first_token(engine: ScriptedEngine, loaded: LoadedModel) -> None:
    running = metrics.service_metrics().running
    before = running._value.get()

    async def ask() -> None:
        generation = start(loaded, "", first_token_seconds=0.05, timeout=0.3)
        text = asyncio.create_task(generation.text())
        await asyncio.sleep(0)
        engine.write("the")
        assert running._value.get() == before + 1
        await text

    error = refused(ask)
    assert error.status == 504
    assert "not finished within 0.3 s" in error.message
    assert running._value.get() == before


def test_a_failing_engine_is_500_with_its_reason_after_its_text(engine: ScriptedEngine, loaded: LoadedModel) -> None:
    seen: list[str] = []

    async def listen() -> None:
        generation = start(loaded, "")
        engine.write("the")
        engine.stream.end(None, EngineError("out of memory"))
        async for delta in generation:
            seen.append(delta.text)

    error = refused(listen)
    assert (error.status, error.message, seen) == (500, "out of memory", ["the"])


def test_a_full_queue_is_429_with_retry_after(engine: ScriptedEngine, loaded: LoadedModel) -> None:

    async def ask() -> None:
        start(loaded, "", max_concurrency=2, max_queue=3).cancel()

    engine.running, engine.waiting = 2, 2
    run(ask)
    engine.waiting = 3
    error = refused(ask)
    assert error.status == 429
    assert error.headers
    assert int(error.headers["Retry-After"]) >= 1


def test_more_tokens_than_the_context_are_refused_with_the_numbers(engine: ScriptedEngine, loaded: LoadedModel) -> None:
    async def ask(tokens: int) -> None:
        start(loaded, list(range(1, tokens))).cancel()

    run(lambda: ask(engine.context - SAMPLING.max_new_tokens))
    error = refused(lambda: ask(engine.context - SAMPLING.max_new_tokens + 1))
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert all(number in error.message for number in ("49 tokens", "is 16", "64 tokens"))


def test_the_queue_counts_generations_of_all_models_and_those_with_nothing_to_write(
    engine: ScriptedEngine, loaded: LoadedModel
) -> None:
    generator = TextGenerator(service_settings(max_concurrency=2, max_queue=0))
    other = LoadedModel(engine, "v2", None, ModelFolder(Path(), "a test"), "base")

    async def fill() -> str | None:
        first = generator.start(loaded, "a cat", replace(SAMPLING, max_new_tokens=0))
        second = generator.start(other, "a cat", SAMPLING)
        with pytest.raises(ApiError) as refused:
            generator.start(loaded, "a cat", SAMPLING)
        first.cancel()
        generator.start(loaded, "a cat", SAMPLING).cancel()
        second.cancel()
        return refused.value.code

    assert run(fill) == "queue_full"


def test_a_long_text_has_the_same_tokens_beside_the_event_loop(engine: ScriptedEngine) -> None:
    text = "the quick brown fox " * 200
    assert run(lambda: TextGenerator(service_settings()).encode(engine, text)) == engine.ids(text)
