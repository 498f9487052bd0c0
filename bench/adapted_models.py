"""A random LoRA adapter on a model, as `pipeline.finetune` leaves it: in peft's files, and merged into the weights."""

import shutil
from pathlib import Path

import torch

from pipeline.modeling import lora
from serving.engines.transformers import load_model


def save_adapted(base: Path, folder: Path, seed: int, rank: int = 4, size: float = 0.1) -> Path:
    """Save a copy of the model in `base` with a random adapter merged into it, and the adapter in `adapter/`.

    Args:
        base: A causal model with its tokenizer.
        folder: To make.
        seed: Of the adapter.
        rank: Of the adapter.
        size: The standard deviation of its numbers.
    """
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("adapter"))
    model = lora.add(load_model(base, torch.float32, "cpu"), rank)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=size)
    lora.take(model).save(folder / "adapter", "starter")
    lora.merge(model).save_pretrained(folder)
    return folder
