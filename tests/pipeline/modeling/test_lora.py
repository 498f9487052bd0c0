"""Adapters start as no change, learn alone, and end as plain weights with the same output."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline.modeling import batches, lora, loss_model
from pipeline.tasks.seq2seq import TASK
from pipeline.training import optimizer
from tests.tiny_seq2seq import make_bart, make_t5

IDS = torch.arange(1, 13)[None]


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_cache=False)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits


def trained(folder: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    model = lora.add(load(folder), rank=4)
    optimizer_class, settings = optimizer.class_and_settings(1e-2)
    steps = optimizer_class([parameter for parameter in model.parameters() if parameter.requires_grad], **settings)
    for _ in range(3):
        model.train()(IDS, labels=IDS).loss.backward()
        steps.step()
        steps.zero_grad()
    return model


def test_new_adapters_change_nothing_and_are_all_that_is_trained(tiny_gpt2: Path) -> None:
    plain = load(tiny_gpt2)
    model = lora.add(load(tiny_gpt2), rank=4)
    assert torch.equal(logits(model), logits(plain))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert sum(name.endswith("lora_A.default.weight") for name in names) == 4 * 2  # layers a block x blocks


def test_the_merged_model_is_plain_and_answers_as_with_its_adapters(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = trained(tiny_gpt2)
    with_adapters = logits(model)
    assert not torch.allclose(with_adapters, logits(load(tiny_gpt2)), atol=1e-3)
    merged = lora.merge(model)
    assert merged.state_dict().keys() == load(tiny_gpt2).state_dict().keys()
    torch.testing.assert_close(logits(merged), with_adapters, atol=1e-5, rtol=1e-5)
    merged.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path)), logits(merged))


def test_adapters_train_in_a_loss_model(tiny_gpt2: Path) -> None:
    rows = [{"input_ids": IDS[0].tolist(), "attention_mask": [1] * 12}]
    model = loss_model.prepare(load(tiny_gpt2)).train()
    lora.add(model.model, rank=4)
    model(**batches.collate_packed(rows))["loss"].backward()
    has_gradient = {name: parameter.grad is not None for name, parameter in model.named_parameters()}
    assert all(has == ("lora_" in name) for name, has in has_gradient.items())


SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_labels": 3,
}

TINY_T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


def trained_names(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (lambda _: BertForSequenceClassification(BertConfig(**SMALL)), {"classifier", "bert.pooler.dense"}),
        (
            lambda _: RobertaForSequenceClassification(RobertaConfig(**SMALL)),
            {"classifier.dense", "classifier.out_proj"},
        ),
        (lambda gpt2: GPT2ForSequenceClassification.from_pretrained(gpt2), {"score"}),
    ],
    ids=["bert", "roberta", "gpt2"],
)
def test_the_new_head_of_a_classifier_is_trained_whole_beside_the_adapters(tiny_gpt2: Path, make, head) -> None:
    model = make(tiny_gpt2).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        expected = model(IDS[:, :1]).logits
    lora.add(model, rank=2)
    with torch.inference_mode():
        assert torch.equal(model(IDS[:, :1]).logits, expected)
    plain = {name for name in trained_names(model) if "lora_" not in name}
    assert {name.rpartition(".")[0] for name in plain} == head
    assert any("lora_" in name for name in trained_names(model))
    model.train()(IDS[:, :1], labels=torch.tensor([1])).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    merged = lora.merge(model).state_dict()
    assert merged.keys() == before.keys()
    assert all(not torch.equal(merged[name], before[name]) for name in plain)


def tiny_llama(_: Path) -> PreTrainedModel:
    shape = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=1))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (load, {}),
        (tiny_llama, {}),
        (lambda _: BertForSequenceClassification(BertConfig(**SMALL)), {}),
        (lambda _: RobertaForSequenceClassification(RobertaConfig(**SMALL)), {}),
        (lambda gpt2: GPT2ForSequenceClassification.from_pretrained(gpt2), {}),
        (lambda _: T5ForConditionalGeneration(T5Config(**TINY_T5)), {"decoder_input_ids": IDS[:, :4]}),
    ],
    ids=["gpt2", "llama", "bert with a head", "roberta with a head", "gpt2 with a head", "t5"],
)
def test_peft_reads_the_kept_adapter_on_top_of_the_base(tiny_gpt2: Path, tmp_path: Path, make, inputs) -> None:
    torch.manual_seed(0)
    base = make(tiny_gpt2).eval()
    model = lora.add(copy.deepcopy(base), rank=2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    adapter = lora.take(model)
    merged = lora.merge(model)
    adapter.save(tmp_path / "adapter", "org/model@0123abcd")
    with torch.inference_mode():
        expected = merged(IDS[:, :1], **inputs).logits
        plain = base(IDS[:, :1], **inputs).logits
        answered = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=IDS[:, :1], **inputs).logits
    assert not torch.allclose(plain, expected, atol=1e-3)
    torch.testing.assert_close(answered, expected, atol=1e-4, rtol=1e-4)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "0123abcd")


def test_a_head_that_has_learned_to_predict_tokens_gets_adapters(tmp_path: Path) -> None:
    model = lora.add(RobertaForMaskedLM(RobertaConfig(**SMALL)), rank=2)
    assert all("lora_" in name for name in trained_names(model))


@pytest.mark.parametrize("make", [make_t5, make_bart])
def test_adapters_are_in_encoder_and_decoder_and_merge_to_the_same_targets(tmp_path: Path, make) -> None:
    folder = make(tmp_path)
    model = TASK.loss_model(TASK.load_for_training(folder, 0.0, {}), {}).train()
    lora.add(model.model, rank=4)
    names = trained_names(model.model)
    assert all("lora_" in name for name in names)
    assert {part for part in ("encoder", "decoder") if any(part in name for name in names)} == {"encoder", "decoder"}
    assert not any("lm_head" in name for name in names)
    rows = [{"input_ids": [5, 6, 7, 1], "attention_mask": [1] * 4, "labels": [8, 9, 1]}]
    batch = model.collate(rows)
    optimizer_class, settings = optimizer.class_and_settings(1e-2)
    steps = optimizer_class([parameter for parameter in model.parameters() if parameter.requires_grad], **settings)
    losses = []
    for _ in range(5):
        output = model(**batch)["loss"]
        output.backward()
        steps.step()
        steps.zero_grad()
        losses.append(output.item())
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        with_adapters = model.eval()(**batch)["scores"]
        keys = TASK.load_for_training(folder, 0.0, {}).state_dict().keys()
        assert lora.merge(model.model).state_dict().keys() == keys
        torch.testing.assert_close(model(**batch)["scores"], with_adapters, atol=1e-4, rtol=1e-5)
