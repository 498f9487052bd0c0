"""Output layer and cross entropy in one: the logits, the largest tensor of a step, are never kept.

They are computed for some tokens at a time and turned into their own gradient in place. The gradient of
sum(logsumexp(z) - z[target]) with respect to z is softmax(z) - onehot(target).
"""

from collections.abc import Callable
from typing import Any

import torch

_MAX_LOGITS = 2**26  # computed at once: 256 MB in fp32


def token_losses(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of each token, in nats: (tokens,).

    Args:
        states: The model's last hidden states, (tokens, hidden).
        weight: The output layer's weight, (vocabulary, hidden).
        targets: The ids to predict, (tokens,).
    """
    chunk = _chunk_size(weight)
    return torch.cat(
        [
            torch.nn.functional.cross_entropy((some @ weight.T).float(), labels, reduction="none")
            for some, labels in zip(torch.split(states, chunk), torch.split(targets, chunk), strict=True)
        ]
    )


def _chunk_size(weight: torch.Tensor) -> int:
    """Return for how many tokens logits are computed at once."""
    return max(1, _MAX_LOGITS // weight.shape[0])


class _SummedLoss(torch.autograd.Function):
    """Summed cross entropy of (tokens, hidden) states; the gradients are computed in the forward pass.

    Under autocast the factors of the matrix products have autocast's type; the softmax, all sums and the gradients
    have the weights' float32.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):  # it would choose the type of each operation by itself
            return _SummedLoss._sum(ctx, states.to(weight.dtype), weight, targets, dtype)

    @staticmethod
    def _sum(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        states_gradient, weight_gradient = torch.empty_like(states), None
        total = states.new_zeros(())
        chunk = _chunk_size(weight)
        factor = weight.to(dtype)
        for some, labels, gradient in zip(
            torch.split(states, chunk), torch.split(targets, chunk), torch.split(states_gradient, chunk), strict=True
        ):
            rounded = some.to(dtype)
            logits = (rounded @ factor.T).to(weight.dtype)  # (chunk, vocabulary)
            largest = logits.amax(1)
            target_logits = logits.gather(1, labels[:, None])[:, 0]
            torch.softmax(logits, 1, out=logits)
            # The largest logit's probability is at least 1 / vocabulary, so its logarithm loses nothing.
            total += (largest - logits.amax(1).log_() - target_logits).sum()
            logits.scatter_add_(1, labels[:, None], logits.new_full((len(labels), 1), -1.0))
            logits_gradient = logits.to(dtype)
            if dtype == weight.dtype:
                torch.mm(logits_gradient, factor, out=gradient)
            else:
                gradient.copy_(logits_gradient @ factor)
            if ctx.needs_input_grad[1]:
                if weight_gradient is None:
                    weight_gradient = (logits_gradient.T @ rounded).to(weight.dtype)
                elif dtype == weight.dtype:
                    weight_gradient.addmm_(logits_gradient.T, rounded)
                else:
                    weight_gradient += logits_gradient.T @ rounded
        ctx.save_for_backward(states_gradient, weight_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        states_gradient, weight_gradient = ctx.saved_tensors
        return (
            states_gradient * gradient,
            None if weight_gradient is None else weight_gradient.mul_(gradient),
            None,
        )


# (states, weight, targets) as of `token_losses` -> their summed cross entropy, a scalar
summed_loss: Callable[..., torch.Tensor] = _SummedLoss.apply
