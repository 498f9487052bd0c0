"""Causal language modelling: the model continues texts (GPT-2, Llama, Qwen, Gemma, Mistral and others)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.command import UserError
from pipeline.param_types import Section
from pipeline.tasks.columns import Columns
from pipeline.tasks.protocol import CorpusInfo, Document, TokenColumn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.modeling.loss_model import LossModel

_MODEL = "AutoModelForCausalLM"


class CausalLMConfig(Section):
    """The section tasks.causal_lm: nothing to choose."""


@dataclass(frozen=True)
class CausalLM:
    """See `pipeline.tasks.protocol.Task`."""

    config: CausalLMConfig = field(default_factory=CausalLMConfig)

    Config: ClassVar = CausalLMConfig
    starter: ClassVar = "starter"
    unit: ClassVar = "token"
    packs: ClassVar = True
    reads_texts: ClassVar = True

    def columns(self) -> Columns:
        """Return that texts alone are needed."""
        return Columns()

    def context(self, config: PreTrainedConfig) -> int:
        """Return how many tokens a model with this config reads at most."""
        from pipeline.modeling.context import context_of

        return context_of(config)

    def check_base(self, base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError unless `base` is a causal language model with an end-of-text token."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder:
            raise UserError(
                f"params.yaml: base: {base} is of type {config.model_type}; expected a causal language model, such as"
                " gpt2"
            )
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"params.yaml: base: the tokenizer of {base} has no end-of-text token, so generated texts could not"
                " end; take another base"
            )
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
        """Return the column of the tokens, padded with the end token."""
        return {"input_ids": TokenColumn("int32", max_length, tokenizer.eos_token_id)}

    def documents(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        info: CorpusInfo,
    ) -> list[Document]:
        """Return the token ids of each text between the start and the end token, without truncation."""
        from pipeline.modeling.context import encoded_as_text, start_and_end

        start, end = start_and_end(tokenizer)
        ids_of_texts = encoded_as_text(tokenizer, [row["text"] for row in rows])["input_ids"]
        return [Document({"input_ids": [start, *ids, end]}) for ids in ids_of_texts]

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""
        from pipeline.modeling.loading import load_for_inference

        return load_for_inference(_MODEL, folder)

    def load_for_training(self, folder: Path, dropout: float, info: CorpusInfo) -> PreTrainedModel:
        """Return the model in `folder` in float32, with `dropout` wherever its architecture has dropout."""
        from pipeline.modeling import loading

        # With a cache, documents of a packed row would attend to each other.
        config = loading.load_config(folder, use_cache=False)
        loading.set_dropout(config, dropout)
        return loading.load_model(_MODEL, folder, config=config)

    def loss_model(self, model: PreTrainedModel, info: CorpusInfo) -> LossModel:
        """Change `model` in place for fast training and return it with its loss as its output."""
        from pipeline.modeling import loss_model

        return loss_model.prepare(model)

    def settings_of(self, model: LossModel, validation: Dataset, info: CorpusInfo) -> dict[str, Any]:
        """Return nothing: the model's own files say all."""
        return {}


TASK = CausalLM()
