"""Text to text: the model reads a source and writes a target (T5, BART and others)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

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

MODEL = "AutoModelForSeq2SeqLM"
_IGNORED = -100  # `pipeline.modeling.batches.IGNORED_LABEL`, which would import torch


class Seq2SeqConfig(Section):
    """The section tasks.seq2seq."""

    source: Name = "source"
    target: Name = "target"
    prefix: str = ""
    max_target_length: Annotated[int, Field(ge=2)] = 64

    @model_validator(mode="after")
    def _names_two_columns(self) -> Seq2SeqConfig:
        if self.source == self.target:
            raise ValueError(f"source and target: found {self.source!r} for both; name two different columns")
        return self


@dataclass(frozen=True)
class Seq2Seq:
    """See `pipeline.tasks.protocol.Task`."""

    config: Seq2SeqConfig = field(default_factory=Seq2SeqConfig)

    Config: ClassVar = Seq2SeqConfig
    starter: ClassVar = "starter/t5"
    unit: ClassVar = "target token"
    packs: ClassVar = False
    reads_texts: ClassVar = False

    def columns(self) -> Columns:
        """Return the columns of sources and targets; copies of a source stay in one split."""
        names = {"source": self.config.source, "target": self.config.target}
        kept = tuple(Column(name, column, f"tasks.seq2seq.{name}", "text") for name, column in names.items())
        return Columns(kept=kept, texts=tuple(names.values()), split_by=self.config.source)

    def context(self, config: PreTrainedConfig) -> int:
        """Return how many tokens a model with this config reads at most; T5, with relative positions, sets no limit."""
        from pipeline.modeling.context import context_of

        return context_of(config)

    def check_base(self, base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError unless `base` is an encoder with a decoder, and its tokenizer has the tokens for it."""
        import transformers

        mapping = getattr(transformers, MODEL)._model_mapping
        is_seq2seq = type(config) in mapping and config.is_encoder_decoder
        if not is_seq2seq or not hasattr(mapping[type(config)], "prepare_decoder_input_ids_from_labels"):
            raise UserError(
                f"params.yaml: base: {base} is of type {config.model_type}; expected a model with an encoder and a"
                " decoder for texts, such as t5 or bart"
            )
        missing = [
            name
            for name, token in (
                ("padding token", tokenizer.pad_token_id),
                ("end token", tokenizer.eos_token_id),
                ("token from which the decoder starts (decoder_start_token_id)", config.decoder_start_token_id),
            )
            if token is None
        ]
        if missing:
            raise UserError(f"params.yaml: base: {base} has no {' and no '.join(missing)}; take another base")
        if len(tokenizer) > config.vocab_size:
            raise UserError(
                f"params.yaml: base: {base} has a tokenizer of {len(tokenizer)} tokens for a model of"
                f" {config.vocab_size}; take both from the same model"
            )

    def corpus_info(self, rows: Iterable[Mapping[str, Any]]) -> CorpusInfo:
        """Return nothing."""
        return {}

    def token_columns(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, info: CorpusInfo
    ) -> dict[str, TokenColumn]:
        """Return the columns of the source's tokens and of the target's, which no loss counts beyond its end."""
        target = TokenColumn("int32", self.config.max_target_length, _IGNORED, "tasks.seq2seq.max_target_length")
        return {"input_ids": encoder.token_columns(tokenizer, max_length)["input_ids"], "labels": target}

    def documents(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        info: CorpusInfo,
    ) -> list[Document]:
        """Return the tokens of prefix and source, cut so that the end token stays, and those of the target, uncut.

        A target that is cut later loses its end token: nothing should teach the model to stop there. What looks like a
        special token is characters, except to tokenizers such as T5's own, whose vocabulary of pieces has it.
        """
        sources = encoder.documents(tokenizer, max_length, [self.config.prefix + row["source"] for row in rows])
        targets = tokenizer(text_target=[row["target"] for row in rows], split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        end = tokenizer.eos_token_id
        return [
            Document(
                {"input_ids": source.columns["input_ids"], "labels": ids if end in ids else [*ids, end]},
                source.truncated,
            )
            for source, ids in zip(sources, targets, strict=True)
        ]

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""
        from pipeline.modeling.loading import load_for_inference

        return load_for_inference(MODEL, folder)

    def load_for_training(self, folder: Path, dropout: float, info: CorpusInfo) -> PreTrainedModel:
        """Return the model in `folder` in float32, with `dropout` wherever its architecture has dropout."""
        from pipeline.modeling import loading

        config = loading.load_config(folder, use_cache=False)
        if (context := self.context(config)) < self.config.max_target_length:
            raise UserError(
                f"params.yaml: tasks.seq2seq.max_target_length: found {self.config.max_target_length}, but the base's"
                f" context is {context} tokens; set it to {context} or less"
            )
        loading.set_dropout(config, dropout)
        return loading.load_model(MODEL, folder, config=config)

    def loss_model(self, model: PreTrainedModel, info: CorpusInfo) -> LossModel:
        """Change `model` in place for fast training and return it with its targets' loss as its output."""
        from pipeline.modeling.seq2seq_loss import Seq2SeqLossModel

        return Seq2SeqLossModel(model)

    def settings_of(self, model: LossModel, validation: Dataset, info: CorpusInfo) -> dict[str, Any]:
        """Return what is put before a source, and how many tokens the model has learned to read and to write."""
        return {
            "task": "seq2seq",
            "prefix": self.config.prefix,
            "max_source_tokens": validation.features["input_ids"].length,
            "max_target_tokens": self.config.max_target_length,
        }


TASK = Seq2Seq()
