"""Output layer and cross entropy in one: the logits of a batch are never kept."""

from collections.abc import Callable
from typing import Any

import torch

_LOGITS_AT_ONCE = 2**26  # numbers, 256 MB in fp32; more are made in parts


def token_losses(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy, in nats, of (tokens, size) `states` through the output layer's `weight`: (tokens)."""
    parts = max(1, _LOGITS_AT_ONCE // weight.shape[0])
    return torch.cat(
        [
            torch.nn.functional.cross_entropy((some @ weight.T).float(), theirs, reduction="none")
            for some, theirs in zip(torch.split(states, parts), torch.split(targets, parts), strict=True)
        ]
    )


class SummedLoss(torch.autograd.Function):
    """Output layer and cross entropy in one: the logits turn into their own gradient and are never kept.

    The gradient of sum(logsumexp(z) - z[target]) by z is softmax(z) - onehot(target). Under autocast the factors of
    the matrix products have autocast's type; the softmax, all sums and the gradients are in the weights' float32.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):  # it would choose the type of each operation by itself
            return SummedLoss._sum(ctx, states.to(weight.dtype), weight, targets, dtype)

    @staticmethod
    def _sum(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        for_states, for_weight = torch.empty_like(states), None
        total = states.new_zeros(())
        parts = max(1, _LOGITS_AT_ONCE // weight.shape[0])
        factor = weight.to(dtype)
        for some, theirs, gradient in zip(
            torch.split(states, parts), torch.split(targets, parts), torch.split(for_states, parts), strict=True
        ):
            rounded = some.to(dtype)
            logits = (rounded @ factor.T).to(weight.dtype)
            largest = logits.amax(1)
            hit = logits.gather(1, theirs[:, None])[:, 0]
            torch.softmax(logits, 1, out=logits)
            # The largest logit's probability is at least 1 / vocabulary, so its logarithm loses nothing.
            total += (largest - logits.amax(1).log_() - hit).sum()
            logits.scatter_add_(1, theirs[:, None], logits.new_full((len(theirs), 1), -1.0))
            back = logits.to(dtype)
            if dtype == weight.dtype:
                torch.mm(back, factor, out=gradient)
            else:
                gradient.copy_(back @ factor)
            if ctx.needs_input_grad[1]:
                if for_weight is None:
                    for_weight = (back.T @ rounded).to(weight.dtype)
                elif dtype == weight.dtype:
                    for_weight.addmm_(back.T, rounded)
                else:
                    for_weight += back.T @ rounded
        ctx.save_for_backward(for_states, for_weight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        for_states, for_weight = ctx.saved_tensors
        return for_states * gradient, None if for_weight is None else for_weight.mul_(gradient), None


summed_loss: Callable[..., torch.Tensor] = SummedLoss.apply
