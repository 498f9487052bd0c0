"""Attention inside each document of a packed batch in one call, by torch's own FlashAttention kernels for GPUs.

`torch.nn.attention.varlen` has no dropout, and its gradients may add up in any order. So ATen's operators are called
here, the backward one in torch's deterministic mode. torch.compile sees an operator, whose CPU kernel tests register.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_LENGTHS = (150, 1, 37, 64)  # of the documents of the check: more and fewer tokens than a block of the kernel
_MAX_ERROR = 0.02  # of bf16 attention, relative to the largest value
_DROPOUT = 0.1


@dataclass(frozen=True)
class Shape:
    """What kernels differ by: the heads and the kind of an attention layer."""

    heads: int
    key_heads: int
    head_dim: int
    scale: float
    causal: bool
    window: int | None  # how many tokens a token sees, itself included


@torch.library.custom_op("fresh::varlen_attention", mutates_args=(), device_types="cuda")
def attention(  # noqa: PLR0913 - an operator takes tensors and numbers, no records
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    dropout: float,
    causal: bool,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend inside each document.

    Args:
        query: (tokens, heads, head_dim), in bf16 or fp16.
        key: (tokens, key_heads, head_dim); `heads` is a multiple of `key_heads`.
        value: See `key`.
        starts: Where documents begin and the last one ends, (documents + 1,), int32; they may be empty.
        longest: At least the tokens of the longest document.
        dropout: The probability.
        causal: Whether a token sees none after it.
        scale: The factor of the scores.
        window: How many tokens a token sees to each side, without itself; -1 for all.

    Returns:
        (tokens, heads, head_dim), and what the backward pass needs.
    """
    output, logsumexp, seed, offset, _ = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        starts,
        starts,
        longest,
        longest,
        dropout,
        causal and window < 0,
        False,
        scale=scale,
        window_size_left=window,
        window_size_right=0 if causal else window,
    )
    return output, logsumexp, seed, offset


@attention.register_fake
def _(query: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens, heads = query.shape[:2]
    logsumexp = query.new_empty(heads, tokens, dtype=torch.float32)
    seed, offset = query.new_empty(2, dtype=torch.uint64), query.new_empty((), dtype=torch.uint64)
    return torch.empty_like(query), logsumexp, seed, offset


@torch.library.custom_op("fresh::varlen_attention_backward", mutates_args=(), device_types="cuda")
def attention_backward(  # noqa: PLR0913
    gradient: torch.Tensor,
    inputs: list[torch.Tensor],
    outputs: list[torch.Tensor],
    longest: int,
    dropout: float,
    causal: bool,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value; `inputs` are these and `starts`, `outputs` all of `attention`."""
    query, key, value, starts = inputs
    output, logsumexp, seed, offset = outputs
    with _deterministic():
        gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten._flash_attention_backward(
            gradient,
            query,
            key,
            value,
            output,
            logsumexp,
            starts,
            starts,
            longest,
            longest,
            dropout,
            causal and window < 0,
            seed,
            offset,
            scale=scale,
            window_size_left=window,
            window_size_right=0 if causal else window,
        )
    return gradients


@attention_backward.register_fake
def _(_: torch.Tensor, inputs: list[torch.Tensor], *__: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = inputs[:3]
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.numbers = inputs[4:]


def _backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    saved = [*ctx.saved_tensors]
    return (*attention_backward(gradient, saved[:4], saved[4:], *ctx.numbers), *[None] * 6)


attention.register_autograd(_backward, setup_context=_save)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let kernels that can add up in one order do so; those that cannot would raise."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def is_wanted() -> bool:
    """Tell whether this process computes in a precision that kernels have: `precision.use` has set it."""
    return torch.get_float32_matmul_precision() == "medium"


def device() -> torch.device:
    """Return this process's GPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def dtype_of(query: torch.Tensor) -> torch.dtype:
    """Return the type to compute `query`'s attention in: autocast's, as of torch's own attention."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def unsupported_reason(shapes: set[Shape]) -> str:
    """Compare the kernel on this process's GPU with torch's attention; return what is wrong with it, or nothing.

    It must have the same values and gradients to bf16's rounding, and with dropout the same ones twice.
    """
    for shape in sorted(shapes, key=str):
        try:
            error = _error(shape)
        except (RuntimeError, ValueError, AssertionError) as refusal:  # such as a GPU or a head_dim unknown to it
            return f"{type(refusal).__name__}: {str(refusal).splitlines()[0]}"
        if not error <= _MAX_ERROR:  # also true of NaN
            return f"its values differ by {error:.2g} of the largest"
        if not _repeats(shape):
            return "its gradients differ from run to run"
    return ""


def _parts(shape: Shape) -> list[torch.Tensor]:
    """Return query, key and value, (tokens, heads, head_dim), and the gradient of the output."""
    tokens, generator = sum(_LENGTHS), torch.Generator().manual_seed(0)
    sizes = (shape.heads, shape.key_heads, shape.key_heads, shape.heads)
    drawn = [torch.randn(tokens, heads, shape.head_dim, generator=generator) for heads in sizes]
    drawn[0] /= shape.scale * shape.head_dim**0.5  # scores as those of a usual scale
    return [part.to(device(), torch.bfloat16).requires_grad_(at < 3) for at, part in enumerate(drawn)]


def _run(shape: Shape, dropout: float) -> list[torch.Tensor]:
    """Return the kernel's output and gradients for documents of `_LENGTHS`."""
    *parts, gradient = _parts(shape)
    starts = torch.tensor([0, *_LENGTHS]).cumsum(0).to(device(), torch.int32)
    window = -1 if shape.window is None else shape.window - 1
    numbers = (max(_LENGTHS), dropout, shape.causal, shape.scale, window)
    output = attention(*parts, starts, *numbers)[0]
    output.backward(gradient)
    return [output.detach(), *(part.grad for part in parts if part.grad is not None)]


def _error(shape: Shape) -> float:
    """Return the largest difference of output and gradients from float32's, relative to the largest value of each."""
    *parts, gradient = ([*torch.split(part.detach().float(), [*_LENGTHS])] for part in _parts(shape))
    expected = [_reference(shape, *document) for document in zip(*parts, gradient, strict=True)]
    errors = []
    for actual, of_documents in zip(_run(shape, 0.0), zip(*expected, strict=True), strict=True):
        whole = torch.cat(of_documents)
        errors.append(float((actual.float() - whole).abs().max() / whole.abs().max()))
    return max(errors, key=lambda error: float("inf") if error != error else error)


def _reference(shape: Shape, *document: torch.Tensor) -> list[torch.Tensor]:
    """Return output and gradients of a document, (tokens, heads, head_dim) each, from torch's plain attention."""
    parts = [part.transpose(0, 1).detach().requires_grad_() for part in document[:3]]  # (heads, tokens, head_dim)
    positions = torch.arange(len(document[0]), device=document[0].device)
    distance = positions[:, None] - positions  # (queries, keys)
    seen = distance >= 0 if shape.causal else torch.ones_like(distance, dtype=torch.bool)
    if shape.window is not None:
        seen &= distance.abs() < shape.window
    group = shape.heads // shape.key_heads
    query, key, value = parts[0], *(part.repeat_interleave(group, dim=0) for part in parts[1:])
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, scale=shape.scale)
    gradients = torch.autograd.grad(output, parts, document[3].transpose(0, 1))
    return [tensor.transpose(0, 1) for tensor in (output.detach(), *gradients)]


def _repeats(shape: Shape) -> bool:
    """Tell whether equal seeds give equal numbers with dropout."""
    results = []
    with torch.random.fork_rng(devices=[device()] if device().type == "cuda" else []):
        for _ in range(2):
            torch.manual_seed(0)
            results.append(_run(shape, _DROPOUT))
    return all(torch.equal(one, other) for one, other in zip(*results, strict=True))
