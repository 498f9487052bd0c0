"""On a GPU one kernel attends in all documents of a packed batch; a stand-in for it runs the same code on a CPU."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.modeling import varlen_kernel
from pipeline.modeling.batches import Batch, TokenRow, collate_varlen, to_device
from pipeline.modeling.loss_model import FusedLossModel, LossModel
from pipeline.modeling.packed_attention import is_varlen
from pipeline.training import optimizer
from tests.pipeline.modeling.test_packed_architectures import IDS, KEPT, assert_same, make
from tests.pipeline.modeling.varlen_stand_in import like_a_gpu, prepared

ROWS = [{"input_ids": ids, "attention_mask": kept} for ids, kept in zip(IDS.tolist(), KEPT.tolist(), strict=True)]
KINDS = {"gpt2": {}, "llama": {}, "mistral": {"sliding_window": 4}}


def reference(plain: PreTrainedModel) -> torch.Tensor:
    loss: torch.Tensor = plain(input_ids=IDS, attention_mask=KEPT, labels=IDS.masked_fill(KEPT == 0, -100)).loss
    return loss


@pytest.mark.parametrize("is_fixed", [False, True])
@pytest.mark.parametrize("architecture", KINDS)
def test_losses_and_gradients_are_those_of_padded_batches(architecture: str, is_fixed: bool) -> None:
    plain = make(AutoModelForCausalLM, architecture, **KINDS[architecture])
    fast = prepared(copy.deepcopy(plain))
    assert is_varlen(fast.model)
    batch = collate_varlen(ROWS, is_fixed)
    assert batch["input_ids"].shape == (1, 4 * 12 if is_fixed else 12 + 3 + 7)
    assert_same(reference(plain), fast(**batch)["loss"], plain, fast.model)

    with torch.inference_mode():
        scores = fast.eval()(**batch)["scores"]
        assert scores[:, 1].tolist() == [11, 2, 6, 0]
        assert (scores[:, 0].sum() / 19).item() == pytest.approx(reference(plain).item(), abs=1e-5)


def packed_rows(*lengths: int) -> list[TokenRow]:
    """Return rows of 12 tokens, each with documents of `lengths` and padding."""
    positions = [at for length in lengths for at in range(length)]
    return [{"input_ids": IDS[0].tolist(), "position_ids": positions + [0] * (12 - len(positions))}] * 2


def test_batches_of_a_fixed_size_have_the_same_shapes_whatever_is_in_them() -> None:
    def shapes(rows: list[TokenRow]) -> dict[str, Any]:
        batch = collate_varlen(rows, is_fixed=True)
        starts = batch["cu_seq_lens_q"]
        assert (starts.diff() >= 0).all()
        assert starts[-1] == batch["input_ids"].shape[1] == 24
        return {name: getattr(value, "shape", value) for name, value in batch.items()}

    assert shapes(ROWS[:2]) == shapes(ROWS[1:3]) == shapes(ROWS[2:])
    assert shapes(packed_rows(12)) == shapes(packed_rows(2, 2, 2, 2, 2, 2)) == shapes(packed_rows(5, 3))


def test_a_kernel_that_is_right_is_used_and_a_wrong_one_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = varlen_kernel.attention

    def wrong(*arguments: Any) -> Any:
        output, *rest = right(*arguments)
        return output.roll(1, 0), *rest

    plain = make(AutoModelForCausalLM, "llama")
    assert is_varlen(prepared(copy.deepcopy(plain)).model)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(varlen_kernel, "attention", wrong)
    fast = prepared(copy.deepcopy(plain))
    assert not is_varlen(fast.model)
    assert "cannot train without padding (its values differ by" in capsys.readouterr().err
    assert_same(reference(plain), fast(**fast.collate(ROWS))["loss"], plain, fast.model)


def test_a_machine_without_the_kernel_gets_padded_batches(capsys: pytest.CaptureFixture[str]) -> None:
    with like_a_gpu(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen_kernel, "device", lambda: torch.device("cuda"))
        shapes = {varlen_kernel.Shape(2, 2, 8, 1.0, True, None)}
        assert varlen_kernel.unsupported_reason(shapes)


class NoHostData(TorchDispatchMode):
    """Fails where a tensor is made of numbers of the host: on a GPU a copy for which the host waits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)
        return func(*args, **(kwargs or {}))


def faked(mode: FakeTensorMode, model: LossModel, batch: Batch) -> Batch:
    """Return a batch of tensors without values, and give `model` such weights."""
    fake = partial(mode.fake_tensor_converter.from_real_tensor, mode)
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})
    return {name: fake(value) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def train_on_fake_tensors(model: LossModel, batch: Batch) -> None:
    """Train two steps on tensors that have shapes and no values: to read one, or to select by one, raises."""
    optimizer_class, settings = optimizer.class_and_settings(1e-3)
    with FakeTensorMode() as mode:
        batch = faked(mode, model, batch)
        steps = optimizer_class(model.parameters(), **settings)
        with NoHostData():
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(**to_device(batch, torch.device("cpu")))["loss"]
                loss.backward()
                steps.step()
                steps.zero_grad()


@pytest.mark.parametrize("architecture", KINDS)
def test_in_a_step_the_host_never_waits_for_the_gpu(architecture: str) -> None:
    model = prepared(make(AutoModelForCausalLM, architecture, **KINDS[architecture]))
    train_on_fake_tensors(model, {**model.collate(ROWS), "num_items_in_batch": torch.tensor(20)})


def test_a_step_that_selects_by_values_would_be_found() -> None:
    model = prepared(make(AutoModelForCausalLM, "gpt2"))
    assert isinstance(model, FusedLossModel)
    selecting = FusedLossModel(model.model, model.collate)
    with pytest.raises(DynamicOutputShapeException):
        train_on_fake_tensors(selecting, {**model.collate(ROWS), "num_items_in_batch": torch.tensor(20)})
