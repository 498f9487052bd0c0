"""What the tests of tasks share: the stages on a small corpus, and the bytes that they write."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
from transformers import Trainer

from pipeline import paths

SETTINGS: dict[str, object] = {
    "validate__rules__near_duplicate__severity": "ignore",  # small corpora are made from a few sentences
    "tokenize__max_length": 24,
    "finetune__epochs": 10,
    "finetune__batch_size": 4,
    "finetune__learning_rate": 2e-3,
    "finetune__dropout": 0.0,
    "finetune__early_stopping_patience": 3,
    "finetune__precision": "fp32",
    "evaluate__membership_rows": 8,
    "evaluate__test_prompts": 3,
    "evaluate__generations": 4,
    "evaluate__resamples": 200,
}


def run_stages() -> None:
    """Run the stages after `base`."""
    for stage in ("validate", "tokenize", "finetune", "evaluate"):
        import_module(f"pipeline.{stage}").main()  # here: a GPU machine may lack the libraries of `validate`


def outputs(*folders: Path) -> dict[str, bytes]:
    """Return the bytes of all files that the stages wrote, except the clock of the training."""
    found = folders or (paths.TOKENS, paths.CANDIDATE, Path("reports"))
    files = [Path(root) / name for folder in found for root, _, names in os.walk(folder) for name in names]
    return {str(file): file.read_bytes() for file in [*files, paths.CLEAN] if file != paths.TRAINING_PROGRESS}


@contextmanager
def killed_at_step(step: int) -> Iterator[None]:
    """End training in its step `step`, as a signal would."""
    calls = 0
    original = Trainer.training_step

    def counting(self: Trainer, *args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == step:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", counting)
        yield
