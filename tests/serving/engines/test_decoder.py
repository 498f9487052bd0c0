"""The 8-bit GPT-2 held against transformers' in float32."""

import asyncio
import json
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM

from serving.engines import prefix_cache
from serving.engines.decoder import DecoderRunner, unsupported_reason
from serving.engines.protocol import Sampling
from serving.engines.scheduler import Scheduler

STARTER = Path(__file__).parents[3] / "starter"
GENERAL = Path(__file__).parents[3] / "pipeline" / "evaluation" / "general.csv"
TEXT = "Once upon a time in a distant land, there lived a careful baker named Ruth. One Monday, the mayor came."


@pytest.fixture(scope="module", autouse=True)
def processor() -> None:
    if reason := unsupported_reason(STARTER):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def runner() -> DecoderRunner:
    return DecoderRunner(STARTER)


@pytest.fixture(scope="module")
def text(runner: DecoderRunner) -> list[int]:
    return [runner.start, *runner.tokenizer.encode(TEXT).ids]


def test_its_logits_are_close_to_float32s(runner: DecoderRunner) -> None:
    texts = pd.read_csv(GENERAL)["text"].head(20)
    reference = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
    divergence, losses = [], []
    for text in texts:
        ids = [runner.start, *runner.tokenizer.encode(text).ids][:60]
        slot = runner.open(len(ids))
        result = torch.cat([runner.step([slot], [[token]]) for token in ids]).log_softmax(dim=-1)
        runner.close(slot)
        with torch.inference_mode():
            expected = reference(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        divergence.append(kl_div(result, expected, log_target=True, reduction="none").sum(dim=-1))
        losses.append((expected - result)[:-1].gather(-1, torch.tensor(ids[1:])[:, None]))
    assert torch.cat(divergence).mean() < 0.005  # nats a token
    assert abs(torch.cat(losses).mean()) < 0.005  # the perplexity differs by less than half a percent


def test_the_logits_of_a_sequence_have_the_same_bits_in_any_batch(runner: DecoderRunner, text: list[int]) -> None:
    alone = runner.open(60)
    expected = [runner.step([alone], [text[:10]])] + [runner.step([alone], [[token]]) for token in text[10:]]
    chance = random.Random(0)
    others = [runner.open(length) for length in (60, 60, 200, 40, 60, 400)]
    slot = runner.open(60)
    for place, part in enumerate([text[:10], *([token] for token in text[10:])]):
        company = [other for other in others if chance.random() < 0.7 and other.read < 35]
        at = chance.randint(0, len(company))
        slots = [*company[:at], slot, *company[at:]]
        parts = [[chance.randrange(500) for _ in range(chance.choice([1, 1, 1, 3]))] for _ in company]
        result = runner.step(slots, [*parts[:at], part, *parts[at:]])[at : at + 1]
        assert torch.equal(result, expected[place])
    for one in (alone, slot, *others):
        runner.close(one)


def test_a_prompt_read_in_chunks_gives_the_logits_of_the_whole(runner: DecoderRunner, text: list[int]) -> None:
    whole, parts = runner.open(64), runner.open(64)
    at_once = runner.step([whole], [text])
    runner.step([parts], [text[:7]])
    torch.testing.assert_close(runner.step([parts], [text[7:]]), at_once, rtol=0, atol=1e-3)
    runner.close(whole)
    runner.close(parts)


def test_a_reused_slot_has_no_trace_of_its_previous_sequence(runner: DecoderRunner, text: list[int]) -> None:
    first = runner.open(64)
    expected = runner.step([first], [text])
    other = runner.open(64)
    runner.close(first)
    again = runner.open(64)
    assert again.at == first.at
    assert torch.equal(runner.step([again], [text]), expected)
    runner.close(again)
    runner.close(other)


def test_large_unused_caches_are_freed(runner: DecoderRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engines.kv_cache._KEPT_BYTES", 2**20)
    slots = [runner.open(100) for _ in range(9)]
    assert slots[0].pool.cache is not None
    for slot in slots:
        runner.close(slot)
    assert slots[0].pool.cache is None


def test_a_sequence_beyond_the_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engines.kv_cache._MEMORY_RESERVE", 2**60)
    with pytest.raises(MemoryError):
        DecoderRunner(STARTER).open(10)


def test_a_seed_gives_the_same_text_alone_and_in_a_batch() -> None:
    async def write() -> None:
        engine = Scheduler(lambda: DecoderRunner(STARTER), 16)
        prompt = [engine.start, *engine.tokenizer.encode("Once upon a time").ids]

        async def one(seed: int, tokens: int = 24) -> list[int]:
            stream = engine.submit(prompt, Sampling(tokens, 0.9, 0.95, 50, 1.1, seed))
            return [token.id async for token in stream]

        alone = await one(7)
        together = await asyncio.gather(*(one(seed, 10 + seed) for seed in range(20)), one(7))
        assert together[-1] == alone
        assert len({tuple(written) for written in together}) > 15
        engine.close()

    asyncio.run(write())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "mamba"}, "of type mamba"),
        ({"activation_function": "mish"}, "mish"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_unsupported_models_have_a_reason(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    config = json.loads((STARTER / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    assert sentence in unsupported_reason(tmp_path)


def test_names_without_the_models_prefix_are_read_too(tmp_path: Path, text: list[int], runner: DecoderRunner) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(STARTER, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "genres"))
    weights = load_file(STARTER / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}, tmp_path / "model.safetensors"
    )
    other = DecoderRunner(tmp_path)
    slots = runner.open(64), other.open(64)
    assert torch.equal(runner.step([slots[0]], [text]), other.step([slots[1]], [text]))
    runner.close(slots[0])


def test_a_beginning_that_was_read_twice_is_recalled_with_the_bits_of_reading_it(runner: DecoderRunner) -> None:
    chance = random.Random(0)
    chunk = runner.prefill_tokens
    beginning = [chance.randrange(500) for _ in range(chunk)]
    prompts = [[*beginning, *(chance.randrange(500) for _ in range(9))] for _ in range(3)]

    def read(prompt: list[int]) -> tuple[int, torch.Tensor]:
        slot = runner.open(256)
        recalled = runner.recall(slot, prompt)
        if not recalled:
            runner.step([slot], [prompt[:chunk]])
        logits = [runner.step([slot], [prompt[chunk:]]), runner.step([slot], [[7]])]
        runner.close(slot)
        return recalled, torch.stack(logits)

    fresh = DecoderRunner(STARTER)
    first, second, third = (read(prompt) for prompt in prompts)
    assert [recalled for recalled, _ in (first, second, third)] == [0, 0, chunk]
    slot = fresh.open(256)
    fresh.step([slot], [prompts[2][:chunk]])
    expected = torch.stack([fresh.step([slot], [prompts[2][chunk:]]), fresh.step([slot], [[7]])])
    assert torch.equal(third[1], expected)
    other = runner.open(256)  # the beginning alone: its last token must be read, for the logits
    assert runner.recall(other, beginning) == 0
    assert runner.recall(other, [beginning[0] + 1, *prompts[2][1:]]) == 0
    runner.close(other)


def test_beginnings_that_were_used_least_recently_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = DecoderRunner(STARTER)
    chunk = runner.prefill_tokens
    prompts = [[token] * (chunk + 1) for token in (5, 6)]

    def recalled(prompt: list[int]) -> int:
        slot = runner.open(chunk + 1)
        tokens = runner.recall(slot, prompt)
        runner.step([slot], [prompt[tokens : tokens + chunk]])
        runner.close(slot)
        return tokens

    assert [recalled(prompts[0]) for _ in range(3)] == [0, 0, chunk]
    [block] = runner._beginnings._kept.values()
    monkeypatch.setattr(prefix_cache, "_KEPT_BYTES", block.nbytes)  # of one
    assert [recalled(prompts[1]) for _ in range(3)] == [0, 0, chunk]
    assert recalled(prompts[0]) == 0


def test_texts_with_a_shared_beginning_are_those_without_a_cache() -> None:
    chance = random.Random(1)
    shared = [chance.randrange(500) for _ in range(150)]
    prompts = [[*shared, *(chance.randrange(500) for _ in range(5))] for _ in range(6)]

    async def texts(concurrent: int) -> list[list[int]]:
        engine = Scheduler(lambda: DecoderRunner(STARTER), 8)
        written: list[list[int]] = []
        for at in range(0, len(prompts), concurrent):
            streams = [
                engine.submit(one, Sampling(12, 0.8, 0.95, 50, 1.0, seed=3)) for one in prompts[at : at + concurrent]
            ]
            written += [[token.id async for token in stream] for stream in streams]
        await asyncio.to_thread(engine.close)
        return written

    assert asyncio.run(texts(6)) == asyncio.run(
        texts(1)
    )  # all at once: nothing was read before; one by one: from the cache
