"""Ranking: the model says how relevant a passage is to a query, reading both together (a cross-encoder, such as BERT).

One logit a pair; relevance = sigmoid(logit) (Nogueira and Cho 2019, "Passage re-ranking with BERT"). Grades from 0 to n
are divided by the largest of the corpus and learned as soft labels: the model then ranks by the expected share of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from pipeline.command import UserError
from pipeline.param_types import Name, Section
from pipeline.tasks import encoder
from pipeline.tasks.columns import Column, Columns
from pipeline.tasks.protocol import CorpusInfo, Document, TokenColumn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.modeling.loss_model import LossModel

MODEL = "AutoModelForSequenceClassification"
_KEY = "tasks.rank"
_MOST = 30  # relevance: nDCG's gain is 2 to the power of it, beside which all others then vanish


class RankConfig(Section):
    """The section tasks.rank."""

    query: Name = "query"
    passage: Name = "passage"
    relevance: Name = "relevance"

    @model_validator(mode="after")
    def _differ(self) -> RankConfig:
        if len({self.query, self.passage, self.relevance}) < 3:
            raise ValueError("query, passage and relevance name three different columns; found one of them twice")
        return self


@dataclass(frozen=True)
class Rank:
    """See `pipeline.tasks.protocol.Task`."""

    config: RankConfig = field(default_factory=RankConfig)

    Config: ClassVar = RankConfig
    starter: ClassVar = "starter/roberta"
    packs: ClassVar = False
    reads_texts: ClassVar = False
    unit: ClassVar = "row"

    def columns(self) -> Columns:
        """Return the columns of the pairs; a query's rows stay in one split.

        Passages of one query are often alike, and which of two is relevant is what there is to learn: near-copies stay.
        """
        query, passage = self.config.query, self.config.passage
        return Columns(
            kept=(
                Column("query", query, f"{_KEY}.query", "text"),
                Column("passage", passage, f"{_KEY}.passage", "text"),
                Column("relevance", self.config.relevance, f"{_KEY}.relevance", "number", most=_MOST),
            ),
            texts=(query, passage),
            split_by=query,
            compares_near_copies=False,
        )

    def context(self, config: PreTrainedConfig) -> int:
        """Return how many tokens a model with this config reads at most."""
        return encoder.context_of(MODEL, config)

    def check_base(self, base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError unless `base` can get a head of one logit, and its tokenizer sets query and passage apart."""
        encoder.check_base(base, config, tokenizer, MODEL)
        if tokenizer.num_special_tokens_to_add(pair=True) <= tokenizer.num_special_tokens_to_add(pair=False):
            raise UserError(
                f"params.yaml: base: the tokenizer of {base} puts nothing between query and passage; expected that of a"
                " model such as bert or roberta, which reads pairs"
            )

    def corpus_info(self, rows: Iterable[Mapping[str, Any]]) -> CorpusInfo:
        """Return the largest relevance, which is 1 to the model, and the mean of the training rows on that scale."""
        largest, training = 0.0, []
        for row in rows:
            largest = max(largest, row["relevance"])
            if row["split"] == "train":
                training.append(row["relevance"])
        scale = largest or 1.0
        return {"largest": scale, "mean": math.fsum(training) / scale / max(1, len(training))}

    def token_columns(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, info: CorpusInfo
    ) -> dict[str, TokenColumn]:
        """Return the columns of the tokens, and the relevance from 0 to 1."""
        return {**encoder.token_columns(tokenizer, max_length), "labels": TokenColumn("float32")}

    def documents(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        info: CorpusInfo,
    ) -> list[Document]:
        """Return the tokens of each query and its passage, and the label.

        A pair that is too long loses the end of its passage; a query above half of `max_length` loses its own too.
        """
        queries, passages = ([row[name] for row in rows] for name in ("query", "passage"))
        documents = encoder.documents(tokenizer, max_length, queries, passages)
        for document, row in zip(documents, rows, strict=True):
            document.columns["labels"] = min(1.0, row["relevance"] / info["largest"])
        return documents

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""
        from pipeline.modeling.loading import load_for_inference

        return load_for_inference(MODEL, folder)

    def load_for_training(self, folder: Path, dropout: float, info: CorpusInfo) -> PreTrainedModel:
        """Return the model in `folder` in float32 with a head of one logit: the base's own where it has one."""
        return encoder.load_for_training(
            MODEL, folder, dropout, id2label={0: "relevance"}, label2id={"relevance": 0}, problem_type=None
        )

    def loss_model(self, model: PreTrainedModel, info: CorpusInfo) -> LossModel:
        """Return the model with its binary log loss; labels between 0 and 1 are soft."""
        from pipeline.modeling import row_loss

        return row_loss.RowLossModel(model, row_loss.relevance_losses)

    def settings_of(self, model: LossModel, validation: Dataset, info: CorpusInfo) -> dict[str, Any]:
        """Return how long pairs were in training, and which relevance is 1 to the model."""
        return {"task": "rank", "max_length": len(validation[0]["input_ids"]), "largest": info["largest"]}


TASK = Rank()
