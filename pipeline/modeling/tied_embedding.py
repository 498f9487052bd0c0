"""The gradient of a weight that is both embedding and output layer, (vocabulary, hidden), in one tensor.

The embedding's part has a row for each token of the batch. Autograd would add it to the output layer's part in a third
tensor of that size; here its rows are added in place, once that part is the weight's gradient.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch


class _Lookup(torch.autograd.Function):
    """The rows of `weight` for `ids`; their gradient goes to `rows`, for the weight's hook."""

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, ids: torch.Tensor, padding: int | None, rows: list[torch.Tensor]
    ) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.vocabulary, ctx.padding, ctx.rows = len(weight), -1 if padding is None else padding, rows
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.rows.append(torch.ops.aten.embedding_sparse_backward(gradient, ids, ctx.vocabulary, ctx.padding, False))
        return None, None, None, None


_lookup: Callable[..., torch.Tensor] = _Lookup.apply


def share_gradient(embedding: torch.nn.Embedding) -> None:
    """Prepare an embedding whose weight is also an output layer's, for training in this process alone."""
    if type(embedding) is torch.nn.Embedding:
        _forward_by_lookup(embedding)
    else:  # it does more than look up: Gemma's multiplies
        embedding.sparse = True  # rows all the same


def _forward_by_lookup(embedding: Any) -> None:
    rows: list[torch.Tensor] = []
    embedding.weight.register_post_accumulate_grad_hook(functools.partial(_add_rows, rows))
    embedding.forward = lambda ids: _lookup(embedding.weight, ids, embedding.padding_idx, rows)


def _add_rows(rows: list[torch.Tensor], weight: torch.Tensor) -> None:
    assert weight.grad is not None  # it has just been accumulated
    while rows:
        weight.grad.add_(rows.pop())
