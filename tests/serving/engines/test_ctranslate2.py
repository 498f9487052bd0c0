import asyncio
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from serving import app, tasks
from serving.engines import agreement, ctranslate2, selection
from serving.engines.protocol import EngineError, Sampling, Stream
from serving.errors import ApiError
from serving.served_model import ServedModel
from tests.serving.conftest import engine_settings, service_settings

pytest.importorskip("ctranslate2", reason="an optional package")
from serving.engines.ctranslate2 import Ctranslate2Engine

GREEDY = Sampling(12, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=1)
DRAWN = replace(GREEDY, temperature=0.9, top_p=0.95, top_k=50)
PROMPTS = [[0, *range(7, 7 + n)] for n in (3, 9, 1, 5)]


@pytest.fixture(scope="module")
def folder(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny GPT-2 with logits that differ as much as a trained model's, so that greedy tokens are decided."""
    made = Path(shutil.copytree(tiny_gpt2, tmp_path_factory.mktemp("model") / "model"))
    model = AutoModelForCausalLM.from_pretrained(made)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(15)
    model.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def engine(folder: Path, kept: Path) -> Iterator[Ctranslate2Engine]:
    engine = Ctranslate2Engine(folder, kept, max_concurrency=8)
    yield engine
    engine.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes some milliseconds, as with a real model."""
    tell = ctranslate2._call_on_loop

    def slowly(*given: Any) -> None:
        time.sleep(0.003)
        tell(*given)

    monkeypatch.setattr(ctranslate2, "_call_on_loop", slowly)


async def collect(stream: Stream) -> list[int]:
    return [token.id async for token in stream]


def test_writes_the_tokens_of_transformers_for_prompts_of_different_lengths_at_once(
    engine: Ctranslate2Engine, folder: Path
) -> None:
    async def write() -> list[list[int]]:
        return list(await asyncio.gather(*(collect(engine.submit(prompt, GREEDY)) for prompt in PROMPTS)))

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, result in zip(PROMPTS, asyncio.run(write()), strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert [*prompt, *result] == expected[0].tolist()


def test_lengths_and_settings_are_each_requests_own(engine: Ctranslate2Engine) -> None:
    async def write() -> list[tuple[int, str | None]]:
        samplings = [replace(DRAWN, max_new_tokens=count, top_k=top_k) for count in (1, 7, 30) for top_k in (0, 5)]
        streams = [engine.submit(PROMPTS[n % 4], sampling) for n, sampling in enumerate(samplings)]
        result = await asyncio.gather(*map(collect, streams))
        for sampling, tokens, stream in zip(samplings, result, streams, strict=True):
            if stream.finish_reason == "length":
                assert len(tokens) == sampling.max_new_tokens
            else:
                assert len(tokens) < sampling.max_new_tokens
            assert engine.end not in tokens
        return [(len(tokens), stream.finish_reason) for tokens, stream in zip(result, streams, strict=True)]

    assert {reason for _, reason in asyncio.run(write())} <= {"length", "stop"}


def test_ends_at_the_end_token(engine: Ctranslate2Engine) -> None:
    async def write() -> list[str | None]:
        streams = [engine.submit([0, 5 + n], replace(GREEDY, temperature=4.0, max_new_tokens=60)) for n in range(8)]
        await asyncio.gather(*map(collect, streams))
        return [stream.finish_reason for stream in streams]

    reasons = [reason for _ in range(12) for reason in asyncio.run(write())]
    assert {"stop", "length"} >= set(reasons)
    assert "stop" in reasons  # of 96 texts of 60 tokens drawn nearly evenly from 320, nearly each tenth ends early


def test_nothing_to_write_ends_at_once(engine: Ctranslate2Engine) -> None:
    async def write() -> tuple[list[int], str | None]:
        stream = engine.submit(PROMPTS[0], replace(GREEDY, max_new_tokens=0))
        return await collect(stream), stream.finish_reason

    assert asyncio.run(write()) == ([], "length")


def test_a_cancelled_request_leaves_the_batch_while_others_continue(engine: Ctranslate2Engine, slow: None) -> None:
    async def write() -> tuple[int, int]:
        gone, stays = (engine.submit(PROMPTS[0], replace(GREEDY, max_new_tokens=40)) for _ in range(2))
        assert await anext(gone)
        gone.cancel()
        tokens = await collect(stays)
        assert (engine.running, engine.waiting) == (0, 0)
        return len(gone._tokens), len(tokens)

    left, whole = asyncio.run(write())
    assert whole == 40
    assert left < 10


def test_a_short_request_does_not_wait_for_a_long_one(
    engine: Ctranslate2Engine, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctranslate2, "LONG", 32)

    async def write() -> None:
        # Two batches of four: the second waits, though there is a place for one of short texts.
        long = [engine.submit(PROMPTS[0], replace(GREEDY, max_new_tokens=40)) for _ in range(8)]
        assert await anext(long[0])
        short = engine.submit(PROMPTS[2], replace(GREEDY, max_new_tokens=2))
        assert len(await collect(short)) == 2
        assert {stream.finish_reason for stream in long} == {None}
        assert (engine.running, engine.waiting) == (4, 4)
        for stream in long:
            stream.cancel()
        while engine.running or engine.waiting:
            await asyncio.sleep(0.01)

    asyncio.run(write())


@pytest.mark.parametrize(
    ("name", "value"),
    [("repetition_penalty", 1.1), ("presence_penalty", 0.5), ("frequency_penalty", 0.5), ("logprobs", 0)],
)
def test_unsupported_fields_are_refused_by_name(engine: Ctranslate2Engine, name: str, value: Any) -> None:
    assert name in engine.unsupported_fields
    with pytest.raises(ApiError, match=f"{name} is not available with the engine ctranslate2") as result:
        engine.submit(PROMPTS[0], replace(GREEDY, **{name: value}))
    assert (result.value.status, result.value.param) == (400, name)


def test_over_http_a_seed_is_refused_and_the_answer_has_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DIR", str(folder))
    settings = service_settings()
    served = ServedModel(folder.parent, tasks.model_kind("causal_lm", engine_settings("ctranslate2")), settings)

    async def ask() -> None:
        following = asyncio.create_task(served.run())
        await served.wait_for_first_attempt(300)
        transport = httpx.ASGITransport(app.make_app("causal_lm", served, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {"prompt": "Once upon a time", "max_new_tokens": 4}
            answer = await client.post("/generate", json=body)
            assert (answer.status_code, answer.json()["seed"]) == (200, None)
            assert "x-seed" not in answer.headers
            refused = await client.post("/generate", json={**body, "seed": 1})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seed")
            completion = {"model": "champion", "prompt": "Once upon a time", "max_tokens": 4}
            assert (await client.post("/v1/completions", json=completion)).json()["seed"] is None
            refused = await client.post("/v1/completions", json={**completion, "seed": 1})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seed")
        following.cancel()
        await served.close()

    asyncio.run(ask())


def test_numbers_that_are_no_tokens_are_refused(engine: Ctranslate2Engine) -> None:
    with pytest.raises(ApiError, match="no token of this model"):
        engine.submit([0, 100_000], GREEDY)


def test_a_failure_ends_its_batch_with_an_error_and_no_other(
    engine: Ctranslate2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("a prompt")

    async def write() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_generate", fail)
            with pytest.raises(EngineError, match="failed on this batch"):
                await collect(engine.submit(PROMPTS[0], GREEDY))
        assert len(await collect(engine.submit(PROMPTS[0], GREEDY))) == 12

    asyncio.run(write())


def test_a_version_is_converted_once_and_kept(folder: Path, kept: Path, engine: Ctranslate2Engine) -> None:
    [made] = kept.iterdir()
    before = (made / "model.bin").stat()
    Ctranslate2Engine(folder, kept, 2).close()
    after = (made / "model.bin").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [one.name for one in kept.iterdir()] == [made.name]


def test_converts_at_each_start_where_nothing_can_be_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    engine = Ctranslate2Engine(folder, tmp_path / "file" / "kept", 2)
    try:
        assert len(engine.write(PROMPTS, 4, 0.0)[0]) == 4
    finally:
        engine.close()


@pytest.mark.integration
def test_is_checked_before_it_serves(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path))
    engine = selection.make(folder, engine_settings("ctranslate2"))
    engine.close()
    assert engine.name == "ctranslate2"
    assert sorted("json" in one.name for one in tmp_path.iterdir()) == [False, True]
    monkeypatch.setattr(agreement, "MAX_DRIFT", -1.0)
    for record in tmp_path.glob("*.json"):
        record.unlink()
    with pytest.raises(EngineError, match="the engine ctranslate2 drifts"):
        selection.make(folder, engine_settings("ctranslate2"))


def test_requests_that_run_or_wait_end_with_an_error_when_it_is_closed(folder: Path, kept: Path, slow: None) -> None:
    engine = Ctranslate2Engine(folder, kept, max_concurrency=2)

    async def write() -> list[str]:
        streams = [engine.submit([0], replace(DRAWN, max_new_tokens=60, seed=n)) for n in range(12)]
        await anext(streams[0], None)
        await asyncio.get_running_loop().run_in_executor(None, engine.close)
        ends = []
        for stream in (*streams, engine.submit([0], GREEDY)):
            try:
                await collect(stream)
            except EngineError as error:
                ends.append(str(error))
        return ends

    result = asyncio.run(write())
    assert "the model was taken out of service" in result
    assert result[-1] == "the model is being taken out of service"


def test_an_architecture_without_a_converter_is_reported_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "mamba"))
    config = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    with pytest.raises(EngineError, match=r"ctranslate2 cannot run this model: it has no converter .* type mamba"):
        selection.make(other, engine_settings("ctranslate2"))


def test_without_the_package_it_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"not installed; install it with `pip install ctranslate2==4\.8\.5"):
        selection.make(folder, engine_settings("ctranslate2"))


def test_the_private_table_of_ctranslate2s_converters_names_configurations_of_transformers() -> None:
    from ctranslate2.converters.transformers import _MODEL_LOADERS

    assert {"GPT2Config", "LlamaConfig"} <= set(_MODEL_LOADERS)
