"""Continuous batching over a runner whose figures are known beforehand; real models are in the engines' own tests."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from serving.engines.protocol import EngineError, Sampling, Stream, Token
from serving.engines.sampling import Sampler, sample
from serving.engines.scheduler import Scheduler

END = 0
POISON = 13  # a token at which the runner fails
NOT_FINITE = 14
PRIVATE = "what nobody may log"


@dataclass
class Place:
    read: list[int] = field(default_factory=list)


class Counting:
    """After a token it writes the next number; it notes what each step was asked to read."""

    name = "counting"
    context = 1000
    start = 1
    end = END
    prefill_tokens = 8

    def __init__(self, places: int = 100) -> None:
        self.tokenizer = Tokenizer(models.BPE())
        self.places = places
        self.steps: list[list[int]] = []  # how many tokens of each text were read
        self.thread = threading.current_thread()
        self.gate = threading.Event()
        self.gate.set()

    def open(self, length: int) -> Place:
        if length > self.context or not self.places:
            raise MemoryError
        self.places -= 1
        return Place()

    def close(self, row: Place) -> None:
        self.places += 1

    def step(self, rows: Sequence[Place], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        assert threading.current_thread() is self.thread
        self.gate.wait(300)
        if any(POISON in part for part in tokens):
            raise RuntimeError(PRIVATE)
        self.steps.append([len(part) for part in tokens])
        logits = torch.zeros(len(rows), 1000)
        for at, (row, part) in enumerate(zip(rows, tokens, strict=True)):
            row.read += part
            logits[at, (part[-1] + 1) % 1000] = torch.nan if part[-1] == NOT_FINITE else 9.0
        return logits


def greedy(tokens: int) -> Sampling:
    return Sampling(tokens, 0, 1.0, 0, 1.0, 0)


def with_engine(
    work: Callable[[Scheduler, Counting], Awaitable[Any]], runner: Counting | None = None, **more: Any
) -> Any:
    """Run `work` with an engine over a runner."""

    async def run() -> Any:
        made: list[Counting] = []

        def make() -> Counting:
            made_runner = runner or Counting()
            made_runner.thread = threading.current_thread()
            made.append(made_runner)
            return made_runner

        engine = Scheduler(make, **{"max_concurrency": 4, **more})
        try:
            return await asyncio.wait_for(work(engine, made[0]), 20)
        finally:
            made[0].gate.set()
            engine.close()

    return asyncio.run(run())


async def ids(stream: Stream) -> list[int]:
    return [token.id async for token in stream]


def test_a_text_is_generated_token_by_token_and_has_a_finish_reason() -> None:
    async def work(engine: Scheduler, _: Counting) -> None:
        stream = engine.submit([1, 20], greedy(3))
        assert await ids(stream) == [21, 22, 23]
        assert stream.finish_reason == "length"
        stream = engine.submit([1, 997], greedy(9))
        assert await ids(stream) == [998, 999]  # the end token is none of them
        assert stream.finish_reason == "stop"
        assert await ids(engine.submit([1], greedy(0))) == []

    with_engine(work)


def test_a_long_prompt_is_read_in_chunks_while_others_keep_generating() -> None:
    async def work(engine: Scheduler, runner: Counting) -> None:
        writing = engine.submit([1, 20], greedy(900))
        await anext(writing)
        reading = engine.submit([*range(100, 120)], greedy(1))
        assert await ids(reading) == [120]
        assert [part for step in runner.steps[1:] for part in step if part > 1] == [8, 8, 4]
        assert all(1 in step for step in runner.steps[1:])
        assert writing.finish_reason is None

    with_engine(work)


def test_a_short_text_does_not_wait_behind_long_ones_though_the_batch_is_full() -> None:
    async def work(engine: Scheduler, runner: Counting) -> None:
        long = [engine.submit([1, 20 + n], greedy(400)) for n in range(4)]
        while len(runner.steps) < 70:
            await asyncio.sleep(0.001)
        runner.gate.clear()
        before = len(runner.steps)
        short = engine.submit([1, 20], greedy(16))
        runner.gate.set()
        assert await ids(short) == [*range(21, 37)]
        assert all(stream.finish_reason is None for stream in long)
        assert len(runner.steps) - before < 400
        assert [len(await ids(stream)) for stream in long] == [400] * 4
        assert max(map(len, runner.steps)) <= 4

    with_engine(work)


def test_a_cancelled_request_frees_its_slot_within_a_step() -> None:
    async def work(engine: Scheduler, runner: Counting) -> None:
        gone = engine.submit([1, 20], greedy(900))
        await anext(gone)
        runner.gate.clear()
        gone.cancel()
        before = len(runner.steps)
        runner.gate.set()
        while engine.running:
            await asyncio.sleep(0.001)
        assert len(runner.steps) - before <= 2  # the one that was under way, and at most one that had been begun
        assert runner.places == 100
        waiting = engine.submit([1, 20], greedy(5))
        waiting.cancel()
        await ids(engine.submit([1, 20], greedy(5)))
        assert runner.places == 100

    with_engine(work)


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list with an item for each call of the running loop from another thread."""
    loop, calls = asyncio.get_running_loop(), []
    call = loop.call_soon_threadsafe

    def counting(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name == "engine":
            calls.append(1)
        return call(*arguments, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    return calls


def test_texts_that_are_read_at_their_end_call_the_event_loop_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engine: Scheduler, runner: Counting) -> None:
        calls = count_calls(monkeypatch)
        streams = [engine.submit([1, 20 + n], greedy(100 + n)) for n in range(3)]
        texts = await asyncio.gather(*(stream.all_tokens() for stream in streams))
        assert [[token.id for token in text] for text in texts] == [[*range(21 + n, 121 + 2 * n)] for n in range(3)]
        assert len(calls) <= 3

    with_engine(work)


def test_streams_are_woken_by_one_call_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engine: Scheduler, runner: Counting) -> None:
        runner.gate.clear()
        calls = count_calls(monkeypatch)
        streams = [engine.submit([1, 20 + n], greedy(100)) for n in range(4)]
        reading = asyncio.gather(*map(ids, streams))
        await asyncio.sleep(0)
        runner.gate.set()
        assert [len(text) for text in await reading] == [100] * 4
        assert len(calls) <= len(runner.steps) + 1

    with_engine(work)


def test_tokens_of_another_thread_arrive_whole_and_in_order() -> None:
    async def work() -> list[int]:
        stream, written = Stream(), 20_000

        def write() -> None:
            for number in range(written):
                if stream.append(Token(number)):
                    stream.loop.call_soon_threadsafe(stream.notify)
            stream.loop.call_soon_threadsafe(stream.end, "length")

        writer = threading.Thread(target=write)
        writer.start()
        read: list[int] = []
        while tokens := await asyncio.wait_for(stream.next_tokens(), 60):
            read += [token.id for token in tokens]
        writer.join()
        return read

    assert asyncio.run(work()) == list(range(20_000))


def test_a_failing_sequence_ends_alone_and_the_log_has_no_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engines.scheduler.logger.propagate", True)

    async def work(engine: Scheduler, runner: Counting) -> None:
        runner.gate.clear()
        good, bad, also = (engine.submit([1, last], greedy(30)) for last in (20, POISON, 40))
        runner.gate.set()
        assert await ids(good) == [*range(21, 51)]
        assert await ids(also) == [*range(41, 71)]
        with pytest.raises(EngineError, match="failed on this request"):
            await ids(bad)
        with pytest.raises(EngineError, match="not finite"):
            await ids(engine.submit([1, NOT_FINITE], greedy(3)))

    with_engine(work)
    assert "RuntimeError" in caplog.text
    assert PRIVATE not in caplog.text


def test_a_failure_to_sample_ends_one_sequence_and_others_keep_their_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(logits: torch.Tensor, draws: Sequence[Sampler]) -> list[Token | None]:
        if any(one.sampling.top_k == POISON for one in draws):
            raise RuntimeError("can't allocate memory")
        return sample(logits, draws)

    drawn = Sampling(12, 1.5, 1.0, 0, 1.0, seed=4)

    async def alone(engine: Scheduler, _: Counting) -> list[int]:
        return await ids(engine.submit([1, 20], drawn))

    async def beside(engine: Scheduler, runner: Counting) -> list[int]:
        runner.gate.clear()
        good, bad = engine.submit([1, 20], drawn), engine.submit([1, 20], replace(drawn, top_k=POISON))
        runner.gate.set()
        with pytest.raises(EngineError, match="failed on this request"):
            await ids(bad)
        return await ids(good)

    expected = with_engine(alone)
    monkeypatch.setattr("serving.engines.scheduler.sample", fails)
    assert with_engine(beside) == expected


def test_a_sequence_waits_for_memory_and_one_that_never_fits_fails() -> None:
    async def work(engine: Scheduler, runner: Counting) -> None:
        first, second = engine.submit([1, 20], greedy(40)), engine.submit([1, 30], greedy(2))
        assert await ids(second) == [31, 32]
        assert first.finish_reason == "length"
        with pytest.raises(EngineError, match="memory"):
            await ids(engine.submit([1], greedy(5000)))

    with_engine(work, Counting(places=1))


def test_close_ends_running_requests_and_frees_the_model() -> None:
    async def work(engine: Scheduler, runner: Counting) -> "weakref.ref[Counting]":
        runner.gate.clear()
        streams = [engine.submit([1, 20], greedy(900)) for _ in range(20)]
        threading.Timer(0.1, runner.gate.set).start()
        await asyncio.to_thread(engine.close)
        for stream in [*streams, engine.submit([1], greedy(3))]:
            with pytest.raises(EngineError, match="out of service"):
                await ids(stream)
        return weakref.ref(runner)

    freed = with_engine(work)
    gc.collect()
    assert freed() is None


def test_an_error_of_the_constructor_is_raised() -> None:
    def make() -> Counting:
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        Scheduler(make, 4)
