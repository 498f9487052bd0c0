import threading
from dataclasses import replace

import pytest
import torch

from serving.engine import AbandonedError, Engine, Generation, PromptTooLongError, Sampling
from serving.transformers_engine import TransformersEngine, cut
from tests.serving.conftest import CONTEXT, PROMPT

PLAIN = Sampling(max_new_tokens=24, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=1)


def write(engine: Engine, sampling: Sampling, prompt: str = PROMPT) -> Generation:
    return engine.generate(prompt, sampling, threading.Event())


def test_same_seed_writes_the_same_and_another_seed_something_else(engine: TransformersEngine) -> None:
    assert write(engine, PLAIN) == write(engine, PLAIN)
    assert write(engine, PLAIN) != write(engine, replace(PLAIN, seed=2))


def test_leaves_the_global_random_state_alone(engine: TransformersEngine) -> None:
    before = torch.get_rng_state()
    write(engine, PLAIN)
    assert torch.equal(torch.get_rng_state(), before)


def test_temperature_0_takes_the_likeliest_token_whatever_the_seed(engine: TransformersEngine) -> None:
    greedy = replace(PLAIN, temperature=0.0)
    likeliest = write(engine, greedy)
    assert likeliest == write(engine, replace(greedy, seed=2))
    assert likeliest == write(engine, replace(PLAIN, top_k=1))
    assert likeliest == write(engine, replace(PLAIN, top_p=1e-9))


@pytest.mark.parametrize("value", [5e-324, 1e-30, 5.0])
def test_every_allowed_temperature_and_penalty_generates(engine: TransformersEngine, value: float) -> None:
    answer = write(engine, replace(PLAIN, temperature=value, repetition_penalty=value, top_k=2**31 - 1))
    assert answer.completion_tokens >= 1


def test_a_repetition_penalty_makes_repetition_less_likely(engine: TransformersEngine) -> None:
    greedy = replace(PLAIN, temperature=0.0)
    assert len(set(write(engine, replace(greedy, repetition_penalty=5.0)).text)) > len(set(write(engine, greedy).text))


def test_stops_at_the_earliest_stop_string_and_leaves_it_out(engine: TransformersEngine) -> None:
    whole = write(engine, PLAIN)
    early, late = whole.text[5:8], whole.text[12:14]
    stopped = write(engine, replace(PLAIN, stop=(late, early)))
    assert stopped.text == whole.text[: whole.text.index(early)]
    assert stopped.finish_reason == "stop"
    assert stopped.completion_tokens < whole.completion_tokens


def test_a_stop_string_in_the_prompt_stops_nothing(engine: TransformersEngine) -> None:
    assert write(engine, replace(PLAIN, stop=("time",))) == write(engine, PLAIN)


def test_ends_at_the_end_token(engine: TransformersEngine) -> None:
    ends = [write(engine, replace(PLAIN, temperature=5.0, max_new_tokens=50, seed=seed)) for seed in range(20)]
    stopped = [end for end in ends if end.finish_reason == "stop"]
    assert stopped
    assert all("<|endoftext|>" not in end.text and end.completion_tokens <= 50 for end in stopped)


def test_length_is_the_reason_when_all_tokens_are_written(engine: TransformersEngine) -> None:
    answer = write(engine, replace(PLAIN, max_new_tokens=3))
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 3)


def test_prompt_tokens_count_the_start_token(engine: TransformersEngine) -> None:
    assert write(engine, PLAIN, prompt="x").prompt_tokens == 2


def test_fills_the_context_but_refuses_to_exceed_it(engine: TransformersEngine) -> None:
    fitting = CONTEXT - write(engine, PLAIN).prompt_tokens
    write(engine, replace(PLAIN, max_new_tokens=fitting))
    with pytest.raises(PromptTooLongError, match=rf"max_new_tokens is {fitting + 1}.* {CONTEXT} tokens"):
        write(engine, replace(PLAIN, max_new_tokens=fitting + 1))


def test_gives_up_when_nobody_waits_any_more(engine: TransformersEngine) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(AbandonedError):
        engine.generate(PROMPT, PLAIN, cancelled)


def test_the_models_own_generation_settings_do_not_leak_in(engine: TransformersEngine) -> None:
    assert engine._model.generation_config.top_k is None


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abcabc", ("c", "b"), ("a", True)),
        ("abcabc", ("bc", "b"), ("a", True)),
        ("abc", ("x",), ("abc", False)),
        ("abc", (), ("abc", False)),
        ("abc", ("abc",), ("", True)),
    ],
)
def test_cut_ends_before_the_earliest(text: str, stop: tuple[str, ...], expected: tuple[str, bool]) -> None:
    assert cut(text, stop) == expected
