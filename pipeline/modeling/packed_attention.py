"""Attention inside each document of a packed batch."""

import math

import torch
from transformers import PreTrainedModel

from pipeline.modeling.fast_layers import dropout


def supports_packing(model: PreTrainedModel) -> bool:
    """Tell whether `prepare` knows the model's architecture; others get padded batches and their own loss."""
    return bool(model.config.model_type == "gpt2")


def varlen_attention(
    module: torch.nn.Module,  # noqa: ARG001 - this and others: transformers gives every attention these arguments
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: object,  # noqa: ARG001
) -> tuple[torch.Tensor, None]:
    """Attend inside each document of a `collate_packed` batch; (1, heads, tokens, size) in, (1, tokens, heads, size) out."""
    if cu_seq_lens_q is None:
        raise ValueError("a model made ready by `prepare` reads batches of `collate_packed` only")
    lengths = cu_seq_lens_q.diff().tolist()
    parts = [
        _causal_attention(*part, p=dropout, scaling=scaling)
        for part in zip(
            torch.split(query, lengths, 2), torch.split(key, lengths, 2), torch.split(value, lengths, 2), strict=True
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, p: float, scaling: float | None
) -> torch.Tensor:
    """Return the attention inside one document; torch's fused kernel has no dropout on a CPU, so with it: by hand."""
    if p == 0:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    size = query.shape[-2]
    future = torch.full((size, size), -math.inf).triu_(1)
    scores = torch.baddbmm(future, query[0], key[0].transpose(1, 2), alpha=scaling or query.shape[-1] ** -0.5)
    return (_dropout(scores.softmax(-1), p) @ value[0])[None]


_dropout = dropout  # where an argument has that name
