"""Masked language modelling: the model guesses hidden words (BERT, RoBERTa), which adapts an encoder to a corpus.

What it becomes is the base of a `classify` or `rank` project. Training masks other tokens in every epoch (Liu et al.
2019, "RoBERTa"); validation and evaluation mask the same tokens of a row each time, chosen by a hash of its text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from pipeline.command import UserError
from pipeline.param_types import Section
from pipeline.tasks import encoder
from pipeline.tasks.columns import Columns
from pipeline.tasks.protocol import CorpusInfo, Document, TokenColumn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.modeling.loss_model import LossModel

MODEL = "AutoModelForMaskedLM"
_HEADS = ("ForMaskedLM", "ForPreTraining")  # of architectures whose weights have the head
_IGNORED = -100  # `pipeline.modeling.batches.IGNORED_LABEL`, which needs torch


class MaskedLMConfig(Section):
    """The section tasks.masked_lm."""

    mask_share: Annotated[float, Field(gt=0, le=0.5)] = 0.15


@dataclass(frozen=True)
class MaskedLM:
    """See `pipeline.tasks.protocol.Task`."""

    config: MaskedLMConfig = field(default_factory=MaskedLMConfig)

    Config: ClassVar = MaskedLMConfig
    starter: ClassVar = "starter/roberta"
    packs: ClassVar = False
    reads_texts: ClassVar = False  # its loss is of a few tokens, given those on both sides
    unit: ClassVar = "masked token"

    def columns(self) -> Columns:
        """Return that texts alone are needed."""
        return Columns()

    def context(self, config: PreTrainedConfig) -> int:
        """Return how many tokens a model with this config reads at most."""
        return encoder.context_of(MODEL, config)

    def check_base(self, base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError unless `base` is a masked language model, with its head, and has a token for masks."""
        encoder.check_base(base, config, tokenizer, MODEL)
        architectures = config.architectures or []
        if architectures and not any(name.endswith(_HEADS) for name in architectures):
            raise UserError(
                f"params.yaml: base: {base} holds a {architectures[0]}, whose head for masked tokens is not among its"
                " weights, so it would guess at random; expected a masked language model, such as a RobertaForMaskedLM"
            )
        if tokenizer.mask_token_id is None:
            raise UserError(
                f"params.yaml: base: the tokenizer of {base} has no token for masks; expected that of a masked language"
                " model, such as bert or roberta"
            )

    def corpus_info(self, rows: Iterable[Mapping[str, Any]]) -> CorpusInfo:
        """Return nothing."""
        return {}

    def token_columns(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, info: CorpusInfo
    ) -> dict[str, TokenColumn]:
        """Return the columns of the tokens, those with fixed masks, which can be masked, and the token of masks."""
        return {
            **encoder.token_columns(tokenizer, max_length),
            "labels": TokenColumn("int32", max_length, _IGNORED),
            "can_mask": TokenColumn("int8", max_length),
            "mask_token": TokenColumn("int32"),
        }

    def documents(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        info: CorpusInfo,
    ) -> list[Document]:
        """Return the tokens of each text and its fixed masks.

        Special tokens are never masked, nor the unknown token, which is no word that a model could learn.
        """
        special = set(tokenizer.all_special_ids)
        documents = encoder.documents(tokenizer, max_length, [row["text"] for row in rows])
        for document, row in zip(documents, rows, strict=True):
            ids = document.columns["input_ids"]
            can_mask = [int(token not in special) for token in ids]
            masked = self.fixed_masks(row["text"], can_mask)
            document.columns["labels"] = [token if at in masked else _IGNORED for at, token in enumerate(ids)]
            document.columns["can_mask"] = can_mask
            document.columns["mask_token"] = tokenizer.mask_token_id
        return documents

    def fixed_masks(self, text: str, can_mask: Sequence[int]) -> set[int]:
        """Return the places of the masks of a text: at least one, the same whenever its tokens are the same."""
        import numpy as np

        places = np.flatnonzero(can_mask)
        count = min(len(places), max(1, round(self.config.mask_share * len(places))))
        digest = hashlib.sha256(b"masks\0" + text.encode(errors="surrogatepass")).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        return set(generator.choice(places, count, replace=False).tolist()) if count else set()

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""
        from pipeline.modeling.loading import load_for_inference

        return load_for_inference(MODEL, folder)

    def load_for_training(self, folder: Path, dropout: float, info: CorpusInfo) -> PreTrainedModel:
        """Return the model in `folder` in float32, with `dropout` wherever its architecture has dropout."""
        return encoder.load_for_training(MODEL, folder, dropout)

    def loss_model(self, model: PreTrainedModel, info: CorpusInfo) -> LossModel:
        """Return the model with the loss of masked tokens."""
        from pipeline.modeling.masked_loss import MaskedLossModel

        return MaskedLossModel(model)

    def settings_of(self, model: LossModel, validation: Dataset, info: CorpusInfo) -> dict[str, Any]:
        """Return how long texts were in training."""
        return {"task": "masked_lm", "max_length": len(validation[0]["input_ids"])}


TASK = MaskedLM()
