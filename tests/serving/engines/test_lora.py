"""LoRA adapters on an engine's model: each request gets the text of the model that has its adapter in the weights."""

import asyncio
import json
import random
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedModel

from bench.adapted_models import save_adapted
from serving.engines import adapted, lora, onednn, selection
from serving.engines.adapted import AdaptedEngine
from serving.engines.batched import BatchedRunner
from serving.engines.decoder import DecoderRunner
from serving.engines.protocol import EngineError, Sampling, UnavailableError
from serving.engines.scheduler import Scheduler
from serving.engines.scoring import Scorer
from serving.engines.transformers import TransformersRunner
from serving.model_loader import AdapterFiles
from tests.serving.conftest import engine_settings
from tests.serving.engines.test_decoder_architectures import CONFIGS, FloatLinear, random_model

NEEDS_INT8 = pytest.mark.skipif(not onednn.is_supported(), reason="needs AVX-512 VNNI")
GREEDY = Sampling(12, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=0)
PROMPTS = [[0, *range(7, 7 + n)] for n in (3, 12, 1, 30)]
RUNNERS: dict[str, Callable[[Path], Any]] = {
    "int8, with float products": lambda folder: DecoderRunner(folder, FloatLinear),
    "transformers": TransformersRunner,
    "batched": lambda folder: BatchedRunner(folder, 8, "cpu"),
}


@pytest.fixture(scope="module", params=("gpt2", "llama", "qwen3"))
def base(request: pytest.FixtureRequest, tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model: with one tensor for queries, keys and values and transposed weights, or with three."""
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path_factory.mktemp("base") / "model"))
    random_model(CONFIGS[request.param]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(base: Path) -> list[Path]:
    """The base with adapters of two ranks."""
    return [save_adapted(base, base.parent / f"adapted-{rank}", seed=rank, rank=rank) for rank in (4, 7)]


def adapter_of(model: Path) -> lora.Adapter:
    return lora.read(model / "adapter", model.name)


def logits_after(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(torch.tensor([list(ids)])).logits[0, -1:]
    return logits


# Files


def test_an_adapter_merged_into_its_base_is_the_model_that_was_trained(base: Path, models: list[Path]) -> None:
    for folder in models:
        merged = lora.merge(AutoModelForCausalLM.from_pretrained(base), adapter_of(folder))
        expected = AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(logits_after(merged, PROMPTS[3]), logits_after(expected, PROMPTS[3]))
        assert lora.difference(base, adapter_of(folder), folder) == ""


def test_an_adapter_of_another_base_is_found_by_its_merged_weights(base: Path, models: list[Path]) -> None:
    assert re.fullmatch(r"\S+\.weight is not the same", lora.difference(models[1], adapter_of(models[0]), models[0]))
    assert lora.difference(base, adapter_of(models[1]), models[0])
    adapter = adapter_of(models[0])
    more = replace(adapter, layers={**adapter.layers, "elsewhere": next(iter(adapter.layers.values()))})
    assert lora.difference(base, more, models[0]) == "elsewhere is not in both"


def test_the_scorer_scores_with_the_adapter(base: Path, models: list[Path]) -> None:
    scored = Scorer(base, adapter_of(models[0])).score(PROMPTS[3])
    expected = Scorer(models[0]).score(PROMPTS[3])
    assert [token.logprob for token in scored[1:]] == pytest.approx([token.logprob for token in expected[1:]], abs=1e-4)


def set_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def set_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: set_config(folder, use_dora=True), "has settings that are not supported: use_dora"),
        (lambda folder: set_config(folder, bias="all"), "has settings that are not supported: bias"),
        (lambda folder: set_config(folder, peft_type="IA3"), "has settings that are not supported: peft_type IA3"),
        (lambda folder: (folder / "adapter_config.json").write_text("{", encoding="utf-8"), "cannot be read: "),
        (lambda folder: (folder / "adapter_config.json").write_text("[]", encoding="utf-8"), "cannot be read: "),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot be read: "),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"torn"), "cannot be read: "),
        (
            lambda folder: set_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(2, 2)})),
            "has lm_head.weight; expected lora_A and lora_B of linear layers, and nothing else",
        ),
        (lambda folder: set_tensors(folder, lambda tensors: tensors.popitem()), "has no lora_A and lora_B of one rank"),
        (
            lambda folder: set_tensors(folder, lambda tensors: next(iter(tensors.values())).fill_(torch.nan)),
            "a number, or adapter_config.json a lora_alpha, that is not finite: transformer.h.0",
        ),
        (lambda folder: set_config(folder, lora_alpha=float("inf")), "a lora_alpha, that is not finite"),
        (
            lambda folder: set_tensors(folder, lambda all_: all_.update({one: all_[one][:0] for one in list(all_)})),
            "has no lora_A and lora_B of one rank",
        ),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused_in_one_sentence(
    damage: Callable[[Path], object], message: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    folder = save_adapted(tiny_gpt2, tmp_path / "model", seed=0) / "adapter"
    damage(folder)
    with pytest.raises(EngineError, match=re.escape(message)) as caught:
        lora.read(folder, "damaged")
    assert str(folder) in str(caught.value)


def test_peft_scales_by_the_root_of_the_rank_where_the_config_says_so(tiny_gpt2: Path, tmp_path: Path) -> None:
    folder = save_adapted(tiny_gpt2, tmp_path / "model", seed=0) / "adapter"
    plain = lora.read(folder, "")
    set_config(folder, use_rslora=True)
    for name, layer in lora.read(folder, "").layers.items():
        torch.testing.assert_close(layer.up, 2 * plain.layers[name].up)  # of rank 4


# Runners


@pytest.mark.parametrize("name", RUNNERS)
def test_each_sequence_of_a_step_has_the_logits_of_its_merged_model(name: str, base: Path, models: list[Path]) -> None:
    runner = RUNNERS[name](base)
    adapters = [runner.load_adapter(adapter_of(model)) for model in models]
    references = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (base, *models)]
    which = [1, 2, 0, 1]  # the base, and both adapters
    slots = [
        runner.open(len(prompt) + 1, *([adapters[n - 1]] if n else []))
        for n, prompt in zip(which, PROMPTS, strict=True)
    ]
    for step in (PROMPTS, [[9]] * 4):
        logits = runner.step(slots, step).float()
        read = [prompt + [9] * (step is not PROMPTS) for prompt in PROMPTS]
        expected = torch.cat([logits_after(references[n], ids) for n, ids in zip(which, read, strict=True)])
        torch.testing.assert_close(logits, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", RUNNERS)
def test_after_one_adapter_is_unloaded_the_others_and_a_new_one_in_its_place_are_right(
    name: str, base: Path, models: list[Path]
) -> None:
    runner = RUNNERS[name](base)
    first, second = (runner.load_adapter(adapter_of(model)) for model in models)
    runner.unload_adapter(first)
    for adapter, model in ((second, models[1]), (runner.load_adapter(adapter_of(models[1])), models[1])):
        slot = runner.open(len(PROMPTS[3]), adapter)
        expected = logits_after(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), PROMPTS[3])
        torch.testing.assert_close(runner.step([slot], [PROMPTS[3]]).float(), expected, rtol=2e-4, atol=2e-4)
        runner.close(slot)
    slot = runner.open(len(PROMPTS[3]))
    expected = logits_after(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), PROMPTS[3])
    torch.testing.assert_close(runner.step([slot], [PROMPTS[3]]).float(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", RUNNERS)
def test_an_adapter_that_does_not_fit_the_model_is_refused(name: str, base: Path, models: list[Path]) -> None:
    runner = RUNNERS[name](base)
    adapter = adapter_of(models[0])
    layer, low_rank = next(iter(adapter.layers.items()))
    wide = replace(low_rank, up=torch.ones(5, 4))
    for layers in ({layer: wide}, {f"{layer}.more": low_rank}):
        with pytest.raises(EngineError, match=rf"^the adapter (changes|has) {re.escape(next(iter(layers)))}"):
            runner.load_adapter(replace(adapter, layers=layers))


@pytest.mark.parametrize("name", ["transformers", "batched"])
def test_a_model_that_joins_texts_and_tokens_for_its_mlp_takes_adapters_too(
    name: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_gpt2, tmp_path / "opt"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48}
    random_model(OPTConfig(vocab_size=320, word_embed_proj_dim=32, **sizes)).save_pretrained(base)
    model = save_adapted(base, tmp_path / "adapted", seed=1)
    runner = RUNNERS[name](base)
    slots = [runner.open(40, runner.load_adapter(adapter_of(model))), runner.open(40)]
    logits = runner.step(slots, PROMPTS[1:3]).float()
    for row, folder, prompt in zip(logits, (model, base), PROMPTS[1:3], strict=True):
        expected = logits_after(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), prompt)
        torch.testing.assert_close(row, expected[0], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", RUNNERS)
def test_files_that_change_after_an_adapter_was_loaded_change_nothing(
    name: str, base: Path, models: list[Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models[0], tmp_path / "model"))
    runner = RUNNERS[name](base)
    adapter = runner.load_adapter(lora.read(folder / "adapter", ""))
    file = folder / "adapter" / "adapter_model.safetensors"
    size = file.stat().st_size
    logits = []
    for content in (None, bytes(size), b""):
        if content is not None:
            with file.open("r+b") as opened:  # in place
                opened.write(content)
                opened.truncate(len(content))
        slot = runner.open(len(PROMPTS[3]), adapter)
        logits.append(runner.step([slot], [PROMPTS[3]]).float().clone())
    assert torch.equal(logits[1], logits[0])
    assert torch.equal(logits[2], logits[0])


# int8: the same bits in any company


@pytest.fixture
def int8(base: Path) -> DecoderRunner:
    return DecoderRunner(base)


def steps_of(runner: DecoderRunner, adapter: Any, ids: Sequence[int], others: Sequence[Any]) -> torch.Tensor:
    """Return the logits of a text by an adapter, read in two parts and by tokens, next to texts of other adapters."""
    slots = [runner.open(len(ids), one) for one in (adapter, *others)]
    logits = [
        runner.step(slots, [ids[begin:end]] * len(slots))[:1] for begin, end in [(0, 20), (20, 37), (37, 38), (38, 39)]
    ]
    for slot in slots:
        runner.close(slot)
    return torch.cat(logits)


@NEEDS_INT8
def test_a_text_with_an_adapter_has_the_same_bits_alone_and_beside_others(
    int8: DecoderRunner, models: list[Path]
) -> None:
    one, other = (int8.load_adapter(adapter_of(model)) for model in models)
    chance = random.Random(0)
    ids = [chance.randrange(320) for _ in range(40)]
    for adapter in (None, one, other):
        alone = steps_of(int8, adapter, ids, [])
        assert torch.equal(alone, steps_of(int8, adapter, ids, [one, None, other, other, one]))
    assert not torch.equal(steps_of(int8, one, ids, []), steps_of(int8, other, ids, []))


@NEEDS_INT8
def test_int8_is_as_near_to_the_merged_model_as_to_the_base(
    int8: DecoderRunner, base: Path, models: list[Path]
) -> None:
    chance = random.Random(0)
    ids = [chance.randrange(320) for _ in range(40)]
    for adapter, folder in ((None, base), *((int8.load_adapter(adapter_of(model)), model) for model in models)):
        slot = int8.open(len(ids), adapter)
        expected = logits_after(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), ids)
        error = int8.step([slot], [ids]) - expected
        assert error.square().mean().sqrt() < 0.05 * expected.std()


@NEEDS_INT8
def test_a_beginning_that_was_read_with_one_adapter_is_not_recalled_for_another(
    int8: DecoderRunner, models: list[Path]
) -> None:
    adapter = int8.load_adapter(adapter_of(models[0]))
    ids = [n % 300 for n in range(200)]
    for _ in range(2):
        slot = int8.open(len(ids), adapter)
        assert int8.recall(slot, ids) == 0
        int8.step([slot], [ids[:128]])
        int8.close(slot)
    for other, recalled in ((None, 0), (adapter, 128)):
        slot = int8.open(len(ids), other)
        assert int8.recall(slot, ids) == recalled
        int8.close(slot)


# The engine


@contextmanager
def scheduler_of(make_runner: Callable[[], Any]) -> Any:
    engine = Scheduler(make_runner, 4)
    try:
        yield engine
    finally:
        engine.close()


def texts_of(engines: Sequence[Any], prompts: Sequence[list[int]], sampling: Sampling = GREEDY) -> list[list[int]]:
    """Return what the engines write after the prompts, all at once."""

    async def work() -> list[list[int]]:
        streams = [engine.submit(prompt, sampling) for engine, prompt in zip(engines, prompts, strict=True)]
        return [[token.id for token in await stream.all_tokens()] for stream in streams]

    return asyncio.run(work())


@pytest.mark.parametrize("name", RUNNERS)
def test_requests_for_base_and_adapters_share_steps_and_get_the_texts_of_their_models(
    name: str, base: Path, models: list[Path]
) -> None:
    expected = []
    for folder in (base, *models):
        with scheduler_of(lambda folder=folder: TransformersRunner(folder)) as engine:
            expected += texts_of([engine] * 2, PROMPTS[:2])
    with scheduler_of(lambda: RUNNERS[name](base)) as engine:
        both = [AdaptedEngine(engine, adapter_of(model)) for model in models]
        engines = [one for one in (engine, *both) for _ in range(2)]
        assert texts_of(engines, PROMPTS[:2] * 3) == expected


def test_an_adapter_is_unloaded_while_its_model_goes_on(base: Path, models: list[Path]) -> None:
    with scheduler_of(lambda: TransformersRunner(base)) as engine:
        one, other = (AdaptedEngine(engine, adapter_of(model)) for model in models)
        expected = texts_of([engine, other], PROMPTS[:2])
        longest = replace(GREEDY, max_new_tokens=600)

        async def cut_off() -> None:
            stream = one.submit(PROMPTS[0], longest)
            await stream.__anext__()
            await asyncio.to_thread(one.close)
            with pytest.raises(UnavailableError, match="taken out of service"):
                await stream.all_tokens()

        asyncio.run(cut_off())
        assert texts_of([engine, other], PROMPTS[:2]) == expected
    other.close()  # after its model: nothing happens


def test_a_call_between_steps_raises_what_it_raised_and_is_refused_after_the_end(tiny_gpt2: Path) -> None:
    with scheduler_of(lambda: TransformersRunner(tiny_gpt2)) as engine:
        assert engine.call(lambda _: threading.current_thread().name) == "engine"
        with pytest.raises(ZeroDivisionError):
            engine.call(lambda _: 1 / 0)
    with pytest.raises(UnavailableError):
        engine.call(lambda _: None)


# `adapt`, which the service calls


@NEEDS_INT8
def test_an_adapter_is_compared_with_the_reference_while_its_model_serves_and_the_result_is_kept(
    base: Path, models: list[Path], tmp_path: Path
) -> None:
    settings = replace(engine_settings("int8"), cache=tmp_path)
    with scheduler_of(lambda: DecoderRunner(base)) as engine:
        for _ in range(2):
            adapted.adapt(engine, AdapterFiles(models[0] / "adapter", base, models[0]), settings)
            [record] = tmp_path.iterdir()
            assert json.loads(record.read_text(encoding="utf-8"))["engine"] == "int8-lora"


def test_an_adapter_of_another_model_and_an_engine_without_adapters_are_refused(
    base: Path, models: list[Path], tmp_path: Path
) -> None:
    settings = replace(engine_settings("int8"), cache=tmp_path)
    with scheduler_of(lambda: TransformersRunner(models[1])) as engine:
        files = AdapterFiles(models[0] / "adapter", models[1], models[0])
        with pytest.raises(EngineError, match=r"^it was trained from another model than the one in "):
            adapted.adapt(engine, files, settings)
    other: Any = type("Other", (), {"name": "ctranslate2"})()
    with pytest.raises(EngineError, match=r"^the engine ctranslate2 takes no adapters; set service.engine to auto"):
        adapted.adapt(other, files, settings)


def test_an_adapter_with_which_the_engine_drifts_is_refused_and_unloaded(
    base: Path, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(engine_settings("int8"), cache=tmp_path)
    with scheduler_of(lambda: TransformersRunner(base)) as engine:
        read = lora.read

        def read_wrongly(folder: Path, version: str) -> lora.Adapter:
            adapter = read(folder, version)
            layers = {name: replace(layer, up=-3 * layer.up) for name, layer in adapter.layers.items()}
            monkeypatch.setattr(engine, "load_adapter", lambda right: load(replace(right, layers=layers)))
            return adapter

        load = engine.load_adapter
        monkeypatch.setattr(lora, "read", read_wrongly)
        unloaded: list[Any] = []
        unload = engine.unload_adapter
        monkeypatch.setattr(engine, "unload_adapter", lambda one: (unloaded.append(one), unload(one)))
        with pytest.raises(EngineError, match="the engine transformers-lora drifts from the reference on version "):
            adapted.adapt(engine, AdapterFiles(models[0] / "adapter", base, models[0]), settings)
        assert len(unloaded) == 1
        assert not engine.call(lambda runner: runner._slots)  # all were closed


def test_an_engine_with_few_slots_compares_an_adapter_while_requests_have_them(
    base: Path, models: list[Path], tmp_path: Path
) -> None:
    settings = replace(engine_settings("batched"), cache=tmp_path, max_concurrency=1, adapters=1)
    engine = selection.make(base, settings)
    files = AdapterFiles(models[0] / "adapter", base, models[0])

    async def work() -> list[int]:
        streams = [engine.submit(prompt, replace(GREEDY, max_new_tokens=40)) for prompt in PROMPTS]
        on_top = await asyncio.to_thread(adapted.adapt, engine, files, settings)
        for stream in streams:
            assert len(await stream.all_tokens()) == 40
        return [token.id for token in await on_top.submit(PROMPTS[0], GREEDY).all_tokens()]

    try:
        text = asyncio.run(work())
    finally:
        engine.close()
    with scheduler_of(lambda: TransformersRunner(models[0])) as reference:
        assert texts_of([reference], PROMPTS[:1]) == [text]


def test_a_damaged_merged_model_is_a_sentence(base: Path, models: list[Path], tmp_path: Path) -> None:
    merged = Path(shutil.copytree(models[0], tmp_path / "merged"))
    for damage in (lambda file: file.write_bytes(b"torn"), lambda file: file.unlink()):
        damage(merged / "model.safetensors")
        with pytest.raises(EngineError, match=r"^its merged model in .* cannot be read: "):
            adapted.read_checked(AdapterFiles(merged / "adapter", base, merged))
