"""LoRA (Hu et al. 2021) through peft: low-rank matrices are trained next to the frozen weights, then merged into them.

Call `add` before the optimizer is created and `merge` before the model is saved, which is then a plain model that every
engine serves; `take` keeps the adapter itself, in peft's format. Only parameters with `requires_grad` are trained, and
only they are in checkpoints.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.modeling import four_bits

_ADAPTER = "default"


def add(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """Add adapters of `rank` to all linear layers of the blocks, in place, and freeze the rest; return the model.

    New adapters change no output. Alpha is twice the rank, so that the learning rate does not depend on the rank. The
    head of a classifier is trained as a whole: its weights are new, so there is nothing to adapt.
    """
    conv1d = any(isinstance(module, Conv1D) for module in model.modules())
    head = _new_head(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["c_attn", "c_proj", "c_fc"] if conv1d else "all-linear",
        exclude_modules=[name for part in head for name in _linear_layers(model, part)],
        fan_in_fan_out=conv1d,  # GPT-2 keeps its weights as (in, out)
    )
    LoraModel(model, config, _ADAPTER)
    for part in head:
        model.get_submodule(part).requires_grad_(True)
    return model


def _new_head(model: PreTrainedModel) -> list[str]:
    """Return the modules that a pre-trained encoder or decoder may lack; none where it has learned to predict tokens.

    They are those around the blocks, and BERT's pooler, which masked language modelling does without.
    """
    if model.get_output_embeddings() is not None:
        return []
    body = model.base_model_prefix
    around = [name for name, _ in model.named_children() if name != body]
    return [*around, *(f"{body}.{name}" for name, _ in model.base_model.named_children() if name == "pooler")]


def _linear_layers(model: PreTrainedModel, part: str) -> list[str]:
    layers = model.get_submodule(part).named_modules(prefix=part)
    return [name for name, module in layers if isinstance(module, torch.nn.Linear)]


@dataclass(frozen=True)
class Adapter:
    """What was trained of a model, as peft saves it: low-rank matrices, and a new head as a whole."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]

    def save(self, folder: Path, base: str) -> None:
        """Write it to a new folder, which `peft.PeftModel.from_pretrained` reads on top of `base`.

        Args:
            folder: Of the adapter.
            base: As in params.yaml; of a hub model name and commit are kept apart, as peft has them.
        """
        folder.mkdir()
        self.config.base_model_name_or_path, _, self.config.revision = base.partition("@")
        self.config.revision = self.config.revision or None
        self.config.save_pretrained(str(folder))
        save_file(self.tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def take(model: PreTrainedModel) -> Adapter:
    """Return a copy of what `add` has added to `model` and training has changed."""
    config = copy.copy(model.peft_config[_ADAPTER])
    config.inference_mode = True
    for name in ("target_modules", "exclude_modules"):  # sets, whose order differs between processes
        if isinstance(names := getattr(config, name), set):
            setattr(config, name, sorted(names))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    whole = {name.rpartition(".")[0] for name in trained if f".{_ADAPTER}." not in name}
    config.modules_to_save = sorted(whole) or None
    tensors = {
        f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": value.detach().cpu().clone().contiguous()
        for name, value in trained.items()
    }
    return Adapter(config, tensors)


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapters to the weights, in place, and remove them; return the model, all of it in float32.

    Raises ValueError where an adapter holds a value that is not finite.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.base_layer = four_bits.as_floats(module.get_base_layer())
            module.merge(safe_merge=True)
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model
