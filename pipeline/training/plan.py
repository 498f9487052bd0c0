"""What a run will hold in memory, planned from the base's config alone: no weight is loaded.

The model is built on the meta device, and a forward pass of fake tensors (shapes and types without data) counts what it
keeps for the backward pass. `fresh estimate` shows the plan of several settings, and `finetune` refuses by it a base
that cannot fit before it loads it; what a step really takes is measured then, see `estimate`.
"""

import copy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from pipeline import params
from pipeline.command import UserError
from pipeline.modeling import four_bits, lora
from pipeline.modeling.loading import load_config
from pipeline.training import sharding
from pipeline.training.estimate import Kept, logits_bytes, usable_memory

_RANK = 8  # that is proposed
_FEW = 4  # blocks
_OVERHEAD = 6 * 10**8  # bytes of a process with torch, or of what CUDA holds on a GPU


@dataclass(frozen=True)
class Setting:
    """The settings of params.yaml that decide how much memory a run takes, besides its rows."""

    lora_rank: int = 0
    frozen_weights: str = "fp32"
    activation_checkpointing: bool = False
    shards: int = 1  # devices that split the model

    @classmethod
    def of(cls, config: params.Finetune) -> "Setting":
        """Return those of params.yaml."""
        shards = config.devices if config.sharding != "none" else 1
        return cls(config.lora_rank, config.frozen_weights, config.activation_checkpointing, shards)

    def __str__(self) -> str:
        """Return them for people."""
        parts = [
            f"lora_rank {self.lora_rank}" if self.lora_rank else "all weights",
            *([f"frozen_weights {self.frozen_weights}"] if self.frozen_weights != "fp32" else []),
            *(["activation_checkpointing"] if self.activation_checkpointing else []),
            *([f"split among {self.shards} devices"] if self.shards > 1 else []),
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Rows:
    """What a process reads at once."""

    number: int
    tokens: int  # of each

    @classmethod
    def of(cls, config: params.Params) -> "Rows":
        """Return those of params.yaml; one where its batch is to be what fits."""
        batch = config.finetune.batch_size
        share = 1 if batch == "auto" else batch // config.finetune.devices
        return cls(config.finetune.at_once(share), config.tokenize.max_length)

    def __str__(self) -> str:
        """Return them for people."""
        return f"{self.number} {'row' if self.number == 1 else 'rows'} of {self.tokens} tokens at once"


@dataclass(frozen=True)
class Machine:
    """Where a run is to be."""

    memory: int  # bytes that one process may use
    is_gpu: bool

    @classmethod
    def this(cls) -> "Machine":
        """Return this machine: its GPU where there is one."""
        is_gpu = torch.cuda.is_available()
        return cls(usable_memory(torch.device("cuda" if is_gpu else "cpu")), is_gpu)

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.memory / 1e9:.1f} GB of {'GPU memory' if self.is_gpu else 'memory'}"


@dataclass(frozen=True)
class Plan:
    """The memory of one process, in bytes."""

    setting: Setting
    trained: int  # numbers, not bytes
    weights: int
    gradients: int
    optimizer: int
    activations: int
    overhead: int = _OVERHEAD

    @property
    def total(self) -> int:
        """The peak."""
        return self.overhead + self.weights + self.gradients + self.optimizer + self.activations


def read_config(path: Path) -> PreTrainedConfig:
    """Return the config of the model in a folder, or in a config.json; raises UserError where there is none."""
    file = path if path.suffix == ".json" else path / "config.json"
    if not file.is_file():
        raise UserError(
            f"{file} does not exist; run `dvc repro base` to import the base of params.yaml, or name a folder with a"
            " config.json (--base), which is all that is read of a model"
        )
    try:
        return load_config(file)
    except Exception as error:  # whatever untrusted files make transformers raise
        raise UserError(f"{file} is not readable as a model's config: {' '.join(str(error).split())}") from None


def plan(config: PreTrainedConfig, setting: Setting, rows: Rows, machine: Machine) -> Plan:
    """Return what training a base with this config takes."""
    activations = _activations(config, setting, rows, machine)
    if setting.activation_checkpointing:
        everything = _activations(config, replace(setting, activation_checkpointing=False), rows, machine)
        activations += everything // _blocks(config)  # of the block that the backward pass computes again
    logits = rows.number * rows.tokens * int(getattr(config, "vocab_size", 0))
    if setting.shards > 1:
        activations += _gathered(_shapes(config, setting))
    return replace(plan_state(config, setting), activations=activations + logits_bytes(logits))


def alternatives(setting: Setting) -> list[Setting]:
    """Return `setting` and what else there is, from what changes the result least to what needs least memory."""
    all_weights = replace(setting, lora_rank=0, frozen_weights="fp32")
    adapters = replace(setting, lora_rank=setting.lora_rank or _RANK, frozen_weights="fp32")
    in_four_bits = [replace(adapters, frozen_weights="nf4")] if setting.shards == 1 else []  # whole or split, not both
    settings = [
        setting,
        *(
            replace(some, activation_checkpointing=is_on)
            for some in (all_weights, adapters, *in_four_bits)
            for is_on in (False, True)
        ),
    ]
    return list(dict.fromkeys(settings))


def verdict(plans: Sequence[Plan], machine: Machine) -> str:
    """Return whether the first of `plans` fits, and if not which one does, in one sentence."""
    first = plans[0]
    needs = f"training with {first.setting} takes about {_gb(first.total)} GB"
    if first.total <= machine.memory:
        return f"{needs}, and there are {machine}, so it fits"
    fitting = next((other for other in plans if other.total <= machine.memory), None)
    if fitting:
        fix = f"{fitting.setting} fits, with {_gb(fitting.total)} GB"
    else:
        least = min(plans, key=lambda one: one.total)
        fix = f"the least is {_gb(least.total)} GB, with {least.setting}: take a smaller base or a larger machine"
    return f"{needs}, but there are only {machine}; {fix}"


def table(plans: Iterable[Plan], machine: Machine) -> list[list[str]]:
    """Return the rows of a table, in GB, under a header."""
    parts = ("weights", "gradients", "optimizer", "activations", "total")
    body = [
        [
            str(one.setting),
            f"{one.trained / 1e6:,.1f} M",
            *(_gb(getattr(one, part)) for part in parts),
            "yes" if one.total <= machine.memory else "no",
        ]
        for one in plans
    ]
    return [["setting", "trained", *parts, "fits"], *body]


def as_json(one: Plan, machine: Machine) -> dict[str, Any]:
    """Return a plan for programs; sizes in bytes."""
    return {**asdict(one), "total": one.total, "fits": one.total <= machine.memory}


def check(config: PreTrainedConfig, finetune: params.Finetune, rows: Rows, machine: Machine) -> None:
    """Raise UserError, with what would fit, where the weights and what is held for each cannot fit."""
    setting = Setting.of(finetune)
    if plan_state(config, setting).total > machine.memory:
        plans = [plan(config, some, rows, machine) for some in alternatives(setting)]
        raise UserError(f"params.yaml: finetune: {verdict(plans, machine)}; `fresh estimate` shows the parts")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"


def _shapes(config: PreTrainedConfig, setting: Setting, most: int = sys.maxsize) -> PreTrainedModel:
    """Return the model of `config` without data, of the class that it was saved as and with so many blocks at most."""
    saved_as: Any = getattr(transformers, (config.architectures or [""])[0], None)
    config = copy.deepcopy(config)
    config.use_cache = False
    with torch.device("meta"):
        if isinstance(saved_as, type) and issubclass(saved_as, PreTrainedModel):
            model: PreTrainedModel = saved_as(config)
        else:
            model = AutoModel.from_config(config)
        model.float()
        for module in model.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == _blocks(config):
                del module[most:]
        if setting.lora_rank:
            lora.add(model, setting.lora_rank)
    if setting.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


def plan_state(config: PreTrainedConfig, setting: Setting) -> Plan:
    """Return what is held before any row is read."""
    model = _shapes(config, setting)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = sum(parameter.nbytes for parameter in trained) // setting.shards
    return Plan(
        setting,
        trained=sum(parameter.numel() for parameter in trained),
        weights=_bytes(model.parameters()) // setting.shards - _saved_by_four_bits(model, setting),
        gradients=size,
        optimizer=2 * size,  # two moments of AdamW
        activations=0,
    )


def _saved_by_four_bits(model: PreTrainedModel, setting: Setting) -> int:
    if setting.frozen_weights == "fp32":
        return 0
    return int(sum(weight.nbytes - four_bits.BYTES * weight.numel() for weight in _under_adapters(model)))


def _under_adapters(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    return [layer.get_base_layer().weight for layer in four_bits.layers(model)]


def _gathered(model: PreTrainedModel) -> int:
    """Return the bytes of what is whole in a step: a block, the next one, all outside of blocks, and their gradients.

    The next block is on its way while one computes, and has no gradient yet.
    """
    blocks = [list(block.parameters()) for block in sharding.blocks(model)]
    inside = {id(parameter) for block in blocks for parameter in block}
    outside = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    largest = max(blocks, key=_bytes, default=[])
    return 2 * _bytes(largest) + _bytes(outside) + _bytes(p for p in (*largest, *outside) if p.requires_grad)


def _bytes(parameters: Iterable[torch.nn.Parameter]) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def _activations(config: PreTrainedConfig, setting: Setting, rows: Rows, machine: Machine) -> int:
    """Return the bytes that a forward pass keeps for the backward pass; under autocast also weights in bf16.

    Blocks are alike, so a few of them say what all keep.
    """
    few, fewer = (_kept(_shapes(config, setting, most), rows, machine, setting) for most in (_FEW, _FEW // 2))
    return few + (few - fewer) * max(0, _blocks(config) - _FEW) // (_FEW // 2)


def _kept(model: PreTrainedModel, rows: Rows, machine: Machine, setting: Setting) -> int:
    if setting.frozen_weights != "fp32" and machine.is_gpu:
        for weight in _under_adapters(model):
            weight.data = weight.data.bfloat16()  # becomes that anew for each product, and is not kept
    with FakeTensorMode():
        state = {
            name: torch.empty(value.shape, dtype=value.dtype).requires_grad_(value.requires_grad)
            for name, value in (*model.named_parameters(), *model.named_buffers())
        }
        kept = Kept(state.values())
        ids = torch.ones(rows.number, rows.tokens, dtype=torch.long)
        inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
        with kept, torch.autocast("cpu", torch.bfloat16, enabled=machine.is_gpu):
            functional_call(model, state, kwargs=inputs)
    return kept.bytes


def _blocks(config: PreTrainedConfig) -> int:
    return int(getattr(config.get_text_config(), "num_hidden_layers", 1))
