"""Tiny random decoders of each architecture held against transformers', with products in float32 and in int8."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from serving.engines import onednn
from serving.engines.decoder import DecoderRunner, unsupported_reason
from serving.engines.kv_cache import Slot

_SIZES = {
    "vocab_size": 320,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 640,
}
_LLAMA3 = {"rope_theta": 500.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_ROPES = {
    "llama3": {**_LLAMA3, "original_max_position_embeddings": 64},
    "linear": {"rope_theta": 100.0, "rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_theta": 100.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 160},
}
_MIXED = {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1, "layer_types": None}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=320, n_positions=640, n_embd=96, n_layer=2, n_head=6, tie_word_embeddings=False),
    "llama": LlamaConfig(**_SIZES, head_dim=32, attention_bias=True, mlp_bias=True),
    "llama, tied": LlamaConfig(**_SIZES, tie_word_embeddings=True),
    **{f"llama, {name}": LlamaConfig(**_SIZES, rope_parameters=rope) for name, rope in _ROPES.items()},
    "mistral": MistralConfig(**_SIZES, sliding_window=40),
    "qwen2": Qwen2Config(**_SIZES),
    "qwen3": Qwen3Config(**_SIZES | {"head_dim": 32}),
    "gemma": GemmaConfig(**_SIZES | {"head_dim": 32, "num_key_value_heads": 1}),
}


class FloatLinear:
    """A product in float32 with the interface of `Int8Linear`."""

    parts = 0

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        self.bias = torch.zeros(self.outputs)  # which the product has already
        self.multiply = partial(F.linear, weight=weight, bias=bias)


@pytest.fixture(scope="module")
def model_folder(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return what makes the folder of a random model, once for each configuration, with the tiny GPT-2's tokenizer."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = Path(shutil.copytree(tiny_gpt2, tmp_path_factory.mktemp("decoder") / "model"))
            random_model(CONFIGS[name]).save_pretrained(made[name])
        return made[name]

    return make


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model whose biases and norms are random too, so that a missing one is seen."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def logits_of(runner: DecoderRunner, ids: list[int], prompt: int) -> torch.Tensor:
    """Return the logits after the prompt and after each later token."""
    slot = runner.open(len(ids))
    chunks = [ids[at : at + 128] for at in range(0, prompt, 128)]
    chunks[-1] = chunks[-1][: prompt % 128 or 128]
    logits = [runner.step([slot], [chunk]) for chunk in chunks][-1:]
    logits += [runner.step([slot], [[token]]) for token in ids[prompt:]]
    runner.close(slot)
    return torch.cat(logits)


def reference_logits(folder: Path, ids: list[int], prompt: int) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0, prompt - 1 :]
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_with_float_products_the_logits_are_those_of_transformers(name: str, model_folder: Callable[..., Path]) -> None:
    folder = model_folder(name)
    runner = DecoderRunner(folder, FloatLinear)
    chance = random.Random(0)
    for length, prompt in ((60, 30), (310, 290)):  # with a prompt of one chunk and of several
        ids = [chance.randrange(320) for _ in range(length)]
        expected = reference_logits(folder, ids, prompt)
        torch.testing.assert_close(logits_of(runner, ids, prompt), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def int8() -> Iterator[None]:
    if not onednn.is_supported():
        pytest.skip("this processor has no AVX-512 VNNI")
    return


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_in_int8_the_logits_are_close_to_those_of_transformers(
    name: str, model_folder: Callable[..., Path], int8: None
) -> None:
    folder = model_folder(name)
    assert unsupported_reason(folder) == ""
    ids = [random.Random(1).randrange(320) for _ in range(60)]
    expected = reference_logits(folder, ids, 10)
    error = logits_of(DecoderRunner(folder), ids, 10) - expected
    assert error.std() < 0.03 * expected.std()


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen3"])
@pytest.mark.parametrize("length", [40, 250, 500])
def test_a_sequence_has_the_same_bits_alone_and_in_company(
    name: str, length: int, model_folder: Callable[..., Path], int8: None
) -> None:
    runner = DecoderRunner(model_folder(name))
    chance = random.Random(length)

    def text(count: int) -> list[int]:
        return [chance.randrange(320) for _ in range(count)]

    parts = [*(text(64) for _ in range(length // 100)), text(8), *(text(1) for _ in range(12))]
    alone = runner.open(length)
    expected = [runner.step([alone], [part]) for part in parts]
    slot, others = runner.open(length), [runner.open(size) for size in (length, 60, 250, 500, length)]
    for other in others[1:]:  # far ahead, so that the cache is read further than for the sequence alone
        for _ in range(6):
            runner.step([other], [text((other.pool.capacity - 40) // 6)])
    for part, right in zip(parts, expected, strict=True):
        company: list[Slot] = [other for other in others if chance.random() < 0.7]
        at = chance.randint(0, len(company))
        tokens = [text(chance.choice([1, 1, 1, 3])) for _ in company]
        result = runner.step([*company[:at], slot, *company[at:]], [*tokens[:at], part, *tokens[at:]])
        assert torch.equal(result[at : at + 1], right)


def test_weights_in_bfloat16_and_in_several_files_are_read(
    model_folder: Callable[..., Path], tmp_path: Path, int8: None
) -> None:
    folder = Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    ids = list(range(40))
    expected = logits_of(DecoderRunner(folder), ids, 30)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert torch.equal(logits_of(DecoderRunner(folder), ids, 30), expected)
    torch.testing.assert_close(
        logits_of(DecoderRunner(folder, FloatLinear), ids, 30), reference_logits(folder, ids, 30), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}}, "the type dynamic"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "rope_parameters": None}, "type dynamic"),
        ("llama", {"hidden_act": "mish"}, "the activation function mish"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("qwen2", _MIXED, "differs by layer"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_unsupported_models_have_a_reason(tmp_path: Path, name: str, changes: dict[str, object], sentence: str) -> None:
    config = CONFIGS[name].to_dict() | changes
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert sentence in unsupported_reason(tmp_path)
