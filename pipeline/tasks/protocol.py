"""The protocol of a task, and what its methods take and return. Light to import.

A task imports transformers and torch inside its methods: the checks of params.yaml and `validate` import every task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.modeling.loss_model import LossModel
    from pipeline.tasks.columns import Columns

CorpusInfo = dict[str, Any]  # what `Task.corpus_info` finds, as JSON


class Document(NamedTuple):
    """A row as the model is to learn it, before it is padded."""

    columns: dict[str, Any]  # `input_ids`, and the task's own; lists of numbers, or one number
    truncated: int = 0  # tokens that the task itself has cut off


class TokenColumn(NamedTuple):
    """A column of the token rows."""

    dtype: str  # of `datasets.Value`
    length: int | None = None  # to which lists are padded or cut; None: one number a row
    fill: int = 0  # what pads them
    key: str = ""  # of params.yaml, which sets `length`, where that is not tokenize.max_length


class Task(Protocol):
    """What the stages need to know of a kind of model. An instance holds the task's section of params.yaml."""

    Config: ClassVar[type[Any]]  # of the section tasks.<name>, a `pipeline.param_types.Section`
    starter: ClassVar[str]  # the folder of the embedded base; empty: there is none
    unit: ClassVar[str]  # that the loss is a mean over
    packs: ClassVar[bool]  # whether rows can be packed: documents of one kind of token, each read by itself
    reads_texts: ClassVar[bool]  # whether a base has a loss on plain texts, so that `base_fit` can tell what it knows

    def columns(self) -> Columns:
        """Return what the task needs of the corpus."""

    def context(self, config: PreTrainedConfig) -> int:
        """Return how many tokens a model with this config reads at most, special tokens included."""

    def check_base(self, base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError unless `base` (as in params.yaml) is a model of this task that the stages can use."""

    def corpus_info(self, rows: Iterable[Mapping[str, Any]]) -> CorpusInfo:
        """Return what the model must know of all clean rows, such as their labels; read once, {} for nothing."""

    def token_columns(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, info: CorpusInfo
    ) -> dict[str, TokenColumn]:
        """Return the columns that `documents` makes, in the order in which they are written."""

    def documents(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        info: CorpusInfo,
    ) -> list[Document]:
        """Return the document of each row. One that is longer than `max_length` may be cut later, from its end."""

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""

    def load_for_training(self, folder: Path, dropout: float, info: CorpusInfo) -> PreTrainedModel:
        """Return the model in `folder` in float32, with `dropout` wherever its architecture has dropout.

        Weights that the base does not have, such as a new head's, depend on torch's random state alone.
        """

    def loss_model(self, model: PreTrainedModel, info: CorpusInfo) -> LossModel:
        """Change `model` in place for fast training and return it with its loss as its output."""

    def settings_of(self, model: LossModel, validation: Dataset, info: CorpusInfo) -> dict[str, Any]:
        """Return what whoever uses the trained model must know, for its `task.json`; {} for nothing.

        Thresholds and the like are chosen here, on the validation split and never on the test split.
        """
