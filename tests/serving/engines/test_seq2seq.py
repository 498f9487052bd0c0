"""Engines of encoders with decoders, over a tiny T5 and a tiny BART that have learned to shorten four sentences."""

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from serving.engines import agreement, seq2seq_batched, seq2seq_selection
from serving.engines.protocol import Engine, EngineError, Sampling, Stream
from serving.engines.scheduler import Scheduler
from serving.engines.seq2seq import SourceFormat, read_folder
from serving.engines.seq2seq_batched import BatchedSeq2SeqRunner
from serving.engines.seq2seq_transformers import Seq2SeqRunner, Seq2SeqScorer, load_model
from serving.errors import ApiError
from tests.conftest import LINES
from tests.serving.conftest import engine_settings
from tests.serving.seq2seq_models import LIMITS, PREFIX, make_bart, make_t5

GREEDY = Sampling(LIMITS["max_target_tokens"], temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=1)
DRAWN = replace(GREEDY, temperature=1.5, top_p=0.95, top_k=20)
SOURCES = [*LINES, "The rain", "a"]
FORCED = 40  # a token of BART's that a target begins with, as a language does in mBART


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """T5, T5 v1.1 (whose decoder does not scale its outputs), BART, and BART with a forced first token."""
    made = tmp_path_factory.mktemp("models")
    folders = {
        "t5": make_t5(made / "t5"),
        "t5 v1.1": make_t5(made / "t5v11", tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
        "bart": make_bart(made / "bart"),
    }
    folders["bart, forced"] = Path(shutil.copytree(folders["bart"], made / "forced"))
    generation = GenerationConfig.from_pretrained(folders["bart, forced"])
    generation.forced_bos_token_id = FORCED
    generation.save_pretrained(folders["bart, forced"])
    return folders


@pytest.fixture(scope="module")
def t5(folders: dict[str, Path]) -> Path:
    return folders["t5"]


@pytest.fixture(scope="module")
def engine(t5: Path) -> Iterator[Scheduler]:
    engine = Scheduler(lambda: Seq2SeqRunner(t5), max_concurrency=4)
    yield engine
    engine.close()


async def collect(stream: Stream) -> list[int]:
    return [token.id async for token in stream]


def read(engine: Engine, text: str) -> list[int]:
    rules = read_format(engine)
    return rules.complete(rules.encode(text))


def read_format(engine: Engine) -> SourceFormat:
    rules = engine.prompt_format  # type: ignore[attr-defined]
    assert isinstance(rules, SourceFormat)
    return rules


def write(engine: Engine, sources: Sequence[str], sampling: Sampling) -> list[list[int]]:
    """Write for all sources at once; an end token is included."""

    async def run() -> list[list[int]]:
        streams = [engine.submit(read(engine, source), sampling) for source in sources]
        written = await asyncio.gather(*map(collect, streams))
        ends = [[engine.end] if stream.finish_reason == "stop" else [] for stream in streams]
        return [[*ids, *end] for ids, end in zip(written, ends, strict=True)]

    return asyncio.run(run())


def generated(folder: Path, sources: Sequence[str], **settings: object) -> list[list[int]]:
    """Return what transformers' own `generate` writes, each source alone."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = []
    for source in sources:
        batch = tokenizer(PREFIX + source, return_tensors="pt")
        # Its maximum counts the start token, and a forced one; ours counts what is written after them.
        most = LIMITS["max_target_tokens"] + len(read_folder(folder).start_tokens) - 1
        texts.append(model.generate(**batch, do_sample=False, max_new_tokens=most, **settings)[0].tolist())
    return texts


def make(folder: Path, name: str) -> Engine:
    return seq2seq_selection.make(folder, engine_settings(name))


@pytest.mark.parametrize("kind", ["t5", "t5 v1.1", "bart", "bart, forced"])
def test_transformers_writes_the_tokens_of_generate_for_several_sources_at_once(
    folders: dict[str, Path], kind: str
) -> None:
    engine = make(folders[kind], "transformers")
    start = list(read_folder(folders[kind]).start_tokens)
    try:
        assert [start + ids for ids in write(engine, SOURCES, GREEDY)] == generated(folders[kind], SOURCES)
    finally:
        engine.close()


def test_the_models_of_these_tests_say_different_things(t5: Path) -> None:
    assert len({tuple(ids) for ids in generated(t5, LINES)}) == len(LINES)


def test_a_sampled_target_depends_on_its_seed_and_not_on_the_batch(engine: Scheduler) -> None:
    alone = [write(engine, [source], DRAWN)[0] for source in LINES]
    assert write(engine, LINES, DRAWN) == alone
    assert write(engine, LINES, replace(DRAWN, seed=2)) != alone


def test_the_repetition_penalty_does_not_count_the_source(engine: Scheduler, t5: Path) -> None:
    penalised = write(engine, LINES, replace(GREEDY, repetition_penalty=3.0))
    assert [[0, *ids] for ids in penalised] == generated(t5, LINES, repetition_penalty=3.0)


def test_more_requests_than_a_step_holds_all_end_and_a_short_one_ends_first(engine: Scheduler) -> None:
    async def run() -> list[int]:
        # So hot that hardly a text ends before its limit.
        long = [engine.submit(read(engine, LINES[n % 4]), replace(DRAWN, temperature=9.0, seed=n)) for n in range(9)]
        short = engine.submit(read(engine, LINES[0]), replace(GREEDY, max_new_tokens=1))
        await collect(short)
        assert any(stream.finish_reason is None for stream in long)
        return [len(ids) for ids in await asyncio.gather(*map(collect, long))]

    assert max(asyncio.run(run())) <= LIMITS["max_target_tokens"]
    assert (engine.running, engine.waiting) == (0, 0)


def test_a_cancelled_request_leaves_the_engine(engine: Scheduler) -> None:
    async def run() -> int:
        gone, stays = (engine.submit(read(engine, LINES[0]), GREEDY) for _ in range(2))
        gone.cancel()
        return len(await collect(stays))

    assert asyncio.run(run()) == len(write(engine, LINES[:1], GREEDY)[0]) - 1
    assert (engine.running, engine.waiting) == (0, 0)


def test_a_failed_step_is_repeated_from_the_source_with_the_same_bits(t5: Path) -> None:
    runner = Seq2SeqRunner(t5)
    source = read_folder(t5).format.encode(LINES[0])
    chunks = [source, [5], [6]]
    slot = runner.open(40)
    expected = [runner.step([slot], [chunk]) for chunk in chunks]
    other = runner.open(40)
    assert torch.equal(runner.step([other], [chunks[0]]), expected[0])
    with pytest.raises(IndexError):
        runner.step([other], [[10_000]])  # no token of the model
    assert torch.equal(runner.step([other], [chunks[1]]), expected[1])
    assert torch.equal(runner.step([other], [chunks[2]]), expected[2])


def test_the_scorer_gives_the_log_probabilities_of_the_whole_model(t5: Path) -> None:
    source, target = read_folder(t5).format.encode(LINES[1]), [5, 9, 7, 1]
    model = AutoModelForSeq2SeqLM.from_pretrained(t5).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *target[:-1]]])).logits[0]
    expected = torch.log_softmax(logits, dim=-1)
    tokens = Seq2SeqScorer(t5).score(source, target, top=2)
    assert [token.logprob for token in tokens] == pytest.approx(expected[range(4), target].tolist(), abs=1e-5)
    assert [token.top[0][0] for token in tokens] == expected.argmax(-1).tolist()


def test_weights_in_float16_are_never_run_in_it(t5: Path, tmp_path: Path) -> None:
    AutoModelForSeq2SeqLM.from_pretrained(t5, dtype=torch.float16).save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.float32


# The format of prompts


def test_a_source_has_the_prefix_and_the_models_special_tokens(folders: dict[str, Path]) -> None:
    for kind, (first, last) in {"t5": (None, 1), "bart": (0, 2)}.items():
        rules, tokenizer = read_folder(folders[kind]).format, AutoTokenizer.from_pretrained(folders[kind])
        ids = rules.encode("The rain")
        assert ids == tokenizer(f"{PREFIX}The rain").input_ids
        assert (ids[0] if first is not None else None, ids[-1]) == (first, last)
        plain = tokenizer("The rain", add_special_tokens=False).input_ids
        assert rules.complete(plain) == tokenizer("The rain").input_ids
        assert rules.complete(rules.complete(plain)) == rules.complete(plain)


def test_a_source_or_a_target_beyond_the_limit_is_refused_with_figures(t5: Path) -> None:
    rules = read_folder(t5).format
    rules.check_length([5] * 64, 24)
    with pytest.raises(ApiError, match=r"the prompt has 65 tokens .* reads at most 64, so shorten it") as refused:
        rules.check_length([5] * 65, 24)
    assert (refused.value.status, refused.value.param) == (400, "prompt")
    with pytest.raises(ApiError, match="max_new_tokens is 25, but this model writes at most 24") as refused:
        rules.check_length([5] * 64, 25)
    assert (refused.value.status, refused.value.param) == (400, "max_new_tokens")


def test_the_positions_of_the_architecture_bound_what_task_json_says(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["bart"], tmp_path / "model"))
    limits = {"max_source_tokens": 1000, "max_target_tokens": 1000}
    (folder / "task.json").write_text(json.dumps({"task": "seq2seq", "prefix": "", **limits}))
    rules = read_folder(folder).format
    assert (rules.max_source_tokens, rules.max_target_tokens) == (64, 63)
    (folder / "task.json").unlink()  # a base from elsewhere
    rules = read_folder(folder).format
    assert (rules.prefix, rules.max_source_tokens, rules.max_target_tokens) == ("", 64, 63)


def test_a_model_without_a_start_token_is_refused_in_a_sentence(t5: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(t5, tmp_path / "model"))
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("decoder_start_token_id")
        (folder / name).write_text(json.dumps(settings))
    with pytest.raises(EngineError, match=r"config\.json names no decoder_start_token_id"):
        make(folder, "transformers")


# Batches


@pytest.mark.parametrize("kind", ["t5", "bart, forced"])
def test_batched_writes_the_tokens_of_generate_whenever_a_target_begins(folders: dict[str, Path], kind: str) -> None:
    engine = make(folders[kind], "batched")
    start = list(read_folder(folders[kind]).start_tokens)

    async def staggered() -> list[list[int]]:
        streams = []
        for source in SOURCES:
            streams.append(engine.submit(read(engine, source), GREEDY))
            if len(streams) % 2:  # the others begin together
                await streams[-1].next_tokens()
        return [await collect(stream) for stream in streams]

    try:
        assert engine.name == "batched"
        assert [start + ids for ids in write(engine, SOURCES, GREEDY)] == generated(folders[kind], SOURCES)
        whole = [ids[:-1] if ids[-1] == engine.end else ids for ids in write(engine, SOURCES, GREEDY)]
        assert all(
            ids[len(ids) - len(late) :] == late for ids, late in zip(whole, asyncio.run(staggered()), strict=True)
        )
    finally:
        engine.close()


def test_batched_samples_each_target_by_its_own_settings(t5: Path, engine: Scheduler) -> None:
    own = [GREEDY, DRAWN, replace(DRAWN, seed=9), replace(DRAWN, temperature=0.7, max_new_tokens=3)]

    async def run(engine: Engine) -> list[list[int]]:
        streams = [engine.submit(read(engine, LINES[0]), sampling) for sampling in own]
        return list(await asyncio.gather(*map(collect, streams)))

    batched = make(t5, "batched")
    try:
        assert asyncio.run(run(batched)) == asyncio.run(run(engine))
    finally:
        batched.close()


def test_batched_reads_targets_in_one_batch_also_those_that_begin_later(t5: Path) -> None:
    runner = BatchedSeq2SeqRunner(t5)
    shapes = []
    runner._model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["decoder_input_ids"].shape)), with_kwargs=True
    )
    source = runner.prompt_format.encode(LINES[0])
    slots = [runner.open(len(source)) for _ in range(5)]
    runner.step(slots[:3], [source] * 3)
    runner.step(slots, [[5], [5], [5], source, source])
    runner.step(slots, [[6]] * 5)
    runner.close(slots[1])
    runner.step([slots[0], slots[4]], [[7]] * 2)
    runner.step([slots[2], slots[3], slots[4]], [[8]] * 3)
    assert shapes == [(3, 1), (3, 1), (2, 1), (5, 1), (2, 1), (3, 1)]


def test_batched_is_refused_where_batches_differ_from_targets_alone(t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq2seq_batched, "_MAX_DRIFT", {torch.float32: -1.0})
    with pytest.raises(EngineError, match="the engine batched cannot run this model: its logits in a batch are"):
        make(t5, "batched")


# CTranslate2


@pytest.fixture(scope="module")
def needs_ctranslate2() -> None:
    pytest.importorskip("ctranslate2", reason="an optional package")


@pytest.mark.parametrize("kind", ["t5", "t5 v1.1", "bart", "bart, forced"])
@pytest.mark.usefixtures("needs_ctranslate2")
def test_ctranslate2_writes_the_tokens_of_generate_where_they_are_decided(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    from serving.engines.seq2seq_ctranslate2 import Ctranslate2Seq2SeqEngine

    engine = Ctranslate2Seq2SeqEngine(folders[kind], tmp_path, max_concurrency=8)
    start = list(read_folder(folders[kind]).start_tokens)
    try:
        assert [start + ids for ids in write(engine, LINES, GREEDY)] == generated(folders[kind], LINES)
    finally:
        engine.close()


@pytest.mark.usefixtures("needs_ctranslate2")
def test_auto_takes_ctranslate2_where_it_agrees_and_else_transformers(
    t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path))
    engine = make(t5, "auto")
    engine.close()
    assert engine.name == "ctranslate2"
    [record] = tmp_path.glob("*.json")
    result = agreement.Agreement(**json.loads(record.read_text()))
    assert (result.reason, result.engine) == ("", "ctranslate2")
    assert result.greedy_tokens > 50
    assert result.tokens > 100
    record.unlink()
    monkeypatch.setattr(agreement, "MAX_DRIFT", -1.0)
    engine = make(t5, "auto")
    engine.close()
    assert engine.name == "transformers"
    with pytest.raises(EngineError, match="the engine ctranslate2 drifts from the reference"):
        make(t5, "ctranslate2")


@pytest.mark.usefixtures("needs_ctranslate2")
def test_ctranslate2_takes_a_seed_where_it_changes_nothing_and_else_refuses_it(t5: Path, tmp_path: Path) -> None:
    from serving.engines.seq2seq_ctranslate2 import Ctranslate2Seq2SeqEngine

    engine = Ctranslate2Seq2SeqEngine(t5, tmp_path, max_concurrency=2)
    try:
        assert write(engine, LINES, replace(GREEDY, seeded=True)) == write(engine, LINES, GREEDY)
        with pytest.raises(ApiError, match="seed is not available"):
            write(engine, LINES, replace(DRAWN, seeded=True))
        assert len(write(engine, LINES, replace(GREEDY, max_new_tokens=2))[0]) == 2
    finally:
        engine.close()


def test_engines_that_run_no_encoder_decoder_are_refused_by_name(t5: Path) -> None:
    for name in ("int8", "vllm"):
        with pytest.raises(
            EngineError, match=rf"service\.engine is {name}, .* expected one of auto, batched, ctranslate2, tr"
        ):
            make(t5, name)
