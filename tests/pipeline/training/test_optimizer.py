"""The optimizer is fused AdamW with clipped gradients."""

import pytest
import torch

from pipeline.training import optimizer, precision


@pytest.mark.parametrize("products", ["fp32", "bf16"])
@pytest.mark.parametrize("scale", [0.01, 100.0])  # below and above the norm at which gradients are clipped
def test_a_step_equals_clip_grad_norm_and_adamw(scale: float, products: precision.Precision) -> None:
    precision.use(products)
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


def test_a_sparse_gradient_of_an_embedding_gives_the_steps_of_a_dense_one() -> None:
    torch.manual_seed(0)
    sparse, dense = torch.nn.Embedding(20, 4, sparse=True), torch.nn.Embedding(20, 4)
    dense.load_state_dict(sparse.state_dict())
    optimizer_class, settings = optimizer.class_and_settings(1e-2)
    steps = [optimizer_class(layer.parameters(), **settings, weight_decay=0.1) for layer in (sparse, dense)]
    for words in ([1, 2, 2, 7], [7, 3], [19]):
        for layer, step in zip((sparse, dense), steps, strict=True):
            for part in (words, [*words, 4]):  # a step may take several backward passes
                (30 * layer(torch.tensor(part)).square().sum()).backward()  # beyond the norm at which it is clipped
            step.step()
            step.zero_grad()
        assert steps[0].norm.item() == pytest.approx(steps[1].norm.item(), rel=1e-5)
        torch.testing.assert_close(sparse.weight, dense.weight, atol=1e-6, rtol=1e-5)
