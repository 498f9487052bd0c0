"""Tiny loss models of every task, in the form that they have on a GPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from pipeline.modeling import loss_model, masked_loss, row_loss, seq2seq_loss
from pipeline.modeling.batches import Batch
from pipeline.modeling.loss_model import LossModel
from tests.pipeline.modeling.test_packed_architectures import IDS, KEPT, MASK, make

LABELS = IDS.masked_fill(KEPT == 0, -100)


def _decoder(architecture: str) -> tuple[LossModel, Batch]:
    fast = loss_model.prepare(make(AutoModelForCausalLM, architecture))
    rows = [{"input_ids": ids, "attention_mask": kept} for ids, kept in zip(IDS.tolist(), KEPT.tolist(), strict=True)]
    return fast, fast.collate(rows)


def _rows(architecture: str, loss: row_loss.RowLoss, labels: list[Any]) -> tuple[LossModel, Batch]:
    size = {"num_labels": 1} if loss is row_loss.relevance_losses else {}
    model = make(AutoModelForSequenceClassification, architecture, **size)
    return row_loss.RowLossModel(model, loss), {
        "input_ids": IDS,
        "attention_mask": KEPT,
        "labels": torch.tensor(labels),
    }


def _masked(architecture: str) -> tuple[LossModel, Batch]:
    chosen = (torch.arange(12) % 3 == 1) & (KEPT == 1)
    batch = {"input_ids": IDS, "attention_mask": KEPT, "labels": IDS.masked_fill(~chosen, -100)}
    fast = masked_loss.MaskedLossModel(make(AutoModelForMaskedLM, architecture))
    return fast, {**batch, "can_mask": KEPT, "mask_token": torch.full((4,), MASK)}


def _seq2seq(architecture: str) -> tuple[LossModel, Batch]:
    fast = seq2seq_loss.Seq2SeqLossModel(make(AutoModelForSeq2SeqLM, architecture))
    return fast, {"input_ids": IDS, "attention_mask": KEPT, "labels": LABELS[:, :9].contiguous()}


_CASES: dict[str, Callable[[], tuple[LossModel, Batch]]] = {
    "causal_lm gpt2": partial(_decoder, "gpt2"),
    "causal_lm llama": partial(_decoder, "llama"),
    "causal_lm gemma2": partial(_decoder, "gemma2"),
    "classify bert": partial(_rows, "bert", row_loss.log_losses, [0, 1, 1, 0]),
    "classify roberta": partial(_rows, "roberta", row_loss.binary_log_losses, [[0.0, 1.0], [1.0, 1.0]] * 2),
    "rank bert": partial(_rows, "bert", row_loss.relevance_losses, [0.0, 0.5, 1.0, 0.0]),
    "masked_lm bert": partial(_masked, "bert"),
    "masked_lm roberta": partial(_masked, "roberta"),
    "seq2seq t5": partial(_seq2seq, "t5"),
    "seq2seq bart": partial(_seq2seq, "bart"),
}
NAMES = sorted(_CASES)


def build(name: str) -> tuple[LossModel, Batch]:
    """Return the loss model called `name`, on the CPU but prepared as on a GPU, and a batch for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        model, batch = _CASES[name]()
    return model.train(), batch
