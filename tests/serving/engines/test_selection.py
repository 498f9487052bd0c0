import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from serving.engines import int8, selection, transformers
from serving.engines.protocol import Engine, EngineError, Sampling
from serving.engines.selection import Agreement, ComparedRunner
from serving.engines.transformers import TransformersRunner

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
    monkeypatch.setattr(selection, "_SAMPLED", 2)
    monkeypatch.setattr(selection, "_TOKENS", 10)
    monkeypatch.setattr(selection, "_ENGLISH", selection._ENGLISH[:1])


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path / "engines"))
    return tmp_path / "engines"


def fits_here(folder: Path) -> None:
    if reason := int8.unsupported_reason(folder):
        pytest.skip(reason)


def checked(folder: Path, change: Callable[[torch.nn.Module], None] = lambda _: None) -> Agreement:
    """Check the reference, changed, against itself."""
    runner = TransformersRunner(folder)
    with torch.no_grad():
        change(runner._model)
    return selection.compare(folder, "v", "changed", ComparedRunner(runner))


def written(engine: Engine) -> list[int]:
    async def collect() -> list[int]:
        return [token.id async for token in engine.submit([engine.start, 40, 41], SAMPLING)]

    return asyncio.run(collect())


# The check


def test_the_reference_agrees_with_itself(sharp: Path) -> None:
    found = checked(sharp)
    assert (found.reason, found.differences) == ("", 0)
    assert found.perplexity == pytest.approx(found.reference, rel=1e-3)
    assert found.greedy_tokens > 40
    assert found.tokens > 40


@pytest.mark.parametrize(
    ("part", "factor"), [("transformer.h.1.mlp.c_proj.weight", 3.0), ("transformer.wpe.weight", -1.0)]
)
def test_a_wrong_layer_is_found(sharp: Path, part: str, factor: float) -> None:
    found = checked(sharp, lambda model: model.get_parameter(part).mul_(factor))
    assert "the reference's, at most" in found.reason


def test_a_wrong_temperature_is_found_by_the_loss_alone(sharp: Path) -> None:
    found = checked(sharp, lambda model: model.transformer.ln_f.weight.mul_(0.8))
    assert found.gap <= selection.LARGEST_GAP
    assert "nats a token from the reference's, at most 0.02 is allowed" in found.reason


def test_figures_that_are_no_numbers_are_refused(sharp: Path) -> None:
    with pytest.raises(EngineError, match="not finite"):
        checked(sharp, lambda model: model.transformer.ln_f.weight.mul_(float("nan")))


def test_the_greedy_tokens_and_the_perplexity_are_those_of_transformers(sharp: Path) -> None:
    """What the check reads of a runner is what `generate` writes and what the whole text's logits say."""
    model = AutoModelForCausalLM.from_pretrained(sharp, dtype=torch.float32).eval()
    runner = ComparedRunner(TransformersRunner(sharp))
    prompts = [[0, 9, 8, 7], [0, 30]]
    for prompt, found in zip(prompts, runner.write(prompts, 12, 0.0), strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert [*prompt, *found] == expected[0].tolist()
    texts = [[0, *range(20, 40)], [0, 7]]
    for text, found_scores in zip(texts, runner.score(texts), strict=True):
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(torch.tensor([text])).logits[0], dim=-1)
        right = [float(row[token]) for row, token in zip(logprobs, text[1:], strict=False)]
        assert found_scores == pytest.approx(right, abs=1e-4)


# What is kept of it


def test_a_version_is_checked_once_a_machine(sharp: Path, kept: Path) -> None:
    made = []

    def make() -> ComparedRunner:
        made.append(1)
        return ComparedRunner(TransformersRunner(sharp))

    first = selection.require_agreement(sharp, "some", __file__, make)
    assert selection.require_agreement(sharp, "some", __file__, make) == first
    assert len(made) == 1
    [record] = kept.iterdir()
    assert record.name.startswith(f"{first.version}-some-")
    assert json.loads(record.read_text())["reason"] == ""


def test_other_code_of_the_engine_is_checked_anew(sharp: Path, kept: Path) -> None:
    for source in (__file__, selection.__file__):
        selection.require_agreement(sharp, "some", source, lambda: ComparedRunner(TransformersRunner(sharp)))
    assert len(list(kept.iterdir())) == 2


def test_a_damaged_record_is_made_again(sharp: Path, kept: Path) -> None:
    make = lambda: ComparedRunner(TransformersRunner(sharp))  # noqa: E731 - used twice
    first = selection.require_agreement(sharp, "some", __file__, make)
    [record] = kept.iterdir()
    record.write_text("{")
    assert selection.require_agreement(sharp, "some", __file__, make) == first
    assert json.loads(record.read_text())["engine"] == "some"


def test_where_nothing_can_be_kept_the_check_is_made_each_time(
    sharp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path / "file" / "engines"))
    for _ in range(2):
        found = selection.require_agreement(sharp, "some", __file__, lambda: ComparedRunner(TransformersRunner(sharp)))
        assert found.reason == ""


def test_a_drift_is_kept_and_refused_with_its_figure(sharp: Path) -> None:
    def make() -> ComparedRunner:
        runner = TransformersRunner(sharp)
        with torch.no_grad():
            runner._model.transformer.h[0].mlp.c_proj.weight.mul_(5)
        return ComparedRunner(runner)

    for maker in (make, lambda: pytest.fail("checked again")):
        with pytest.raises(EngineError, match=r"some drifts .* version [0-9a-f]{40}: .* at most 0\.\d+ is allowed"):
            selection.require_agreement(sharp, "some", __file__, maker)  # type: ignore[arg-type]


# Which engine


def test_auto_takes_int8_for_gpt2_and_checks_it(sharp: Path, kept: Path) -> None:
    fits_here(sharp)
    engine = selection.make(sharp, "auto")
    try:
        assert engine.name == "int8"
        assert "-int8-" in next(kept.iterdir()).name
        assert len(written(engine)) == 8
    finally:
        engine.close()


def test_auto_goes_on_to_transformers_where_int8_drifts(
    sharp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fits_here(sharp)
    monkeypatch.setattr(selection, "LARGEST_DRIFT", -1.0)
    caplog.set_level("INFO", "bentoml.serving")
    engine = selection.make(sharp, "auto")
    engine.close()
    assert engine.name == "transformers"
    assert "the engine int8 drifts from the reference" in caplog.text


def test_int8_by_name_is_an_error_where_it_drifts(sharp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits_here(sharp)
    monkeypatch.setattr(selection, "LARGEST_DRIFT", -1.0)
    with pytest.raises(EngineError, match="the engine int8 drifts from the reference"):
        selection.make(sharp, "int8")


def test_auto_serves_other_architectures_with_transformers(
    tiny_gpt2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bentoml.serving")
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "llama"))
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    engine = selection.make(folder, "auto")
    assert len(written(engine)) == 8
    engine.close()
    assert engine.name == "transformers"
    assert "int8 cannot run this model: it runs GPT-2 only" in caplog.text
    with pytest.raises(EngineError, match="the engine int8 cannot run this model"):
        selection.make(folder, "int8")


def test_auto_goes_on_to_transformers_where_int8_fails_to_load(
    sharp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path) -> None:
        raise KeyError("h.0.attn.c_attn.weight")

    monkeypatch.setattr(int8, "unsupported_reason", lambda _: "")
    monkeypatch.setattr(int8, "Int8Runner", fail)
    engine = selection.make(sharp, "auto")
    engine.close()
    assert engine.name == "transformers"
    assert "int8 failed to load this model (KeyError" in caplog.text


def test_an_unknown_name_is_refused(sharp: Path) -> None:
    with pytest.raises(EngineError, match=r"service\.engine is fastest, expected one of auto, int8"):
        selection.make(sharp, "fastest")


def test_checks_lie_beside_the_registry_in_a_project_and_with_the_caches_in_a_bento(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINES_DIR")
    monkeypatch.setattr(selection, "ROOT", tmp_path / "src")
    assert selection.cache_folder() == tmp_path / "src" / "registry" / "engines"
    (tmp_path / "bento.yaml").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert selection.cache_folder() == Path("/caches/fresh-gpt2/engines")


def test_transformers_is_the_reference_and_is_not_checked(sharp: Path, kept: Path) -> None:
    engine = selection.make(sharp, "transformers")
    engine.close()
    assert engine.name == transformers.TransformersRunner.name
    assert not kept.exists()
