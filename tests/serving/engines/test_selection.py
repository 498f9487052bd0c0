import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedConfig

from serving import settings
from serving.engines import agreement, decoder, selection, transformers
from serving.engines.agreement import (
    Agreement,
    Comparable,
    ComparableRunner,
    EngineUnderTest,
    require_agreement,
)
from serving.engines.protocol import Engine, EngineError, Sampling
from serving.engines.transformers import TransformersRunner
from tests.serving.conftest import engine_settings, service_settings

pytestmark = pytest.mark.integration  # each loads the reference, some twice

SAMPLING = Sampling(8, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=1)


@pytest.fixture(scope="module")
def sharp(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny GPT-2 with logits that differ as much as a trained model's."""
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path_factory.mktemp("sharp") / "model"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(15)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare fewer tokens: the tiny model's differ soon enough."""
    monkeypatch.setattr(agreement, "SAMPLES", 2)
    monkeypatch.setattr(agreement, "SAMPLE_TOKENS", 10)
    monkeypatch.setattr(agreement, "ENGLISH", agreement.ENGLISH[:1])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path / "engines"))
    return tmp_path / "engines"


def require_int8(folder: Path) -> None:
    if reason := decoder.unsupported_reason(folder):
        pytest.skip(reason)


def compared(folder: Path, change: Callable[[torch.nn.Module], None] = lambda _: None) -> Agreement:
    """Compare the reference, changed, with itself."""
    runner = TransformersRunner(folder)
    with torch.no_grad():
        change(runner._model)
    return agreement.compare(folder, "v", "changed", ComparableRunner(runner))


def written(engine: Engine) -> list[int]:
    async def collect() -> list[int]:
        return [token.id async for token in engine.submit([engine.start, 40, 41], SAMPLING)]

    return asyncio.run(collect())


# The comparison


def test_the_reference_agrees_with_itself(sharp: Path) -> None:
    result = compared(sharp)
    assert (result.reason, result.differences) == ("", 0)
    assert result.perplexity == pytest.approx(result.reference, rel=1e-3)
    assert result.greedy_tokens > 40
    assert result.tokens > 40


@pytest.mark.parametrize(
    ("part", "factor"), [("transformer.h.1.mlp.c_proj.weight", 3.0), ("transformer.wpe.weight", -1.0)]
)
def test_a_wrong_layer_is_detected(sharp: Path, part: str, factor: float) -> None:
    result = compared(sharp, lambda model: model.get_parameter(part).mul_(factor))
    assert "the reference's, at most" in result.reason


def test_a_wrong_temperature_is_detected_by_the_loss_alone(sharp: Path) -> None:
    result = compared(sharp, lambda model: model.transformer.ln_f.weight.mul_(0.8))
    assert result.gap <= agreement.MAX_GAP
    assert "nats a token from the reference's, at most 0.02 is allowed" in result.reason


def test_logits_that_are_not_finite_are_refused(sharp: Path) -> None:
    with pytest.raises(EngineError, match="not finite"):
        compared(sharp, lambda model: model.transformer.ln_f.weight.mul_(float("nan")))


def test_greedy_tokens_and_perplexity_are_those_of_transformers(sharp: Path) -> None:
    """The comparison sees what `generate` writes and what the whole text's logits say."""
    model = AutoModelForCausalLM.from_pretrained(sharp, dtype=torch.float32).eval()
    runner = ComparableRunner(TransformersRunner(sharp))
    prompts = [[0, 9, 8, 7], [0, 30]]
    for prompt, generated in zip(prompts, runner.write(prompts, 12, 0.0), strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert [*prompt, *generated] == expected[0].tolist()
    texts = [[0, *range(20, 40)], [0, 7]]
    for text, found_scores in zip(texts, runner.score(texts), strict=True):
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(torch.tensor([text])).logits[0], dim=-1)
        right = [float(row[token]) for row, token in zip(logprobs, text[1:], strict=False)]
        assert found_scores == pytest.approx(right, abs=1e-4)


# The kept result


def some_engine(folder: Path, make: Callable[[], Comparable] | None = None) -> EngineUnderTest:
    return EngineUnderTest("some", make or (lambda: ComparableRunner(TransformersRunner(folder))))


def test_a_version_is_compared_once_on_a_machine(sharp: Path, cache: Path) -> None:
    made = []

    def make() -> ComparableRunner:
        made.append(1)
        return ComparableRunner(TransformersRunner(sharp))

    first = require_agreement(sharp, some_engine(sharp, make), cache)
    assert require_agreement(sharp, some_engine(sharp, make), cache) == first
    assert len(made) == 1
    [record] = cache.iterdir()
    assert record.name.startswith(f"{first.version}-some-")
    assert json.loads(record.read_text())["reason"] == ""


def test_changed_code_of_the_engines_is_compared_again(
    sharp: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_agreement(sharp, some_engine(sharp), cache)
    changed = Path(shutil.copytree(agreement._ENGINES, tmp_path / "code", ignore=shutil.ignore_patterns("__py*")))
    monkeypatch.setattr(agreement, "_ENGINES", changed)
    require_agreement(sharp, some_engine(sharp), cache)
    assert len(list(cache.iterdir())) == 1
    (changed / "kernels.py").write_text("")
    require_agreement(sharp, some_engine(sharp), cache)
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_record_is_made_again(sharp: Path, cache: Path) -> None:
    first = require_agreement(sharp, some_engine(sharp), cache)
    [record] = cache.iterdir()
    record.write_text("{")
    assert require_agreement(sharp, some_engine(sharp), cache) == first
    assert json.loads(record.read_text())["engine"] == "some"


def test_where_nothing_can_be_kept_each_start_compares(sharp: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        assert require_agreement(sharp, some_engine(sharp), tmp_path / "file" / "engines").reason == ""


def test_a_drift_is_kept_and_refused_with_its_figure(sharp: Path, cache: Path) -> None:
    def make() -> ComparableRunner:
        runner = TransformersRunner(sharp)
        with torch.no_grad():
            runner._model.transformer.h[0].mlp.c_proj.weight.mul_(5)
        return ComparableRunner(runner)

    for maker in (make, lambda: pytest.fail("compared again")):
        with pytest.raises(EngineError, match=r"some drifts .* version [0-9a-f]{40}: .* at most 0\.\d+ is allowed"):
            require_agreement(sharp, some_engine(sharp, maker), cache)  # type: ignore[arg-type]


# Which engine


def test_auto_chooses_int8_for_gpt2_and_compares_it(sharp: Path, cache: Path) -> None:
    require_int8(sharp)
    engine = selection.make(sharp, engine_settings("auto"))
    try:
        assert engine.name == "int8"
        assert "-int8-" in next(cache.iterdir()).name
        assert len(written(engine)) == 8
    finally:
        engine.close()


def test_auto_falls_back_to_transformers_where_int8_drifts(
    sharp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    require_int8(sharp)
    monkeypatch.setattr(agreement, "MAX_DRIFT", -1.0)
    caplog.set_level("INFO", "bentoml.serving")
    engine = selection.make(sharp, engine_settings("auto"))
    engine.close()
    assert engine.name == "transformers"
    assert "the engine int8 drifts from the reference" in caplog.text


def test_int8_requested_by_name_is_an_error_where_it_drifts(sharp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_int8(sharp)
    monkeypatch.setattr(agreement, "MAX_DRIFT", -1.0)
    with pytest.raises(EngineError, match="the engine int8 drifts from the reference"):
        selection.make(sharp, engine_settings("int8"))


def with_other_weights(tiny_gpt2: Path, folder: Path, config: PreTrainedConfig) -> Path:
    """Return a folder with the tiny GPT-2's tokenizer and a random model of `config`."""
    shutil.copytree(tiny_gpt2, folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_auto_chooses_int8_for_llama_and_compares_it(tiny_gpt2: Path, tmp_path: Path, cache: Path) -> None:
    folder = with_other_weights(tiny_gpt2, tmp_path / "llama", LlamaConfig(intermediate_size=32, **SIZES))
    require_int8(folder)
    engine = selection.make(folder, engine_settings("auto"))
    assert len(written(engine)) == 8
    engine.close()
    assert engine.name == "int8"
    assert "-int8-" in next(cache.iterdir()).name


def test_auto_serves_other_architectures_with_transformers(
    tiny_gpt2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bentoml.serving")
    folder = with_other_weights(tiny_gpt2, tmp_path / "neox", GPTNeoXConfig(intermediate_size=32, **SIZES))
    engine = selection.make(folder, engine_settings("auto"))
    assert len(written(engine)) == 8
    engine.close()
    assert engine.name == "transformers"
    assert "int8 cannot run this model: it runs models of the types gpt2, llama, " in caplog.text
    with pytest.raises(EngineError, match="the engine int8 cannot run this model"):
        selection.make(folder, engine_settings("int8"))


def test_auto_falls_back_to_transformers_where_int8_fails_to_load(
    sharp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path) -> None:
        raise KeyError("h.0.attn.c_attn.weight")

    monkeypatch.setattr(decoder, "unsupported_reason", lambda _: "")
    monkeypatch.setattr(decoder, "DecoderRunner", fail)
    engine = selection.make(sharp, engine_settings("auto"))
    engine.close()
    assert engine.name == "transformers"
    assert "int8 failed to load this model (KeyError" in caplog.text


def test_an_unknown_name_is_refused(sharp: Path) -> None:
    with pytest.raises(EngineError, match=r"service\.engine is fastest, expected one of auto, int8"):
        selection.make(sharp, engine_settings("fastest"))


def test_results_are_kept_beside_the_registry_and_for_a_bento_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINES_DIR")
    root = tmp_path / "src"
    assert settings.engine_settings(service_settings(), root).cache == root / "registry" / "engines"
    (tmp_path / "bento.yaml").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert settings.engine_settings(service_settings(), root).cache == Path("/caches/fresh-gpt2/engines")


def test_transformers_is_the_reference_and_is_not_compared(sharp: Path, cache: Path) -> None:
    engine = selection.make(sharp, engine_settings("transformers"))
    engine.close()
    assert engine.name == transformers.TransformersRunner.name
    assert not cache.exists()
