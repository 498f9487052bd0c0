"""Tasks: the one place where kinds of model differ for the stages that make one.

A task is a module here, and one of the same name in `pipeline/evaluation/` (see `pipeline.evaluation.suite`), which
measures its models: so a change of a measurement trains nothing again.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.modeling.loss_model import LossModel

# `task` in params.yaml -> the module whose TASK it is, imported when it is needed.
_MODULES = {"causal_lm": "pipeline.tasks.causal_lm"}


class Task(Protocol):
    """What the stages need to know of a kind of model."""

    def check_base(self, base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError unless `base` (as in params.yaml) is a model of this task that the stages can use."""

    def documents(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Return the token ids of each text as the model is to learn it, without truncation."""

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""

    def load_for_training(self, folder: Path, dropout: float) -> PreTrainedModel:
        """Return the model in `folder` in float32, with `dropout` wherever its architecture has dropout."""

    def loss_model(self, model: PreTrainedModel) -> LossModel:
        """Change `model` in place for fast training and return it with its loss as its output."""


def get_task(name: str) -> Task:
    """Return the task called `name` in params.yaml."""
    return cast(Task, import_module(_MODULES[name]).TASK)
