"""Attention with dropout inside each document of a packed batch: one function for autograd, not a dozen a document.

torch's fused attention has no dropout on a CPU. This spares autograd's nodes, and the copies by which slices of a
batch become one tensor again.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from pipeline.modeling.document_groups import Layout
from pipeline.modeling.fast_layers import dropout_factors


class _DocumentAttention(torch.autograd.Function):
    """The attention inside each document.

    Args:
        query: (1, heads, tokens, head_dim).
        key: Likewise.
        value: Likewise.
        bias: Added to the scores of every document, (1, heads, longest, longest); or None.
        layouts: How the documents of the queries are read, and those of the keys.
        dropout: The probability, above 0.
        scale: The factor of the scores.
        causal: Whether a token sees none after it.
        window: How many tokens a token sees, itself included; or None.
    """

    @staticmethod
    def forward(  # noqa: PLR0913
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        layouts: tuple[Layout, Layout],
        dropout: float,
        scale: float,
        causal: bool,
        window: int | None,
    ) -> torch.Tensor:
        queries, keys = layouts
        outputs, saved = [], []
        groups = zip(queries.split(query[0]), keys.split(key[0]), keys.split(value[0]), strict=True)
        for (q, k, v), rows, padding in zip(groups, queries.rows, keys.masks, strict=True):
            mask = mask_of(q.shape[1], k.shape[1], causal, bias, window)
            if padding is not None:
                mask = padding if mask is None else mask + padding
                mask = mask.expand(rows, len(q) // rows, q.shape[1], -1).flatten(0, 1)
            transposed = k.transpose(1, 2)
            scores = (
                torch.bmm(q * scale, transposed) if mask is None else torch.baddbmm(mask, q, transposed, alpha=scale)
            )
            shares = torch.softmax(scores, -1)
            factors = dropout_factors(shares, dropout)
            outputs.append(torch.bmm(shares * factors, v))
            saved += [q, k, v, shares, factors]
        ctx.save_for_backward(*saved)
        ctx.layouts, ctx.scale, ctx.bias_shape = layouts, scale, None if bias is None else bias.shape
        return queries.join(outputs)[None]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, keys = ctx.layouts
        saved = ctx.saved_tensors
        of_bias = None if ctx.bias_shape is None else gradient.new_zeros(ctx.bias_shape)
        of_queries, of_keys, of_values = [], [], []
        for at, (g, rows) in enumerate(zip(queries.split(gradient[0].transpose(0, 1)), queries.rows, strict=True)):
            q, k, v, shares, factors = saved[5 * at : 5 * at + 5]
            of_values.append(torch.bmm((shares * factors).transpose(1, 2), g))
            of_shares = torch.bmm(g, v.transpose(1, 2)).mul_(factors)
            of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
            if of_bias is not None:
                of_bias[0, :, : q.shape[1], : k.shape[1]] += of_scores.view(rows, -1, *of_scores.shape[1:]).sum(0)
            of_queries.append(torch.bmm(of_scores, k).mul_(ctx.scale))
            of_keys.append(torch.bmm(of_scores.transpose(1, 2), q).mul_(ctx.scale))
        joined = (queries.join(of_queries), keys.join(of_keys), keys.join(of_values))
        return *(part.transpose(0, 1)[None] for part in joined), of_bias, None, None, None, None, None


# As of `_DocumentAttention` -> (1, tokens, heads, head_dim)
attend: Callable[..., torch.Tensor] = _DocumentAttention.apply


def mask_of(
    queries: int, keys: int, causal: bool, bias: torch.Tensor | None, window: int | None
) -> torch.Tensor | None:
    """Return what is added to the scores of a document, (heads or 1, queries, keys); None for nothing."""
    mask = None if bias is None else bias[0, :, :queries, :keys]
    if causal:
        future = torch.full((1, queries, keys), -math.inf).triu_(1)
        mask = future if mask is None else mask + future
    if window is not None and queries > window:
        past = torch.full((queries, keys), -math.inf).tril_(-window)
        cut = past if causal else past + past.T
        mask = cut[None] if mask is None else mask + cut
    return mask
