"""LoRA adapters (arXiv:2106.09685) in peft's files: read for engines that add them to a model, or merged into one."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from serving.engines.protocol import EngineError
from serving.engines.tensor_files import open_tensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

# peft's settings that change what an adapter computes. Those that decide its rank, its scale or its layers are read.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
)
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_ROUNDING = 1e-5  # of a tensor's largest number, by which sums in another order differ from it


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to a linear layer: up (down x)."""

    down: torch.Tensor  # (rank, inputs), float32
    up: torch.Tensor  # (outputs, rank), float32, with the adapter's scale


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter as its files have it."""

    folder: Path
    version: str
    layers: Mapping[str, LowRank]  # by the layer's name in transformers
    is_transposed: bool  # whether its model keeps weights as (in, out)


def read(folder: Path, version: str) -> Adapter:
    """Return the adapter in `folder`; raises EngineError where it is damaged, or of a kind that is not supported."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        _check_settings(config)
        layers = _layers(config, load_file(folder / TENSORS))
        return Adapter(folder, version, layers, bool(config.get("fan_in_fan_out")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise EngineError(f"the adapter in {folder} cannot be read: {error}") from None


def _check_settings(config: Any) -> None:
    """Raise ValueError for settings that are not supported."""
    found = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("bias", "none") != "none":
        found.append("bias")
    if config["peft_type"] != "LORA":
        found.append(f"peft_type {config['peft_type']}")
    if found:
        raise ValueError(f"{CONFIG} has settings that are not supported: {', '.join(found)}")


def _layers(config: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, LowRank]:
    """Return the layers of an adapter; raises ValueError for tensors that are none of a LoRA's, or do not fit."""
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = _TENSOR.fullmatch(name)
        if not found:
            raise ValueError(f"{TENSORS} has {name}; expected lora_A and lora_B of linear layers, and nothing else")
        # A copy: the file may be replaced, and reading a part of it that is gone ends the process.
        pairs.setdefault(found[1], {})[found[2]] = tensor.to(torch.float32, copy=True)
    layers = {}
    for name, pair in pairs.items():
        if len(pair) != 2 or pair["A"].dim() != 2 or not len(pair["A"]) or pair["A"].shape[:1] != pair["B"].shape[1:]:
            raise ValueError(f"{TENSORS} has no lora_A and lora_B of one rank for {name}")
        rank = len(pair["A"])  # also with a rank_pattern
        scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        layers[name] = LowRank(pair["A"].contiguous(), pair["B"] * scale)
        if not all(tensor.isfinite().all() for tensor in (layers[name].down, layers[name].up)):
            raise ValueError(f"{TENSORS} has a number, or {CONFIG} a lora_alpha, that is not finite: {name}")
    return layers


def require_fit(name: str, layer: LowRank, shape: tuple[int, ...] | None) -> None:
    """Raise EngineError unless a model's linear layer has this shape, (outputs, inputs); None where it has none."""
    if shape is None:
        raise EngineError(f"the adapter changes {name}, which is no linear layer of this model's blocks")
    found = len(layer.up), layer.down.shape[1]
    if found != shape:
        raise EngineError(f"the adapter has {name} with (outputs, inputs) {found}, and this model with {shape}")


@torch.inference_mode()
def merge(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """Add an adapter to the weights of `model`, in place; raises EngineError where it does not fit."""
    for name, layer in adapter.layers.items():
        try:
            module = model.get_submodule(name)
            weight: torch.Tensor = module.weight.data
            change = layer.up @ layer.down
            weight += (change.t() if isinstance(module, Conv1D) else change).to(weight)
        except (AttributeError, RuntimeError):
            raise EngineError(f"the adapter changes {name}, which this model does not have in that shape") from None
    return model


@torch.inference_mode()
def difference(base: Path, adapter: Adapter, merged: Path) -> str:
    """Return where the model in `merged` is not the one in `base` with the adapter, as a clause; empty where it is.

    Tensors that only one of the folders has, such as a head that is also the embeddings, are not compared.
    """
    of_base = open_tensors(base)
    left = set(adapter.layers)
    for name, read_merged in open_tensors(merged).items():
        read_base = of_base.get(name) or of_base.get(name.partition(".")[2])  # without the prefix of the base model
        if not read_base:
            continue
        expected, found = read_base().float(), read_merged().float()
        if expected.shape != found.shape:
            return f"{name} has another shape"
        if layer := adapter.layers.get(changed := name.removesuffix(".weight")):
            left.remove(changed)
            change = layer.up @ layer.down
            change = change.t() if adapter.is_transposed else change
            if change.shape != expected.shape:
                return f"{name} has another shape"
            expected = expected + change
        if not (expected - found).abs().max() <= _ROUNDING * found.abs().max():
            return f"{name} is not the same"
    return f"{min(left)} is not in both" if left else ""
