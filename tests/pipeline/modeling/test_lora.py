"""Adapters start as no change, learn alone, and end as plain weights with the same output."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.modeling import batches, lora, loss_model
from pipeline.training import optimizer

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
