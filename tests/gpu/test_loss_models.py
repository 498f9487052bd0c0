"""On a GPU a loss model has the losses that it has on a CPU, and its steps under autocast end in finite gradients."""

import pytest
import torch

from pipeline.training import optimizer
from tests.pipeline.modeling import loss_models

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", loss_models.NAMES)
def test_rows_have_the_losses_of_the_cpu(name: str) -> None:
    model, batch = loss_models.build(name)
    with torch.inference_mode():
        expected = model.eval()(**batch)["scores"]
    model.cuda()
    with torch.inference_mode():
        on_gpu = model(**{key: tensor.cuda() for key, tensor in batch.items()})["scores"]
    torch.testing.assert_close(on_gpu.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", loss_models.NAMES)
def test_steps_under_autocast_lower_the_loss_with_the_clipped_optimizer(name: str) -> None:
    model, batch = loss_models.build(name)
    batch = {key: tensor.cuda() for key, tensor in batch.items()}
    optimizer_class, settings = optimizer.class_and_settings(1e-2)
    steps = optimizer_class(model.cuda().train().parameters(), **settings)
    losses = []
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch, num_items_in_batch=torch.tensor(20, device="cuda"))["loss"]
        loss.backward()
        steps.step()
        steps.zero_grad()
        losses.append(loss.item())
    assert torch.isfinite(torch.tensor(losses)).all()
    assert min(losses[-3:]) < losses[0]
