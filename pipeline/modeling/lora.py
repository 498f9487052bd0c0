"""LoRA (Hu et al. 2021) through peft: small matrices beside the frozen weights are trained, then merged into them.

For `pipeline.finetune`: `add(model, rank)` before the optimizer is made, `merge(model)` before the candidate is
saved, which is then a plain model. Only parameters with `requires_grad` are trained, so only they are in checkpoints.
"""

from peft import LoraConfig, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_ADAPTER = "default"


def add(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """Put adapters of `rank` on all linear layers of the blocks, in place, and freeze all else; return the model.

    They start as no change at all; alpha is twice the rank, so that the learning rate needs no change with it.
    """
    conv1d = any(isinstance(module, Conv1D) for module in model.modules())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["c_attn", "c_proj", "c_fc"] if conv1d else "all-linear",
        fan_in_fan_out=conv1d,  # GPT-2 keeps its weights as (in, out)
    )
    LoraModel(model, config, _ADAPTER)
    return model


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Add what the adapters learned to the weights, in place, and take the adapters away; return the model.

    Raises ValueError where an adapter holds a number that is none.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model
