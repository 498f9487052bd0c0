"""Masked language models whose output is the loss of the tokens that they have to guess."""

import functools
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.modeling.batches import (
    IGNORED_LABEL,
    Batch,
    TokenRow,
    collate_rows,
    with_token_index,
    without_token_index,
)
from pipeline.modeling.loss_model import LossModel
from pipeline.modeling.packed_encoder import prepare_encoder

_MASKED, _REPLACED = 0.8, 0.1  # of the chosen tokens; the rest stay as they are (Devlin et al. 2019, "BERT")


class MaskedLossModel(LossModel):
    """Wraps `model`, which is changed in place for fast training.

    In evaluation the tokens with a label are masked; training draws as many of each row anew.

    The draw is part of the forward pass, since a data loader fetches ahead of the step: from there, the random state of
    a checkpoint would already hold the next step's draw, and a resumed run would see other masks.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Wrap `model`, whose parameters are shared."""
        is_indexed = prepare_encoder(model)
        super().__init__(model, functools.partial(with_token_index, collate_masked) if is_indexed else collate_masked)

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        **inputs: Any,
    ) -> dict[str, torch.Tensor]:
        """Return the mean loss of the masked tokens or, given `num_items_in_batch`, their sum divided by it.

        Args:
            input_ids: The whole texts, (rows, tokens).
            labels: The token where the fixed masks are, else `IGNORED_LABEL`, (rows, tokens).
            num_items_in_batch: The number of labels of a step on all devices.
            inputs: `can_mask`, 1 where a token can be masked, (rows, tokens); `mask_token`, the id of the mask, (rows,)
                and what the model takes.
        """
        can_mask, mask_token = inputs.pop("can_mask"), inputs.pop("mask_token")
        label_count = inputs.pop("label_count", None)
        if self.training:
            read, labels = self.drawn(input_ids, labels, can_mask, mask_token)
        else:
            read = torch.where(labels == IGNORED_LABEL, input_ids, mask_token[:, None])
            inputs = without_token_index(inputs)
        is_masked = labels != IGNORED_LABEL  # (rows, tokens)
        masked_at = _positions(is_masked, label_count)
        # The head reads the masked tokens alone; its logits are the most of a small model's work.
        kept = self.model.base_model.register_forward_hook(functools.partial(_keep, masked_at))
        try:
            logits = self.model(read, **inputs).logits[0].float()  # (masked, vocabulary)
        finally:
            kept.remove()
        losses = functional.cross_entropy(logits, labels.flatten()[masked_at], reduction="none")
        count = is_masked.sum().clamp(min=1)
        if self.training:
            return {"loss": losses.sum() / (count if num_items_in_batch is None else num_items_in_batch)}
        of_tokens = torch.zeros(*labels.shape, 2, device=losses.device)
        of_tokens[is_masked] = torch.stack([losses, torch.ones_like(losses)], dim=-1)
        return {"loss": losses.sum() / count, "scores": of_tokens.sum(1)}

    def drawn(
        self, ids: torch.Tensor, labels: torch.Tensor, can_mask: torch.Tensor, mask_token: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens that the model reads, and the labels, of masks drawn anew: as many a row as it has labels.

        So the number of labels of a step, by which its loss is divided, is known before the draw.
        """
        order = torch.rand(ids.shape, device=ids.device).masked_fill(can_mask == 0, 2).argsort(dim=1).argsort(dim=1)
        chosen = order < (labels != IGNORED_LABEL).sum(1, keepdim=True)
        fate = torch.rand(ids.shape, device=ids.device)
        others = torch.randint_like(ids, int(self.model.config.vocab_size))
        read = torch.where(chosen & (fate < _MASKED), mask_token[:, None], ids)
        read = torch.where(chosen & (fate >= _MASKED) & (fate < _MASKED + _REPLACED), others, read)
        return read, ids.masked_fill(~chosen, IGNORED_LABEL)


def _positions(chosen: torch.Tensor, count: int | None) -> torch.Tensor:
    """Return where in the batch tokens are chosen, (chosen,); unless `count` says how many, the host has to wait."""
    flat = chosen.flatten()
    return (flat.nonzero() if count is None else flat.nonzero_static(size=count))[:, 0]


def _keep(positions: torch.Tensor, _module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
    """Leave the chosen tokens of an encoder's states, as one row."""
    output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[positions][None]  # (1, chosen, hidden)
    return output


def collate_masked(rows: list[TokenRow]) -> Batch:
    """Return every column of `rows` as a tensor, cut to the longest row."""
    batch = {name: column.long() for name, column in collate_rows(rows).items()}
    return {**batch, "labels": batch["labels"][:, : batch["input_ids"].shape[1]]}
