"""A CPU kernel for `varlen_kernel.attention`: torch's plain attention, a document at a time."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.modeling import loss_model, varlen_kernel
from pipeline.modeling.loss_model import LossModel
from pipeline.training import precision

SEED = torch.tensor([1, 2], dtype=torch.uint64)


def _documents(tensors: list[torch.Tensor], starts: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    for begin, end in itertools.pairwise(starts.tolist()):
        yield [tensor[begin:end].float() for tensor in tensors]


def _attend(
    document: list[torch.Tensor], causal: bool, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return output and probabilities of a document, and query, key and value, all with heads first."""
    query, key, value = (part.transpose(0, 1) for part in document)  # (heads, tokens, head_dim)
    key, value = (part.repeat_interleave(len(query) // len(key), dim=0) for part in (key, value))
    at = torch.arange(query.shape[1])
    distance = at[:, None] - at
    seen = (distance >= 0 if causal else distance == distance) & ((window < 0) | (distance.abs() <= window))
    probabilities = (query @ key.mT * scale).masked_fill(~seen, -torch.inf).softmax(-1)
    return probabilities @ value, probabilities, [query, key, value]


@varlen_kernel.attention.register_kernel("cpu")
def _forward(query: Any, key: Any, value: Any, starts: Any, longest: int, dropout: float, *numbers: Any) -> Any:
    assert starts.dtype == torch.int32
    assert starts[-1] == len(query)
    assert longest >= starts.diff().max()
    outputs = [_attend(document, *numbers)[0].transpose(0, 1) for document in _documents([query, key, value], starts)]
    logsumexp = torch.zeros(query.shape[1], len(query))
    return torch.cat(outputs).to(query.dtype), logsumexp, SEED.clone(), SEED[0].clone()


@varlen_kernel.attention_backward.register_kernel("cpu")
def _backward(gradient: Any, inputs: Any, outputs: Any, longest: int, dropout: float, *numbers: Any) -> Any:
    *parts, starts = inputs
    _, scale, _ = numbers
    key_heads, gradients = parts[1].shape[1], []
    for *document, of_output in _documents([*parts, gradient], starts):
        _, probabilities, (query, key, value) = _attend(document, *numbers)
        of_output = of_output.transpose(0, 1)
        of_probabilities = of_output @ value.mT
        mean = (of_probabilities * probabilities).sum(-1, keepdim=True)
        of_scores = probabilities * (of_probabilities - mean) * scale
        of_key, of_value = (
            part.unflatten(0, (key_heads, -1)).sum(1) for part in (of_scores.mT @ query, probabilities.mT @ of_output)
        )
        gradients.append([part.transpose(0, 1) for part in (of_scores @ key, of_key, of_value)])
    return tuple(torch.cat(part).to(gradient.dtype) for part in zip(*gradients, strict=True))


@contextmanager
def like_a_gpu() -> Iterator[None]:
    """Prepare models as on a GPU in bf16, which the stand-in checks for."""
    before = torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(varlen_kernel, "device", lambda: torch.device("cpu"))
        precision.use("bf16")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def prepared(model: PreTrainedModel) -> LossModel:
    """Return the loss model of a decoder as on a GPU in bf16, but in this process's precision."""
    with like_a_gpu():
        return loss_model.prepare(model)
