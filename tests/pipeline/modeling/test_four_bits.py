"""Frozen weights in 4 bits take an eighth of the memory; adapters are trained, and the merged model is plain."""

import copy
import sys

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline.command import UserError
from pipeline.modeling import four_bits, lora

IDS = torch.arange(1, 13)[None]
SMALL = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
T5 = {"vocab_size": 50, "d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 1, "num_heads": 2}
BASES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=64, n_head=2, n_layer=1)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1)),
    "bert with a head": lambda: BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)),
}


def loss_of(model: PreTrainedModel) -> torch.Tensor:
    labels = torch.tensor([1]) if isinstance(model, BertForSequenceClassification) else IDS
    return model(input_ids=IDS, labels=labels).loss


@pytest.mark.parametrize("name", BASES)
def test_adapters_learn_next_to_four_bits_and_merge_to_the_plain_model_that_was_trained(name: str) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    base = BASES[name]()
    model = four_bits.quantize(lora.add(copy.deepcopy(base), rank=4), torch.float32)
    frozen = [layer.get_base_layer().weight for layer in four_bits.layers(model)]
    plain = [module.weight for module in base.modules() if getattr(module, "weight", None) is not None]
    kinds = {weight.numel() for weight in plain}
    assert frozen
    assert all(weight.nbytes == weight.quant_state.shape.numel() // 2 for weight in frozen)
    assert {weight.quant_state.shape.numel() for weight in frozen} <= kinds
    steps = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], 1e-2)
    losses = []
    for _ in range(10):
        loss = loss_of(model.train())
        loss.backward()
        steps.step()
        steps.zero_grad()
        with torch.inference_mode():
            losses.append(float(loss_of(model.eval())))  # validation must leave the weights trainable
    assert losses[-1] < losses[0]
    adapter = lora.take(model)
    merged = lora.merge(model)
    with torch.inference_mode():
        assert float(loss_of(merged.eval())) == pytest.approx(losses[-1], abs=1e-5)
    assert adapter.tensors
    assert [(key, value.shape, value.dtype) for key, value in merged.state_dict().items()] == [
        (key, value.shape, value.dtype) for key, value in base.state_dict().items()
    ]
    assert [type(module) for module in merged.modules()] == [type(module) for module in base.modules()]


def test_rounding_stays_within_a_step_of_four_bits() -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    base = BASES["llama"]()
    rounded = lora.merge(four_bits.quantize(lora.add(copy.deepcopy(base), rank=4), torch.float32))
    for (name, before), after in zip(base.named_parameters(), rounded.parameters(), strict=True):
        if "proj" not in name:
            assert torch.equal(before, after), name
            continue
        # Values of NF4 lie at most 0.304 of a block's largest weight apart; 8 bits of that weight round a little more.
        blocks, errors = (value.detach().reshape(-1, 64) for value in (before, before - after))
        assert 0 < float((errors.abs() / blocks.abs().amax(1, keepdim=True)).max()) < 0.17, name


def test_without_bitsandbytes_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"finetune.frozen_weights: nf4 needs bitsandbytes.*pip install --no-deps"):
        four_bits.check()


def test_a_layer_whose_rows_are_no_whole_blocks_stays_as_it_is() -> None:
    pytest.importorskip("bitsandbytes")
    model = lora.add(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_head=2, n_layer=1)), rank=4)
    layers = four_bits.layers(four_bits.quantize(model, torch.float32))
    are_rounded = [hasattr(layer.get_base_layer().weight, "quant_state") for layer in layers]
    assert are_rounded == [False, False, False, True]  # rows of 32, but the last one's of 128
