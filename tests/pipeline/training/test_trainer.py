"""The private names of transformers' Trainer that `pipeline.training.trainer` overrides or sets are still there."""

import inspect

import pytest
from transformers import Trainer, TrainingArguments


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
        ("_load_optimizer_and_scheduler", ["self", "checkpoint"]),
        ("_load_rng_state", ["self", "checkpoint"]),
        ("_get_grad_norm", ["self", "model", "grad_norm"]),
        ("_move_model_to_device", ["self", "model", "device"]),
    ],
)
def test_trainer_calls_the_hooks_that_are_overridden(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(Trainer, name)).parameters) == parameters
    assert f"self.{name}(" in inspect.getsource(Trainer)


def test_the_number_of_gpus_can_be_set(tmp_path: object) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    assert arguments.n_gpu >= 0  # reading it sets the private name
    arguments._n_gpu = 7
    assert arguments.n_gpu == 7


def test_trainer_leaves_a_model_alone_that_is_split_already() -> None:
    assert "if self.is_distributed_loading_by_transformers:" in inspect.getsource(Trainer._prepare_for_training)
    assert "sync_context = self._defer_fsdp_gradient_reduction" in inspect.getsource(Trainer)
