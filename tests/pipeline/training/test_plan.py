"""The plan of a run comes from the config alone, agrees with what real models take, and says what fits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig, T5Config
from typer.testing import CliRunner

import cli
from pipeline import params, paths
from pipeline.command import UserError
from pipeline.modeling import batches
from pipeline.modeling.loss_model import LossModel
from pipeline.training import estimate, plan
from pipeline.training.plan import Machine, Rows, Setting
from tests.conftest import Workspace

GB = 10**9
GPU = Machine(80 * GB, is_gpu=True)
LAPTOP = Machine(16 * GB, is_gpu=False)
ROWS = Rows(2, 1024)
# GPT-2 XL and Llama 3.1 8B, by their published configs.
GPT2_XL = GPT2Config(n_embd=1600, n_layer=48, n_head=25, architectures=["GPT2LMHeadModel"])
LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
    architectures=["LlamaForCausalLM"],
)


@pytest.mark.parametrize(("config", "parameters"), [(GPT2_XL, 1_557_611_200), (LLAMA_8B, 8_030_261_248)])
def test_all_weights_have_a_gradient_and_two_moments_each(config: PreTrainedConfig, parameters: int) -> None:
    state = plan.plan_state(config, Setting())
    assert state.trained == parameters
    assert (state.weights, state.gradients, state.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)


@pytest.mark.parametrize(
    ("config", "machine", "fits"),
    [
        (GPT2_XL, LAPTOP, [False, False, False, True, False, True]),
        (LLAMA_8B, GPU, [False, False, True, True, True, True]),
    ],
    ids=["1.5B on a laptop", "8B on a GPU"],
)
def test_each_setting_is_said_to_fit_or_not(config: PreTrainedConfig, machine: Machine, fits: list[bool]) -> None:
    settings = plan.alternatives(Setting())
    assert [str(setting) for setting in settings] == [
        "all weights",
        "all weights, activation_checkpointing",
        "lora_rank 8",
        "lora_rank 8, activation_checkpointing",
        "lora_rank 8, frozen_weights nf4",
        "lora_rank 8, frozen_weights nf4, activation_checkpointing",
    ]
    plans = [plan.plan(config, setting, ROWS, machine) for setting in settings]
    assert [plan.as_json(one, machine)["fits"] for one in plans] == fits
    first = plans[fits.index(True)]
    assert f"{first.setting} fits, with {first.total / 1e9:.1f} GB" in plan.verdict(plans, machine)
    least = f"the least is {plans[-1].total / 1e9:.1f} GB, with {settings[-1]}: take a smaller base or a larger machine"
    assert plan.verdict(plans, replace(machine, memory=GB)).endswith(least)
    assert plan.verdict(plans, replace(machine, memory=200 * GB)).endswith("so it fits")
    smallest = f"{settings[-1]} fits, with {plans[-1].total / 1e9:.1f} GB"
    assert plan.verdict(plans, replace(machine, memory=plans[-1].total)).endswith(smallest)


def test_what_a_step_keeps_is_what_the_real_model_keeps(tiny_gpt2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.float32, use_cache=False).train()
    rows = [{"input_ids": [7] * 48, "attention_mask": [1] * 48}] * 3
    kept = estimate.activation_bytes(LossModel(model), batches.collate_padded(rows))
    one = plan.plan(model.config, Setting(), Rows(3, 48), LAPTOP)
    assert one.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert one.activations == pytest.approx(kept, rel=0.15)


def test_blocks_left_out_count_as_those_looked_at() -> None:
    few, many = (GPT2Config(n_embd=32, n_head=2, n_layer=layers) for layers in (4, 12))
    kept = [plan.plan(config, Setting(), Rows(1, 64), LAPTOP).activations for config in (few, many)]
    model = plan._shapes(many, Setting())
    everything = plan._kept(model, Rows(1, 64), LAPTOP, Setting()) + estimate.logits_bytes(64 * many.vocab_size)
    assert kept[0] < kept[1] == everything


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(hidden_size=32, num_attention_heads=2, intermediate_size=64, num_hidden_layers=6),
        T5Config(d_model=32, d_kv=16, d_ff=64, num_heads=2, num_layers=6),
    ],
    ids=["encoder", "encoder and decoder"],
)
def test_every_architecture_is_planned_with_adapters_and_without(config: PreTrainedConfig) -> None:
    config.architectures = {"bert": ["BertForMaskedLM"], "t5": ["T5ForConditionalGeneration"]}[config.model_type]
    plain, adapters, checkpointed = (
        plan.plan(config, setting, Rows(4, 64), LAPTOP)
        for setting in (Setting(), Setting(lora_rank=4), Setting(activation_checkpointing=True))
    )
    assert 0 < adapters.trained < plain.trained / 4
    assert checkpointed.activations < plain.activations


def test_products_in_bf16_keep_the_weights_in_bf16_too() -> None:
    on_gpu, on_cpu = (plan.plan(LLAMA_8B, Setting(), Rows(1, 4), machine) for machine in (GPU, LAPTOP))
    blocks = LLAMA_8B.num_hidden_layers * (4096 * (4096 * 2 + 1024 * 2) + 3 * 4096 * 14336)
    assert on_gpu.activations - on_cpu.activations == pytest.approx(2 * blocks, rel=0.1)


def test_frozen_weights_in_four_bits_take_an_eighth_and_no_copy_in_bf16() -> None:
    plain, rounded = (
        plan.plan(LLAMA_8B, Setting(lora_rank=8, frozen_weights=kind), Rows(1, 4), GPU) for kind in ("fp32", "nf4")
    )
    blocks = LLAMA_8B.num_hidden_layers * (4096 * (4096 * 2 + 1024 * 2) + 3 * 4096 * 14336)
    assert plain.weights - rounded.weights == pytest.approx((4 - 0.516) * blocks, rel=1e-3)
    assert plain.activations - rounded.activations == pytest.approx(2 * blocks, rel=0.1)
    assert (rounded.trained, rounded.optimizer) == (plain.trained, plain.optimizer)


def test_devices_that_split_a_model_hold_a_part_each_and_gather_blocks() -> None:
    config = GPT2Config(n_embd=32, n_head=2, n_layer=2)
    alone, split = (plan.plan(config, Setting(shards=shards), Rows(1, 64), LAPTOP) for shards in (1, 4))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(split, part) == getattr(alone, part) // 4
    block = 4 * 12 * 32 * 32
    assert split.activations > alone.activations + 3 * block + 2 * 4 * config.vocab_size * 32
    assert str(split.setting) == "all weights, split among 4 devices"
    assert {(other.shards, other.frozen_weights) for other in plan.alternatives(split.setting)} == {(4, "fp32")}


def test_a_base_that_cannot_fit_is_refused_before_it_is_loaded(workspace: Workspace) -> None:
    finetune = params.load().finetune
    plan.check(GPT2_XL, finetune, ROWS, replace(GPU, memory=40 * GB))
    with pytest.raises(
        UserError,
        match=r"params.yaml: finetune: training with all weights takes about \d+\.\d GB, but there are only 16.0 GB of"
        r" memory; lora_rank 8, activation_checkpointing fits, with \d\.\d GB",
    ):
        plan.check(GPT2_XL, finetune, ROWS, LAPTOP)


def test_the_command_plans_a_config_without_weights(workspace: Workspace) -> None:
    GPT2Config(n_embd=64, n_head=2, architectures=["GPT2LMHeadModel"]).save_pretrained("planned")
    shown = CliRunner().invoke(cli.app, ["estimate", "--base", "planned", "--gpu", "0.74", "--json"])
    content = json.loads(shown.stdout)
    assert (shown.exit_code, content["settings"][0]["fits"], content["settings"][-1]["fits"]) == (1, False, True)
    shown = CliRunner().invoke(cli.app, ["estimate", "--base", "planned/config.json", "--gpu", "20"])
    assert (shown.exit_code, "so it fits" in shown.stdout) == (0, True)


def test_a_base_without_a_config_is_said(workspace: Workspace) -> None:
    with pytest.raises(UserError, match=r"models/base/config.json does not exist; run `dvc repro base`"):
        plan.read_config(paths.BASE)
