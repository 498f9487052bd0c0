"""Variable-length attention for a CPU: causal attention inside each document of a packed batch.

transformers has it for GPUs only (flash attention); here torch's own kernels run once per document.
"""

import math

import torch
from transformers import AttentionInterface, PreTrainedModel

from pipeline.modeling.fast_layers import fast_dropout

_NAME = "varlen"


def supports_packing(model: PreTrainedModel) -> bool:
    """Tell whether the architecture reads packed batches and has a plain output layer: so far GPT-2 alone."""
    return bool(model.config.model_type == "gpt2")


def use_varlen_attention(model: PreTrainedModel) -> None:
    """Make `model` read batches of `batches.collate_packed`, and no others."""
    AttentionInterface.register(_NAME, varlen_attention)
    model.set_attn_implementation(_NAME)


def varlen_attention(  # noqa: PLR0913 - transformers passes these arguments to every attention
    module: torch.nn.Module,  # noqa: ARG001
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: object,  # noqa: ARG001
) -> tuple[torch.Tensor, None]:
    """Attend inside each document; `cu_seq_lens_q` (documents + 1,) holds their boundaries."""
    if cu_seq_lens_q is None:
        raise ValueError("varlen attention needs cu_seq_lens_q; expected a batch of `collate_packed`")
    lengths = cu_seq_lens_q.diff().tolist()
    documents = zip(*(torch.split(part, lengths, dim=2) for part in (query, key, value)), strict=True)
    # Each part is (1, heads, tokens, head_dim).
    outputs = [_causal_attention(q, k, v, dropout, scaling) for q, k, v in documents]
    return torch.cat(outputs, dim=2).transpose(1, 2), None  # (1, tokens, heads, head_dim)


def _causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scaling: float | None
) -> torch.Tensor:
    """Return the attention of one document; torch's fused CPU kernel has no dropout, so with it the steps are ours."""
    if dropout == 0:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    tokens = query.shape[-2]
    future = torch.full((tokens, tokens), -math.inf).triu_(1)
    scores = torch.baddbmm(future, query[0], key[0].transpose(1, 2), alpha=scaling or query.shape[-1] ** -0.5)
    return (fast_dropout(scores.softmax(-1), dropout) @ value[0])[None]  # (1, heads, tokens, head_dim)
