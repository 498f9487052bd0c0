"""A causal language model whose output is its loss: what training and validation run.

On a CPU a step of GPT-2 124M is two thirds matrix products; the rest is memory traffic. So texts are packed without
padding, attention runs inside each text, and the logits are never kept. So it is on a GPU in bf16, where in a step the
host never waits for the device. Architectures that cannot read packed texts take padded ones and their own loss. The
results are the plain model's, to the rounding of the precision.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.modeling import cpu, varlen_kernel
from pipeline.modeling.batches import (
    IGNORED_LABEL,
    Batch,
    TokenRow,
    collate_packed,
    collate_padded,
    collate_varlen,
)
from pipeline.modeling.fast_layers import use_fast_layers, use_tanh_gelu
from pipeline.modeling.fused_loss import summed_loss, token_losses
from pipeline.modeling.packed_attention import are_alike, has_varlen_kernel, is_varlen, reads_packed
from pipeline.modeling.tied_embedding import share_gradient

Collator = Callable[[list[TokenRow]], Batch]


class LossModel(torch.nn.Module):
    """Wraps `model`; its batches come from `collate`.

    The output is `loss` and, in evaluation, `scores` (rows, 2): the summed loss of each row's labels in nats, and
    their number.
    """

    def __init__(self, model: PreTrainedModel, collate: Collator = collate_padded) -> None:
        """Wrap `model`, whose parameters are shared."""
        super().__init__()
        cpu.prepare()
        self.model = model
        self.collate = collate
        self.train(model.training)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        device: torch.device = self.model.device
        return device

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the mean loss of `labels` or, given `num_items_in_batch`, their summed loss divided by it."""
        if self.training:
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return self.model(input_ids, labels=labels, **kwargs)
        logits = self.model(input_ids, **kwargs).logits[:, :-1]
        counted = labels[:, 1:] != IGNORED_LABEL
        losses = torch.nn.functional.cross_entropy(logits[counted].float(), labels[:, 1:][counted], reduction="none")
        return loss_and_scores(losses, counted)


class FusedLossModel(LossModel):
    """Computes output layer and loss in one, for architectures whose logits are the output layer's as they are."""

    def __init__(self, model: PreTrainedModel, collate: Collator, selects: bool = True) -> None:
        """Wrap `model`; unless it `selects`, training computes logits of tokens without a label, but need not wait.

        A selection's size depends on values, and to know it the host waits until the device has done all its work.
        """
        super().__init__(model, collate)
        self._selects = selects

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        row_lengths: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return what `LossModel.forward` does; `row_lengths` (rows,) splits a packed batch into its rows."""
        states = output_states(self.model, input_ids=input_ids, **kwargs)[:, :-1]  # (batch, tokens - 1, hidden)
        targets = labels[:, 1:]
        counted = targets != IGNORED_LABEL
        weight = self.model.get_output_embeddings().weight
        if self.training:
            total = counted.sum() if num_items_in_batch is None else num_items_in_batch
            if self._selects:
                states, targets = states[counted], targets[counted]
            return {"loss": summed_loss(states.flatten(0, -2), weight, targets.flatten(), total, not self._selects)}
        return loss_and_scores(token_losses(states[counted], weight, targets[counted]), counted, row_lengths)


def loss_and_scores(losses: torch.Tensor, counted: torch.Tensor, row_lengths: torch.Tensor | None = None) -> Batch:
    """Return the output of an evaluation.

    Args:
        losses: The loss of each counted label, (labels,).
        counted: Which labels count, (batch, tokens - 1): the first token of a batch has none.
        row_lengths: The tokens of each row, (rows,), where a packed batch holds them all in one.
    """
    loss_and_count = torch.zeros(*counted.shape, 2, device=losses.device)
    loss_and_count[counted] = torch.stack([losses, torch.ones_like(losses)], dim=-1)
    loss_and_count = torch.nn.functional.pad(loss_and_count, (0, 0, 1, 0))  # (batch, tokens, 2)
    if row_lengths is None:
        scores = loss_and_count.sum(1)
    else:
        lengths = row_lengths.tolist()  # batches of a fixed size have more tokens
        scores = torch.stack([row.sum(0) for row in torch.split(loss_and_count[0, : sum(lengths)], lengths)])
    loss, count = scores.double().sum(0)
    return {"loss": (loss / count).float(), "scores": scores}


def output_states(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """Return what the output layer of `model` would read: its "logits" while that layer hands on what it gets."""
    layer = model.get_output_embeddings()
    layer.forward = lambda states: states
    try:
        states: torch.Tensor = model(**inputs).logits
        return states
    finally:
        del layer.forward


def prepare(model: PreTrainedModel) -> LossModel:
    """Change `model` in place for fast training and wrap it."""
    use_tanh_gelu(model)
    if not _has_plain_output_layer(model):
        return LossModel(model)
    if torch.cuda.is_available():
        if _reads_varlen(model):
            return FusedLossModel(model, collate_varlen, selects=False)
        return FusedLossModel(model, functools.partial(collate_padded, with_mask=False))
    if not reads_packed(model):
        return LossModel(model)
    use_fast_layers(model)
    is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    if is_tied and int(os.environ.get("WORLD_SIZE", "1")) == 1:  # else processes exchange the gradient
        share_gradient(model.get_input_embeddings())
    return FusedLossModel(model, collate_packed)


def _reads_varlen(model: PreTrainedModel) -> bool:
    """Make `model` read packed batches on a GPU if it can and the GPU's kernel is right; else leave it."""
    attention = model.config._attn_implementation
    if not varlen_kernel.is_wanted() or not reads_packed(model):
        return False
    if not has_varlen_kernel(model, use_cache=False):
        model.set_attn_implementation(attention)
        return False
    # It looks for padding in the ids, for which the host would wait.
    model.base_model.warn_if_padding_and_no_attention_mask = lambda *_: None
    return True


@torch.no_grad()
@cpu.exact_products()
def _has_plain_output_layer(model: PreTrainedModel) -> bool:
    """Tell whether the logits are a product of the output layer's weight, perhaps scaled: no bias, no cap."""
    if getattr(model.config, "final_logit_softcapping", None):
        return False
    is_training = model.training
    model.eval()
    inputs = {"input_ids": torch.tensor([[1, 2, 3]], device=model.device), "use_cache": False}
    if is_varlen(model):
        inputs["cu_seq_lens_q"] = torch.tensor([0, 3])
    logits = model(**inputs).logits
    ours = output_states(model, **inputs) @ model.get_output_embeddings().weight.T
    model.train(is_training)
    return are_alike(ours, logits)
