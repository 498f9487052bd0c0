"""The engine for GPUs, on a CPU: the tokens of the reference in any batch, and a refusal where it would not be."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from serving.engines import selection
from serving.engines.batched import BatchedRunner
from serving.engines.decode_graphs import DecodeGraphs, Replay, Step
from serving.engines.paged_cache import PAGE, BatchStep
from serving.engines.protocol import EngineError, Sampling, Token
from serving.engines.runner import ModelRunner
from serving.engines.sampling import Sampler, sample
from serving.engines.scheduler import Scheduler
from serving.engines.transformers import TransformersRunner
from tests.serving.conftest import engine_settings
from tests.serving.engines.test_transformers import ARCHITECTURES, TEXTS, parts

GREEDY = Sampling(10, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=0)
SETTINGS = [
    GREEDY,
    replace(GREEDY, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2, logprobs=3),
    replace(GREEDY, temperature=0.8, seed=1),
    replace(GREEDY, temperature=1.2, top_k=5, seed=2, max_new_tokens=4),
    replace(GREEDY, temperature=1.0, top_k=50, top_p=0.8, seed=3, repetition_penalty=1.5),
    replace(GREEDY, temperature=1.0, top_p=0.7, seed=4, logprobs=0, max_new_tokens=30),
]
UNTESTED = ("mamba, recurrent", "gpt-neox")  # refused; like Llama here
PROMPTS = [[0, *range(7, 7 + n)] for n in (1, 5, 21, 12, 3, 30)]


@pytest.fixture(scope="module", params=[name for name in ARCHITECTURES if name not in UNTESTED])
def folder(request: pytest.FixtureRequest, tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of some architecture, whose logits differ as much as a trained model's."""
    made = Path(shutil.copytree(tiny_gpt2, tmp_path_factory.mktemp("architecture") / "model"))
    config = ARCHITECTURES[request.param]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config) if config else AutoModelForCausalLM.from_pretrained(made)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(4)
    model.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def runner(folder: Path) -> BatchedRunner:
    return BatchedRunner(folder, 8, "cpu")


@pytest.fixture(scope="module")
def reference(folder: Path) -> TransformersRunner:
    return TransformersRunner(folder)


def written(runner: ModelRunner, prompts: Sequence[list[int]], settings: Sequence[Sampling]) -> list[list[Token]]:
    """Return what the scheduler writes when the requests come one after the other, some tokens apart."""

    async def work() -> list[list[Token]]:
        engine = Scheduler(lambda: runner, 4)

        async def request(at: int) -> list[Token]:
            await asyncio.sleep(0.003 * at)
            return [token async for token in engine.submit(prompts[at], settings[at])]

        try:
            return await asyncio.gather(*map(request, range(len(prompts))))
        finally:
            await asyncio.to_thread(engine.close)

    return asyncio.run(work())


def test_logits_are_the_references_while_texts_join_and_leave(
    runner: BatchedRunner, reference: TransformersRunner
) -> None:
    left = [parts(text, 2) for text in TEXTS]
    slots = [(runner.open(len(text)), reference.open(len(text))) for text in TEXTS]
    for step in range(2 * sum(map(len, left))):
        chosen = [n for n in range(min(step + 1, len(TEXTS))) if left[n] and (step + n) % 5]
        if step % 2:
            chosen.reverse()
        if chosen:
            tokens = [left[n].pop(0) for n in chosen]
            ours = runner.step([slots[n][0] for n in chosen], tokens)
            theirs = reference.step([slots[n][1] for n in chosen], tokens)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not any(left)
    for ours_slot, their_slot in slots:
        runner.close(ours_slot)
        reference.close(their_slot)


def test_requests_with_mixed_settings_get_the_tokens_of_the_reference(
    runner: BatchedRunner, reference: TransformersRunner
) -> None:
    result = written(runner, PROMPTS, SETTINGS)
    expected = written(reference, PROMPTS, SETTINGS)
    for ours, theirs in zip(result, expected, strict=True):
        assert [token.id for token in ours] == [token.id for token in theirs]
        assert [token.logprob for token in ours] == pytest.approx([token.logprob for token in theirs], abs=1e-4)
        assert [[number for number, _ in token.top] for token in ours] == [
            [number for number, _ in token.top] for token in theirs
        ]


def test_its_own_comparison_passes_and_finds_a_cache_that_is_not_the_models(
    runner: BatchedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.require_agreement()
    own_mask = BatchStep.mask
    monkeypatch.setattr(BatchStep, "mask", lambda step, _=None: own_mask(step, 4))
    with pytest.raises(EngineError, match=r"logits in a batch are \d\.\d+ of their spread from the model's own"):
        runner.require_agreement()


# One architecture is enough


@pytest.fixture
def gpt2(tiny_gpt2: Path) -> BatchedRunner:
    return BatchedRunner(tiny_gpt2, 2, "cpu")


def test_slots_and_pages_are_reserved_for_a_whole_text_and_returned(gpt2: BatchedRunner) -> None:
    first, second = gpt2.open(PAGE + 1), gpt2.open(1)
    assert (len(first.pages), len(second.pages)) == (2, 1)
    assert {0, 1}.isdisjoint([*first.pages, *second.pages])
    with pytest.raises(MemoryError):
        gpt2.open(1)
    gpt2.close(first)
    with pytest.raises(MemoryError):
        gpt2.open(gpt2.context + 1)
    gpt2.open(gpt2.context)


def test_what_a_broken_sequence_left_in_its_pages_reaches_nobody(gpt2: BatchedRunner) -> None:
    slot = gpt2.open(gpt2.context)
    expected = gpt2.step([slot], [[0, 9, 8]]).clone()
    gpt2.close(slot)
    for layer in gpt2._cache.layers:
        with torch.inference_mode():
            layer.keys[2 * PAGE :] = torch.nan
            layer.values[2 * PAGE :] = torch.nan
    other, again = gpt2.open(3), gpt2.open(3)
    assert torch.equal(gpt2.step([other], [[0, 9, 8]]), expected)
    assert torch.isfinite(gpt2.step([again, other], [[0, 9], [7]])).all()


def test_a_text_as_long_as_the_context_and_a_prompt_in_chunks(
    tiny_gpt2: Path, gpt2: BatchedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = TransformersRunner(tiny_gpt2)
    for of_class in (BatchedRunner, TransformersRunner):
        monkeypatch.setattr(of_class, "prefill_tokens", 20, raising=False)
    reference.prefill_tokens = 20
    prompt = [0, *range(5, 54)]
    settings = [replace(GREEDY, max_new_tokens=gpt2.context - len(prompt))]
    [ours], [theirs] = (written(one, [prompt], settings) for one in (gpt2, reference))
    assert len(ours) == 14
    assert ours == theirs


def test_a_cancelled_request_frees_its_pages(gpt2: BatchedRunner) -> None:
    async def work() -> None:
        engine = Scheduler(lambda: gpt2, 1)
        stream = engine.submit([0, 5], replace(GREEDY, max_new_tokens=60))
        await anext(stream)
        stream.cancel()
        while engine.running:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(engine.close)

    free = len(gpt2._table._free_pages)
    asyncio.run(work())
    assert len(gpt2._table._free_pages) == free


def test_rows_that_are_not_finite_give_none_and_affect_no_other_row(gpt2: BatchedRunner) -> None:
    rows = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    rows[1:3] = torch.tensor([[torch.nan], [torch.inf]])
    for one in SETTINGS:
        samplers = [[Sampler([1, 2], one) for _ in rows] for _ in range(2)]
        for _ in range(3):
            tokens = gpt2.sample(rows, samplers[0])
            assert tokens[1:3] == [None, None]
            expected = sample(rows, samplers[1])
            assert [token and token.id for token in tokens] == [token and token.id for token in expected]


def test_an_architecture_that_it_does_not_know_is_refused_and_auto_takes_transformers(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bentoml.serving")
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "mamba"))
    AutoModelForCausalLM.from_config(ARCHITECTURES["mamba, recurrent"]).save_pretrained(folder)
    with pytest.raises(EngineError, match="the engine batched cannot run this model: it keeps a state, not keys"):
        selection.make(folder, engine_settings("batched"))
    engine = selection.make(tiny_gpt2, engine_settings("batched"))
    engine.close()
    assert engine.name == "batched"


# The graphs, with a capture that a CPU can do


def graphs(capture: Any) -> tuple[DecodeGraphs, list[tuple[int, int]]]:
    """Return graphs of a step that adds up its inputs, and the sizes of the steps that ran without a graph."""
    sizes: list[tuple[int, int]] = []

    def step(inputs: torch.Tensor, length: int) -> torch.Tensor:
        sizes.append((len(inputs), length))
        return inputs.float().cumsum(1) + length

    return DecodeGraphs(step, capture), sizes


def test_a_step_is_captured_once_for_each_size_and_replayed_with_new_inputs() -> None:
    def capture(step: Step, inputs: torch.Tensor, length: int) -> Replay:
        return lambda: inputs.float().cumsum(1) + length

    captured, sizes = graphs(capture)
    for count, length in ((2, 64), (2, 64), (4, 64), (2, 128), (4, 64)):
        inputs = torch.randint(9, (count, 4))
        assert torch.equal(captured.run(inputs, length), inputs.cumsum(1) + length)
    assert sizes == [(2, 64), (4, 64), (2, 128)]


@pytest.mark.parametrize("fault", ["differs by", "cannot be captured"])
def test_a_graph_that_cannot_be_captured_or_differs_turns_all_of_them_off(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    def capture(step: Step, inputs: torch.Tensor, length: int) -> Replay:
        if fault == "cannot be captured":
            raise RuntimeError(fault)
        return lambda: inputs.float().cumsum(1)

    caplog.set_level("WARNING", "bentoml.serving")
    captured, sizes = graphs(capture)
    for _ in range(2):
        inputs = torch.randint(9, (2, 4))
        assert torch.equal(captured.run(inputs, 64), inputs.cumsum(1) + 64)
    assert not captured.enabled
    assert len(sizes) == 2
    assert "decoding runs without CUDA graphs: " in caplog.text
    assert fault in caplog.text
