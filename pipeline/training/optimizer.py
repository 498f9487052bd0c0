"""Fused AdamW that clips gradients itself."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from pipeline.modeling import cpu

_MAX_GRADIENT_NORM = 1.0  # Trainer's default


class ClippedAdamW(torch.optim.AdamW):
    """Fused AdamW that clips the gradients' norm while it reads them, instead of in two more passes over memory.

    The gradient of an embedding may be sparse: it is dense for the step alone, in memory that is kept, so that the rows
    of the words that a batch has not need not be cleared each time.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        """Take AdamW's own arguments."""
        super().__init__(params, fused=True, **settings)
        self._kept: dict[torch.nn.Parameter, torch.Tensor] = {}  # zeros between steps

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the weights; `norm` is then the gradients' norm before clipping."""
        updated = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        sparse = {p: p.grad.coalesce() for p in updated if p.grad.is_sparse}
        self.norm = _norm([sparse[p].values() if p in sparse else p.grad for p in updated])
        for parameter, gradient in sparse.items():
            if parameter not in self._kept:
                self._kept[parameter] = torch.zeros_like(parameter)
            parameter.grad = self._kept[parameter].index_copy_(0, gradient.indices()[0], gradient.values())
        # The fused kernel divides gradients by this; 1e-6 as in clip_grad_norm_.
        self.grad_scale = ((self.norm + 1e-6) / _MAX_GRADIENT_NORM).clamp(min=1.0)
        self.found_inf = torch.zeros_like(self.grad_scale)
        result = super().step(closure)
        for parameter, gradient in sparse.items():
            self._kept[parameter].index_fill_(0, gradient.indices()[0], 0.0)
            parameter.grad = gradient
        return result


def class_and_settings(learning_rate: float) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the optimizer and its settings, as `Trainer` takes them in `optimizer_cls_and_kwargs`."""
    return ClippedAdamW, {"lr": learning_rate, "betas": (0.9, 0.999), "eps": 1e-8}


def _norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm of all gradients together; on a CPU a dot product is over twice as fast as torch's norm.

    In bf16, torch would take it for a matrix product: rounded, and seven times as slow.
    """
    if gradients[0].is_cuda or isinstance(gradients[0], DTensor):
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm  # of all devices' parts
    with cpu.exact_products():
        return torch.stack([g.flatten().dot(g.flatten()) for g in gradients]).sum().sqrt()
