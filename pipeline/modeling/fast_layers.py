"""Drop-in layers for a CPU: the same function in fewer passes over memory."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation


def use_fast_layers(model: PreTrainedModel) -> None:
    """Replace all that this module has something faster for; not where a GPU computes."""
    use_tanh_gelu(model)
    use_fast_dropout(model)
    use_fast_rms_norm(model)
    use_fast_gated_mlp(model)


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


def use_fast_rms_norm(model: PreTrainedModel) -> None:
    """Replace the RMSNorms of Llama, Mistral, Qwen and T5; others, such as Gemma's, have another formula and stay."""
    for module in model.modules():
        if hasattr(module, "variance_epsilon") and [name for name, _ in module.named_parameters()] == ["weight"]:
            _replace_if_alike(module, functools.partial(_norm_by, module), module.weight.shape[0])


def use_fast_gated_mlp(model: PreTrainedModel) -> None:
    """Replace SwiGLU (arXiv:2002.05202) between the products of a layer, as Llama, Mistral and Qwen have it."""
    for module in model.modules():
        if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            _replace_if_alike(module, functools.partial(_swiglu_of, module), module.gate_proj.in_features)


@torch.no_grad()
def _replace_if_alike(module: torch.nn.Module, forward: Any, width: int) -> None:
    """Let `module` compute `forward` if that gives what it has computed itself."""
    states = torch.linspace(-2, 3, 2 * width).view(2, width)
    if torch.allclose(forward(states), module(states), rtol=1e-4, atol=1e-6):
        module.forward = forward


def _norm_by(module: Any, states: torch.Tensor) -> torch.Tensor:
    return _rms_norm(states, module.weight, module.variance_epsilon)


def _swiglu_of(module: Any, states: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = module.down_proj(_swiglu(module.gate_proj(states), module.up_proj(states)))
    return result


class _RMSNorm(torch.autograd.Function):
    """w n with n = x / sqrt(mean(x^2) + epsilon) (arXiv:1910.07467); x is (..., width).

    With h = w g for a gradient g, that of x is (h - n mean(h n)) / sqrt(mean(x^2) + epsilon).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        factors = norms.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, factors)
        normed: torch.Tensor = (x * factors).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x, weight, factors = ctx.saved_tensors
        normed = x * factors
        products = (gradient * normed).flatten(0, -2)
        of_weight = products.sum(0) if ctx.needs_input_grad[1] else None
        means = (products * weight).sum(-1).view(factors.shape).div_(-x.shape[-1])
        return (gradient * weight).addcmul_(normed, means).mul_(factors), of_weight, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) up; the gradients overwrite what is not needed any more."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        activated = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate, up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up, activated = ctx.saved_tensors
        of_gate = gradient * up
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, activated.mul_(gradient)


_rms_norm: Callable[..., torch.Tensor] = _RMSNorm.apply
_swiglu: Callable[..., torch.Tensor] = _SwiGLU.apply
