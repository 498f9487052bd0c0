"""Adapters start as no change, learn alone, and end as plain weights with the same output."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
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
