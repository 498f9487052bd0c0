"""The batched engine on a GPU: its graphs, and its tokens compared with the reference's."""

import asyncio
from pathlib import Path

import pytest
import torch

from bench.adapted_models import save_adapted
from serving.engines import lora, selection
from serving.engines.batched import BatchedRunner
from serving.engines.batched_sampling import BatchSampler
from serving.engines.protocol import Sampling
from serving.engines.sampling import Sampler, sample
from serving.engines.scheduler import Scheduler
from serving.engines.transformers import TransformersRunner
from tests.serving.conftest import engine_settings
from tests.serving.engines.test_batched import PROMPTS, SETTINGS

pytestmark = pytest.mark.gpu


def test_decoding_is_replayed_from_graphs_and_agrees_with_the_models_own_logits(tiny_gpt2: Path) -> None:
    runner = BatchedRunner(tiny_gpt2, 8)
    runner.require_agreement()
    assert runner.graphs.enabled
    reference = TransformersRunner(tiny_gpt2)
    for prompt in PROMPTS:
        ours, theirs = runner.open(len(prompt) + 9), reference.open(len(prompt) + 9)
        for tokens in (prompt, *([token] for token in range(20, 29))):
            logits, expected = runner.step([ours], [tokens]).float().cpu(), reference.step([theirs], [tokens])
            assert (logits - expected).abs().max() < 0.1 * expected.std()
        runner.close(ours)
        reference.close(theirs)
    assert runner.graphs.enabled


def test_adapters_are_part_of_replayed_steps(tiny_gpt2: Path, tmp_path: Path) -> None:
    runner = BatchedRunner(tiny_gpt2, 8)
    slot = runner.open(20)
    runner.step([slot], [[0, 5]])  # a graph of before there were adapters
    runner.step([slot], [[6]])
    runner.close(slot)
    models = [save_adapted(tiny_gpt2, tmp_path / str(seed), seed, rank=4 * seed) for seed in (1, 2)]
    adapters = [runner.load_adapter(lora.read(model / "adapter", "")) for model in models]
    references = [TransformersRunner(folder) for folder in (tiny_gpt2, *models)]
    slots = [runner.open(40), *(runner.open(40, adapter) for adapter in adapters)]
    their_slots = [reference.open(40) for reference in references]
    for tokens in (PROMPTS[3], *([token] for token in range(20, 29))):
        logits = runner.step(slots, [tokens] * 3).float().cpu()
        for row, reference, theirs in zip(logits, references, their_slots, strict=True):
            expected = reference.step([theirs], [tokens])[0]
            assert (row - expected).abs().max() < 0.1 * expected.std()
    assert runner.graphs.enabled


def test_auto_chooses_it_and_requests_with_mixed_settings_are_written(tiny_gpt2: Path) -> None:
    async def work() -> list[list[int]]:
        engine = selection.make(tiny_gpt2, engine_settings("auto"))
        assert engine.name == "batched"
        assert isinstance(engine, Scheduler)

        async def request(prompt: list[int], sampling: Sampling) -> list[int]:
            return [token.id async for token in engine.submit(prompt, sampling)]

        texts = await asyncio.gather(*map(request, PROMPTS, SETTINGS))
        await asyncio.to_thread(engine.close)
        return texts

    for text, sampling in zip(asyncio.run(work()), SETTINGS, strict=True):
        assert 0 < len(text) <= sampling.max_new_tokens


def test_tokens_are_sampled_on_the_gpu_as_on_the_cpu() -> None:
    logits = 3 * torch.randn(len(SETTINGS), 5000, generator=torch.Generator().manual_seed(0))
    on_gpu, on_cpu = ([Sampler([1, 2], one) for one in SETTINGS] for _ in range(2))
    sampler = BatchSampler()
    for _ in range(5):
        tokens, expected = sampler.sample(logits.cuda(), on_gpu), sample(logits, on_cpu)
        assert [token and token.id for token in tokens] == [token and token.id for token in expected]
