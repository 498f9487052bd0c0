"""GPUs train under autocast; what its choice of types breaks there, it breaks on a CPU as well."""

import pytest
import torch

from pipeline.modeling.batches import Batch
from pipeline.modeling.loss_model import LossModel
from tests.pipeline.modeling import loss_models


def flat_gradient(model: LossModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def training_loss(model: LossModel, batch: Batch, mixed: bool) -> torch.Tensor:
    torch.manual_seed(0)  # masked models draw their masks
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss: torch.Tensor = model(**batch, num_items_in_batch=torch.tensor(20))["loss"]
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", loss_models.NAMES)
def test_a_loss_model_trains_and_scores_under_autocast_like_in_float32_to_its_rounding(name: str) -> None:
    (exact, batch), (mixed, _) = loss_models.build(name), loss_models.build(name)
    expected, loss = training_loss(exact, batch, mixed=False), training_loss(mixed, batch, mixed=True)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    assert all(p.grad.dtype == torch.float32 for p in mixed.parameters() if p.grad is not None)
    reference = flat_gradient(exact)
    assert (flat_gradient(mixed) - reference).norm() < 0.15 * reference.norm()

    with torch.inference_mode():
        whole = exact.eval()(**batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = mixed.eval()(**batch)
    assert rounded["scores"].dtype == torch.float32
    assert torch.equal(rounded["scores"][:, 1], whole["scores"][:, 1])
    assert rounded["loss"].item() == pytest.approx(whole["loss"].item(), rel=0.05)
