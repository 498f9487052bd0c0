"""The optimizer is fused AdamW with clipped gradients."""

import pytest
import torch

from pipeline.training import optimizer


@pytest.mark.parametrize("scale", [0.01, 100.0])  # below and above the norm at which gradients are clipped
def test_a_step_equals_clip_grad_norm_and_adamw(scale: float) -> None:
    torch.manual_seed(0)
    start = [torch.randn(30, 7), torch.randn(11)]
    weights, expected = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    optimizer_class, settings = optimizer.class_and_settings(1e-2)
    clipped = optimizer_class(weights, **settings, weight_decay=0.1)
    plain = torch.optim.AdamW(expected, lr=1e-2, weight_decay=0.1, fused=True)
    for _ in range(3):
        for one, other in zip(weights, expected, strict=True):
            one.grad = scale * torch.randn_like(one)
            other.grad = one.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(expected, 1.0)
        clipped.step()
        plain.step()
        assert clipped.norm.item() == pytest.approx(norm.item(), rel=1e-5)
    for one, other in zip(weights, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
