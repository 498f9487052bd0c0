"""The estimate leaves no trace, comes near what a run takes, and names the setting that makes it fit."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from pipeline.command import UserError
from pipeline.modeling import batches, lora, loss_model
from pipeline.modeling.loss_model import LossModel
from pipeline.training import estimate, optimizer

pytestmark = pytest.mark.integration

GB = 10**9
MEASURED = estimate.Measurement(
    fixed_seconds=0.1, row_seconds=0.2, fixed_memory=2 * GB, row_memory=GB // 2, available=4 * GB
)


@pytest.fixture
def model(tiny_gpt2: Path) -> LossModel:
    plain = AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.float32, use_cache=False)
    return loss_model.prepare(plain)


@pytest.fixture
def rows() -> Dataset:
    lengths = [3 + 5 * (number % 9) for number in range(50)]
    return Dataset.from_dict(
        {
            "input_ids": [[0] + [7] * (length - 1) + [0] * (48 - length) for length in lengths],
            "attention_mask": [[1] * length + [0] * (48 - length) for length in lengths],
        }
    )


def measure(model: LossModel, rows: Dataset) -> estimate.Measurement:
    return estimate.measure(model, rows, optimizer.class_and_settings(1e-3), batch_size=2)


def test_measuring_leaves_weights_gradients_mode_and_random_state_as_they_were(model: LossModel, rows: Dataset) -> None:
    torch.manual_seed(5)
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    measure(model, rows)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training


def test_what_a_row_keeps_for_the_backward_pass_grows_with_its_length(model: LossModel) -> None:
    model.train()
    sizes = [
        estimate.activation_bytes(
            model, batches.collate_packed([{"input_ids": [7] * length, "attention_mask": [1] * length}])
        )
        for length in (10, 20, 40)
    ]
    assert sizes[1] - sizes[0] < sizes[2] - sizes[1] < 4 * (sizes[1] - sizes[0])


def test_activation_checkpointing_needs_less_memory_a_row(model: LossModel, rows: Dataset) -> None:
    plain = measure(model, rows).row_memory
    model.model.activation_checkpointing_enable({"use_reentrant": False})
    assert measure(model, rows).row_memory < plain


def test_adapters_need_less_memory_whatever_the_batch(model: LossModel, rows: Dataset) -> None:
    lora.add(model.model, 2)
    adapters = sum(3 * parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    everything = sum(3 * parameter.nbytes for parameter in model.parameters())
    assert adapters < everything / 4
    assert measure(model, rows).fixed_memory > 0


def test_a_run_is_its_steps_and_its_rows() -> None:
    expected = estimate.predict(MEASURED, batch_size=3, epochs=2, rows=100, tokens=9_000)
    assert expected == estimate.Estimate(
        tokens=18_000, steps=68, seconds=pytest.approx(68 * 0.1 + 200 * 0.2), peak_memory=int(3.5 * GB)
    )
    parts = estimate.predict(MEASURED, batch_size=3, epochs=2, rows=100, tokens=9_000, at_once=1)
    assert parts == replace(expected, peak_memory=int(2.5 * GB))
    assert str(expected) == "18,000 tokens in 68 steps: about 1 min and 3.5 GB of memory on this machine"
    assert "about 2.8 hours" in str(replace(expected, seconds=10_000.0))


@pytest.mark.parametrize(
    ("batch_size", "checkpointing", "row_memory", "fix"),
    [
        (
            5,
            False,
            GB // 2,
            r"5 rows at once take 4.5 GB, but 4.0 GB are free; set it to 1, which changes no result, or activ",
        ),
        (6, True, GB // 2, r"set it to 3, which changes no result$"),
        (1, False, 3 * GB, r"not even 1 fits; set activation_checkpointing to true"),
        (1, True, 3 * GB, r"not even 1 fits; set lora_rank to 8"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_setting_that_makes_it_fit(
    batch_size: int, checkpointing: bool, row_memory: int, fix: str
) -> None:
    measured = replace(MEASURED, row_memory=row_memory)
    expected = estimate.predict(measured, batch_size, 1, 100, 9_000)
    with pytest.raises(UserError, match=rf"params.yaml: finetune.rows_at_once: .*{fix}"):
        estimate.check(expected, measured, batch_size, checkpointing)


def test_what_fits_is_not_refused() -> None:
    estimate.check(estimate.predict(MEASURED, 4, 1, 100, 9_000), MEASURED, 4)


def test_weights_that_cannot_fit_are_refused_before_any_step(
    model: LossModel, rows: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_container_limit", lambda: 1)
    with pytest.raises(UserError, match=r"finetune.lora_rank: .* set it to 8, or take a smaller base"):
        measure(model, rows)


@pytest.mark.parametrize(("rows", "auto"), [(10_000, 4), (250, 2), (30, 1)])
def test_the_automatic_batch_fits_the_memory_and_leaves_enough_steps(rows: int, auto: int) -> None:
    assert estimate.auto_batch_size(MEASURED, rows) == auto


@pytest.mark.parametrize(("rows", "at_once", "auto"), [(10_000, 1, 64), (10_000, 3, 48), (1_000, 4, 8), (30, 4, 4)])
def test_an_automatic_batch_in_parts_has_as_many_as_leave_enough_steps(rows: int, at_once: int, auto: int) -> None:
    assert estimate.auto_batch_size(MEASURED, rows, at_once) == auto


def test_no_automatic_batch_where_not_even_one_row_fits() -> None:
    with pytest.raises(UserError, match="not even 1 fits"):
        estimate.auto_batch_size(replace(MEASURED, row_memory=3 * GB), 1000)
