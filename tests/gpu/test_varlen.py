"""On a GPU in bf16 models read batches without padding, with the losses and gradients of padded ones."""

import copy
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from pipeline.modeling import loss_model, masked_loss, row_loss, varlen_kernel
from pipeline.modeling.batches import collate_varlen, to_device
from pipeline.modeling.loss_model import LossModel
from pipeline.modeling.packed_attention import is_varlen
from pipeline.training import optimizer, precision
from tests.pipeline.modeling import test_varlen_encoder
from tests.pipeline.modeling.test_packed_architectures import IDS, KEPT, make
from tests.pipeline.modeling.test_varlen import KINDS, ROWS

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def bf16() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    precision.use("bf16")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("head_dim", [8, 64, 128, 256])
def test_the_kernel_of_this_gpu_is_right(head_dim: int) -> None:
    shapes = {
        varlen_kernel.Shape(4, key_heads, head_dim, head_dim**-0.5, causal, window)
        for key_heads, causal, window in ((4, True, None), (2, True, None), (4, False, None), (2, True, 20))
    }
    assert varlen_kernel.unsupported_reason(shapes) == ""


@pytest.mark.parametrize("is_fixed", [False, True])
@pytest.mark.parametrize("architecture", KINDS)
def test_losses_and_gradients_are_those_of_padded_batches(architecture: str, is_fixed: bool) -> None:
    plain = make(AutoModelForCausalLM, architecture, **KINDS[architecture])
    fast = loss_model.prepare(copy.deepcopy(plain)).cuda()
    assert is_varlen(fast.model)
    plain(input_ids=IDS, attention_mask=KEPT, labels=(labels := IDS.masked_fill(KEPT == 0, -100))).loss.backward()
    with torch.inference_mode():
        expected = plain(input_ids=IDS, attention_mask=KEPT, labels=labels).loss
    with torch.autocast("cuda", torch.bfloat16):
        loss = fast(**to_device(collate_varlen(ROWS, is_fixed), torch.device("cuda")))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    parts = [torch.cat([weight.grad.flatten().cpu() for weight in model.parameters()]) for model in (plain, fast.model)]
    assert (parts[1] - parts[0]).norm() < 0.1 * parts[0].norm()


@pytest.mark.parametrize("task", ["classify", "masked_lm"])
def test_encoders_have_the_losses_of_the_cpu(task: str) -> None:
    if task == "masked_lm":
        fast: LossModel = masked_loss.MaskedLossModel(make(AutoModelForMaskedLM, "bert"))
        plain: LossModel = test_varlen_encoder.masked("bert")
        for model in (fast, plain):
            model.drawn = lambda ids, labels, *_: (ids, labels)
    else:
        base = make(AutoModelForSequenceClassification, "bert")
        fast = row_loss.RowLossModel(base, row_loss.log_losses, class_weights=[1.0, 2.0])
        plain = test_varlen_encoder.classifier("bert")
    batch = test_varlen_encoder.batch_of(task)
    expected = plain(**batch)["loss"].item()
    with torch.autocast("cuda", torch.bfloat16):
        loss = fast.cuda().train()(**to_device(batch, torch.device("cuda")))["loss"]
    assert is_varlen(fast.model)
    assert loss.item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("task", ["causal_lm", "classify"])
def test_in_a_step_the_host_never_waits_for_the_gpu(task: str) -> None:
    if task == "causal_lm":
        fast = loss_model.prepare(make(AutoModelForCausalLM, "gpt2")).cuda()
        batch = fast.collate(ROWS)
    else:
        fast = row_loss.RowLossModel(make(AutoModelForSequenceClassification, "bert"), row_loss.log_losses).cuda()
        batch = test_varlen_encoder.batch_of(task)
    batch = {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    optimizer_class, settings = optimizer.class_and_settings(1e-3)
    steps = optimizer_class(fast.parameters(), **settings)
    for is_checked in (False, True):  # the first step loads kernels
        torch.cuda.set_sync_debug_mode("error" if is_checked else "default")
        try:
            with torch.autocast("cuda", torch.bfloat16):
                loss = fast(**to_device(batch, torch.device("cuda")))["loss"]
            loss.backward()
            steps.step()
            steps.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")
