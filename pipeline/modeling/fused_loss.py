"""Output layer and cross entropy in one: the logits, the largest tensor of a step, are never kept.

They are computed for some tokens at a time and turned into their own gradient in place. The gradient of
sum(logsumexp(z) - z[target]) with respect to z is softmax(z) - onehot(target).
"""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.modeling.batches import IGNORED_LABEL

_MAX_LOGITS = 2**26  # computed at once: 256 MB in fp32
_MAX_LOGITS_GPU = 2**27  # 1 GB in all their types: enough rows for a product at a GPU's full speed


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
    return max(1, (_MAX_LOGITS_GPU if weight.is_cuda else _MAX_LOGITS) // weight.shape[0])


class _SummedLoss(torch.autograd.Function):
    """Summed cross entropy of (tokens, hidden) states, divided by `total`; the forward pass computes the gradients.

    The weight's gradient is the second largest tensor of a step: it is handed on, not copied, and the states, which are
    smaller, are divided instead. Under autocast the factors of the matrix products have autocast's type; the softmax,
    all sums and the gradients have the weights' float32. Targets may be `IGNORED_LABEL` where `has_ignored` says so: a
    GPU's, which would have to be waited for to leave them out.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        total: torch.Tensor | int,
        has_ignored: bool = False,
    ) -> torch.Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        ctx.may_wait = not has_ignored
        with torch.autocast(device, enabled=False):  # it would choose the type of each operation by itself
            # Of each label in the loss, (tokens, 1).
            share = torch.ones_like(targets[:, None], dtype=weight.dtype) / total
            if has_ignored:
                share *= (targets != IGNORED_LABEL)[:, None]
                targets = targets.clamp(min=0)
            return _SummedLoss._sum(ctx, states.to(weight.dtype), weight, targets, share, dtype)

    @staticmethod
    def _sum(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        share: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        states_gradient, weight_gradient = torch.empty_like(states), None
        total = states.new_zeros(())
        factor = weight.to(dtype)
        chunk = _chunk_size(weight)
        for at in range(0, max(1, len(states)), chunk):
            some = slice(at, at + chunk)
            gradient, rounded = states_gradient[some], states[some].to(dtype)
            losses, logits_gradient = _losses_and_gradient(rounded @ factor.T, targets[some], weight.dtype)
            total += (losses * share[some, 0]).sum()
            if dtype == weight.dtype:
                torch.mm(logits_gradient, factor, out=gradient)
            else:
                gradient.copy_(logits_gradient @ factor)
            gradient *= share[some]
            rounded = (states[some] * share[some]).to(dtype)
            if ctx.needs_input_grad[1]:
                if weight_gradient is None:
                    weight_gradient = (logits_gradient.T @ rounded).to(weight.dtype)
                elif dtype == weight.dtype:
                    weight_gradient.addmm_(logits_gradient.T, rounded)
                else:
                    weight_gradient += logits_gradient.T @ rounded
        ctx.gradients = states_gradient, weight_gradient
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None, None]:
        states_gradient, weight_gradient = ctx.gradients
        del ctx.gradients  # else autograd would not take the tensor, but copy it
        if not (ctx.may_wait and gradient == 1):
            states_gradient *= gradient
            if weight_gradient is not None:
                weight_gradient *= gradient
        return states_gradient, weight_gradient, None, None, None


def _losses_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses, (tokens,) in `dtype`, and the gradient of their sum, in the type of `logits` and their place.

    Args:
        logits: (tokens, vocabulary), in `dtype` or rounded to a smaller type.
        labels: (tokens,).
        dtype: Of the softmax and all sums.
    """
    labels = labels[:, None]
    if logits.dtype != dtype:  # memory traffic is what it costs on a GPU, so types change within other passes
        log_probabilities = torch.log_softmax(logits, 1, dtype=dtype)
        of_labels = log_probabilities.gather(1, labels)
        torch.exp(log_probabilities, out=logits)
        return -of_labels[:, 0], logits.scatter_(1, labels, (of_labels.exp() - 1).to(logits.dtype))
    largest = logits.amax(1)
    label_logits = logits.gather(1, labels)[:, 0]
    torch.softmax(logits, 1, out=logits)
    # The largest logit's probability is at least 1 / vocabulary, so its logarithm loses nothing.
    losses = largest - logits.amax(1).log_() - label_logits
    return losses, logits.scatter_add_(1, labels, logits.new_full((len(labels), 1), -1.0))


# (states, weight, targets) as of `token_losses`, `total`, `has_ignored` -> a scalar
summed_loss: Callable[..., torch.Tensor] = _SummedLoss.apply
