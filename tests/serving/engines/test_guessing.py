"""Guesses of the next tokens: they save steps, and change no text."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from serving.engines.decoder import DecoderRunner, unsupported_reason
from serving.engines.guessing import Guesser
from serving.engines.kv_cache import Slot
from serving.engines.protocol import Sampling, Token
from serving.engines.scheduler import Scheduler

STARTER = Path(__file__).parents[3] / "starter"
REPEATING = "One two three four. One two three four. One two three"


def test_what_followed_the_last_tokens_before_is_guessed_the_longest_match_first() -> None:
    tokens = [1, 2, 3, 9, 5, 2, 3, 7, 1, 2, 3]
    guesser = Guesser(tokens)
    assert guesser.guess(3) == [9, 5, 2]  # after 1 2 3, not the later 2 3
    assert guesser.guess(1) == [9]
    tokens += [7, 1]
    assert guesser.guess(5) == [2, 3, 7, 1]  # after 3 7 1, as far as there are tokens
    tokens.append(8)
    assert guesser.guess(3) == []
    assert Guesser([]).guess(3) == []


def test_guesses_that_are_wrong_for_long_are_made_now_and_then_only() -> None:
    guesser = Guesser([1, 2, 3, 1, 2])
    guesses = []
    for _ in range(200):
        guesses.append(guesser.guess(1))
        if guesses[-1]:
            guesser.note(0)
    assert all(guesses[:13])
    assert 2 <= sum(map(bool, guesses[20:])) < 20
    for _ in range(5):
        guesser.note(1)
    assert guesser.guess(1) == [3]


@pytest.fixture
def int8() -> None:
    if reason := unsupported_reason(STARTER):
        pytest.skip(reason)


class CountingRunner(DecoderRunner):
    """Counts its steps, and the tokens that were guessed."""

    def __init__(self, guess_rows: int) -> None:
        super().__init__(STARTER)
        self.guess_rows = guess_rows
        self.steps = self.guessed = 0

    def step(
        self, slots: Sequence[Slot], tokens: Sequence[Sequence[int]], guessed: Sequence[int] | None = None
    ) -> torch.Tensor:
        self.steps += 1
        self.guessed += sum(guessed or ())
        return super().step(slots, tokens, guessed)


def texts(runner: CountingRunner, samplings: Sequence[Sampling], concurrent: int) -> list[tuple[list[Token], object]]:
    """Return the tokens of each sampling and why they ended, with so many requests at a time."""

    async def write() -> list[tuple[list[Token], object]]:
        engine = Scheduler(lambda: runner, 8)
        prompt = [engine.start, *engine.tokenizer.encode(REPEATING).ids]
        written = []
        for at in range(0, len(samplings), concurrent):
            streams = [engine.submit(prompt, sampling) for sampling in samplings[at : at + concurrent]]
            written += [([token async for token in stream], stream.finish_reason) for stream in streams]
        await asyncio.to_thread(engine.close)
        return written

    return asyncio.run(write())


@pytest.mark.parametrize("concurrent", [1, 2, 3])
def test_texts_are_those_without_guesses_in_fewer_steps(int8: None, concurrent: int) -> None:
    samplings = [
        Sampling(40, 0.0, 1.0, 0, 1.0, 1),
        Sampling(40, 0.7, 0.95, 50, 1.0, 2),
        Sampling(40, 0.7, 0.9, 0, 1.1, 3, presence_penalty=0.3, frequency_penalty=0.2),
        Sampling(40, 0.3, 1.0, 20, 1.0, 4, logprobs=2),
        Sampling(7, 0.2, 1.0, 50, 1.0, 5),
        Sampling(1, 0.0, 1.0, 0, 1.0, 6),
    ]
    alone, without, guessing = CountingRunner(0), CountingRunner(0), CountingRunner(4)
    expected = texts(alone, samplings, 1)
    assert texts(without, samplings, concurrent) == expected
    assert texts(guessing, samplings, concurrent) == expected
    assert alone.guessed == without.guessed == 0
    assert guessing.guessed > 0
    assert guessing.steps < without.steps if concurrent == 1 else guessing.steps <= without.steps


def test_a_text_that_ends_among_right_guesses_ends_there(int8: None) -> None:
    runner = CountingRunner(4)
    [(tokens, reason)] = texts(runner, [Sampling(60, 0.0, 1.0, 0, 1.0, 1)], 1)
    assert reason == "length"
    for most in range(2, 12):
        assert texts(CountingRunner(4), [Sampling(most, 0.0, 1.0, 0, 1.0, 1)], 1) == [(tokens[:most], "length")]
    runner = CountingRunner(4)
    runner.end = tokens[9].id
    at = next(at for at, token in enumerate(tokens) if token.id == runner.end)
    assert texts(runner, [Sampling(60, 0.0, 1.0, 0, 1.0, 1)], 1) == [(tokens[:at], "stop")]


def test_logits_at_guesses_have_the_bits_of_single_steps(int8: None) -> None:
    runner = DecoderRunner(STARTER)
    chance = random.Random(0)
    prompt, guesses = ([chance.randrange(500) for _ in range(count)] for count in (20, 4))
    single, at_once, other = (runner.open(64) for _ in range(3))
    runner.step([single, at_once, other], [prompt] * 3)
    expected = torch.cat([runner.step([single], [[token]]) for token in guesses])
    assert torch.equal(runner.step([at_once], [guesses], [3]), expected)
    runner.forget(at_once, 2)  # as if the second guess were wrong
    single_again = runner.open(64)
    runner.step([single_again], [prompt])
    for token in guesses[:2]:
        runner.step([single_again], [[token]])
    for token in (7, 8):
        alone = runner.step([single_again], [[token]])
        result = runner.step([other, at_once], [[1, 2, 3], [token, 9]], [2, 1])
        assert torch.equal(result[3:4], alone)
        runner.forget(at_once, 1)
        runner.forget(other, 3)
