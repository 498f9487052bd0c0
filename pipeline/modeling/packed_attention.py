"""Attention inside each document of a packed batch, through transformers' attention interface.

On a CPU torch's own kernels run once per document, or once for some short documents of like length; batches of
`collate_varlen` take one kernel for all of them.
"""

from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from pipeline.command import warn
from pipeline.modeling import cpu, document_attention, document_groups, varlen_kernel
from pipeline.modeling.document_attention import mask_of
from pipeline.modeling.document_groups import Layout, OneByOne

_NAME = "varlen"
# In training, so many documents so short (tokens, on average) are read in groups: products of one are too small.
_MANY = 16
_SHORT = 48
# Settings of attention and output layer that the products here leave out.
_UNSUPPORTED = ("attn_logit_softcapping", "final_logit_softcapping", "attention_chunk_size")


def supports_varlen(model: PreTrainedModel) -> bool:
    """Tell whether all attention of `model` goes through transformers' interface, and is of a kind known here."""
    config = model.config
    return bool(model._supports_attention_backend) and not any(getattr(config, name, None) for name in _UNSUPPORTED)


def is_varlen(model: PreTrainedModel) -> bool:
    """Tell whether `use_varlen_attention` has changed `model`."""
    return bool(model.config._attn_implementation == _NAME)


def use_varlen_attention(model: PreTrainedModel) -> None:
    """Make `model` read packed batches, and no others."""
    AttentionInterface.register(_NAME, varlen_attention)
    model.set_attn_implementation(_NAME)


def are_alike(values: torch.Tensor, expected: torch.Tensor) -> bool:
    """Tell whether values differ by rounding alone; False where one is not a number."""
    return bool((values - expected).abs().max() <= 1e-4 * expected.abs().max())


@torch.no_grad()
@cpu.exact_products()
def reads_packed(model: PreTrainedModel) -> bool:
    """Make `model` read packed batches if its states of two texts then stay the same; else leave it, and return False.

    What architectures do with positions and attention is so asked of them, not of a list.
    """
    if is_varlen(model):
        return True
    if not supports_varlen(model):
        return False
    attention, is_training = model.config._attn_implementation, model.training
    ids = torch.arange(1, 14) * 7919 % model.config.get_text_config().vocab_size  # any tokens
    model.eval()
    with model.device:
        texts = torch.split(ids.to(model.device), [8, 5])
        alone = [model.base_model(text[None], use_cache=False)[0][0] for text in texts]  # each (tokens, hidden)
        use_varlen_attention(model)
        packed = model.base_model(
            torch.cat(texts)[None],
            position_ids=torch.cat([torch.arange(len(text)) for text in texts])[None],
            use_cache=False,
            cu_seq_lens_q=torch.tensor([0, 8, 13]),
        )[0][0]
    model.train(is_training)
    expected = torch.cat(alone)
    is_same = are_alike(packed, expected)
    if not is_same:
        model.set_attn_implementation(attention)
    return is_same


@cpu.exact_products()
def has_varlen_kernel(model: PreTrainedModel, **packing: Any) -> bool:
    """Tell whether the kernel of this process's GPU is right for the attention of `model`; say what is wrong with it.

    Args:
        model: Reads packed batches.
        packing: What tells its layers that a batch of two tokens is one document.
    """
    shapes = set()

    def note(
        module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any
    ) -> tuple[torch.Tensor, None]:
        scale = more.get("scaling") or query.shape[-1] ** -0.5
        causal, window = bool(getattr(module, "is_causal", True)), more.get("sliding_window")
        shapes.add(varlen_kernel.Shape(query.shape[1], key.shape[1], query.shape[-1], scale, causal, window))
        return varlen_attention(module, query, key, value, *rest, **more)

    is_training = model.training
    model.eval()
    AttentionInterface.register(_NAME, note)
    try:
        with torch.no_grad(), model.device:
            model.base_model(torch.zeros(1, 2, dtype=torch.long), cu_seq_lens_q=torch.tensor([0, 2]), **packing)
    finally:
        AttentionInterface.register(_NAME, varlen_attention)
        model.train(is_training)
    if reason := varlen_kernel.unsupported_reason(shapes):
        warn(f"warning: this GPU cannot train without padding ({reason}); rows are padded to the longest of the batch")
    return not reason


def boundaries(kept: torch.Tensor) -> torch.Tensor:
    """Return where each row's tokens begin and end in a packed batch, (rows + 1,), from where rows have tokens."""
    return torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))


def varlen_attention(  # noqa: PLR0913 - transformers passes these arguments to every attention
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    sliding_window: int | None = None,
    max_length_q: int | None = None,
    **kwargs: object,  # noqa: ARG001
) -> tuple[torch.Tensor, None]:
    """Attend inside each document.

    Args:
        module: The layer; its `is_causal` says whether a token sees later ones.
        query: (1, heads, tokens, head_dim); `key` and `value` may have fewer heads, each shared by several of these.
        key: See `query`.
        value: See `query`.
        attention_mask: None.
        dropout: The probability.
        scaling: The factor of the scores; head_dim ** -0.5 by default.
        cu_seq_lens_q: The boundaries of the documents, (documents + 1,).
        cu_seq_lens_k: Those of what a decoder reads, where this is its attention to an encoder.
        position_bias: Added to the scores of every document, (1, heads, longest, longest); T5's.
        sliding_window: How many tokens a token sees, itself included.
        max_length_q: At least the tokens of the longest document; given, one kernel reads all documents.
        kwargs: What other kinds of attention take.
    """
    if cu_seq_lens_q is None:
        raise ValueError("varlen attention needs cu_seq_lens_q; expected a batch of `collate_packed`")
    causal = bool(getattr(module, "is_causal", True))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if max_length_q is not None:
        dtype = varlen_kernel.dtype_of(query)
        parts = [part[0].transpose(0, 1).to(dtype) for part in (query, key, value)]  # (tokens, heads, head_dim)
        window = -1 if sliding_window is None else sliding_window - 1
        output, *_ = varlen_kernel.attention(*parts, cu_seq_lens_q, max_length_q, dropout, causal, scale, window)
        return output[None], None
    crosses = cu_seq_lens_k is not None and not causal
    lengths = cu_seq_lens_q.diff().tolist()
    key_lengths = cu_seq_lens_k.diff().tolist() if cu_seq_lens_k is not None and crosses else lengths
    if (group := query.shape[1] // key.shape[1]) > 1:
        key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
    bias = None if crosses else position_bias
    if dropout > 0:
        is_short = len(lengths) >= _MANY and sum(lengths) + sum(key_lengths) <= 2 * _SHORT * len(lengths)
        layouts: tuple[Layout, Layout] = (
            document_groups.grouped(tuple(lengths), tuple(key_lengths))
            if is_short
            else (OneByOne(lengths), OneByOne(key_lengths))
        )
        return document_attention.attend(query, key, value, bias, layouts, dropout, scale, causal, sliding_window), None
    documents = zip(
        *(
            torch.split(part, sizes, dim=2)
            for part, sizes in ((query, lengths), (key, key_lengths), (value, key_lengths))
        ),
        strict=True,
    )
    outputs = [_attention(q, k, v, scale, causal, bias, sliding_window) for q, k, v in documents]
    return torch.cat(outputs, dim=2).transpose(1, 2), None  # (1, tokens, heads, head_dim)


def _attention(  # noqa: PLR0913
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    causal: bool,
    bias: torch.Tensor | None,
    window: int | None,
) -> torch.Tensor:
    """Return the attention of one document, (1, heads, tokens, head_dim), by torch's fused kernel."""
    queries, keys = query.shape[-2], key.shape[-2]
    is_plain = bias is None and (window is None or queries <= window)
    mask = None if is_plain else mask_of(queries, keys, causal, bias, window)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, None if mask is None else mask[None], is_causal=causal and is_plain, scale=scale
    )
