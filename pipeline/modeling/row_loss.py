"""Models with one answer a row, whose output is the loss of each row: what training and validation run."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.modeling.batches import IGNORED_LABEL, collate_rows, to_device, with_token_index, without_token_index
from pipeline.modeling.loss_model import LossModel
from pipeline.modeling.packed_encoder import prepare_encoder

# Takes logits, labels and the labels' weights or None; returns the loss of each row in nats, (rows,).
RowLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
_ROWS = 64  # scored at once


class RowLossModel(LossModel):
    """Wraps `model`, which is changed in place for fast training; the loss of a row comes from `row_loss`.

    The output is `loss` and, in evaluation, `scores` (rows, 2), each row's loss and 1.
    """

    _class_weights: torch.Tensor | None

    def __init__(self, model: PreTrainedModel, row_loss: RowLoss, class_weights: Sequence[float] | None = None) -> None:
        """Wrap `model`, whose parameters are shared; `class_weights` count in training alone, one a label."""
        is_indexed = prepare_encoder(model)
        super().__init__(model, functools.partial(with_token_index, collate_rows) if is_indexed else collate_rows)
        self._row_loss = row_loss
        weights = torch.tensor(class_weights, dtype=torch.float32) if class_weights else None
        self.register_buffer("_class_weights", weights, persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        **inputs: Any,
    ) -> dict[str, torch.Tensor]:
        """Return the mean loss of the labels or, given `num_items_in_batch`, their summed loss divided by it."""
        may_wait = inputs.pop("label_count", None) is None
        if not self.training:
            inputs = without_token_index(inputs)
        logits = self.model(input_ids, **inputs).logits.float()  # (rows, labels)
        counted = (labels != IGNORED_LABEL).reshape(len(labels), -1).any(1)  # (rows,)
        if self.training:
            weights = self._class_weights
            if may_wait:
                losses = self._row_loss(logits[counted], labels[counted], weights)
            else:  # to leave rows out, the host would wait for the device
                losses = self._row_loss(logits, labels, weights).masked_fill(~counted, 0.0)
            total = labels.numel() if num_items_in_batch is None else num_items_in_batch
            return {"loss": losses.sum() * labels[0].numel() / total}  # Trainer counts every label of a row
        losses = self._row_loss(logits[counted], labels[counted], None)
        scores = torch.zeros(len(labels), 2, device=logits.device)
        scores[counted] = torch.stack([losses, torch.ones_like(losses)], dim=-1)
        return {"loss": losses.mean(), "scores": scores}


def log_losses(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return -ln p(label) of each row; `labels` (rows,) are indices."""
    return functional.cross_entropy(logits, labels.long(), weight=weights, reduction="none")


def binary_log_losses(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the mean over the labels of the binary log loss of each row; `labels` (rows, labels) are 0 or 1."""
    losses = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
    return losses.mean(-1)


def relevance_losses(logits: torch.Tensor, labels: torch.Tensor, _weights: torch.Tensor | None) -> torch.Tensor:
    """Return the binary log loss of each row; `logits` are (rows, 1), `labels` (rows,) from 0 to 1."""
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")


@torch.inference_mode()
def logits_and_labels(model: LossModel, rows: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (rows, labels) and the labels of token rows, in order."""
    model.eval()
    logits, labels = [], []
    for start in range(0, len(rows), _ROWS):
        batch = without_token_index(model.collate([rows[at] for at in range(start, min(start + _ROWS, len(rows)))]))
        labels.append(batch.pop("labels"))
        inputs = to_device(batch, model.device)
        logits.append(model.model(**inputs).logits.float().cpu())
    return torch.cat(logits), torch.cat(labels)
