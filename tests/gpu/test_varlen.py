"""On a GPU in bf16 decoders read batches without padding, with the losses and gradients of padded ones."""

import copy
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.modeling import loss_model, varlen_kernel
from pipeline.modeling.batches import collate_varlen, to_device
from pipeline.modeling.packed_attention import is_varlen
from pipeline.training import optimizer, precision
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


def test_in_a_step_the_host_never_waits_for_the_gpu() -> None:
    fast = loss_model.prepare(make(AutoModelForCausalLM, "gpt2")).cuda()
    batch = {
        name: value.pin_memory() if isinstance(value, torch.Tensor) else value
        for name, value in fast.collate(ROWS).items()
    }
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
