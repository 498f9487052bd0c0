"""An encoder with a decoder whose output is the loss of its targets: what training and validation run."""

from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.modeling.batches import IGNORED_LABEL, collate_pairs
from pipeline.modeling.cpu import keep_freed_memory, use_physical_cores
from pipeline.modeling.fast_layers import use_fast_dropout, use_tanh_gelu
from pipeline.modeling.loss_model import LossModel, loss_and_scores


class Seq2SeqLossModel(LossModel):
    """Wraps `model`, which is changed in place for fast training; its batches come from `collate_pairs`.

    The models' own losses are means over a batch, and some ignore how many labels a step has.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Wrap `model`, whose parameters are shared."""
        super().__init__(model, collate_pairs)
        use_tanh_gelu(model)
        if not torch.cuda.is_available():
            keep_freed_memory()
            use_physical_cores()
            use_fast_dropout(model)

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        **inputs: Any,
    ) -> dict[str, torch.Tensor]:
        """Return the mean loss of the targets' tokens or, given `num_items_in_batch`, their summed loss divided by it.

        The decoder reads the target behind its start token, by the model's own shift.
        """
        shifted = self.model.prepare_decoder_input_ids_from_labels(labels=labels)  # (rows, target tokens)
        logits = self.model(input_ids, decoder_input_ids=shifted, use_cache=False, **inputs).logits
        counted = labels != IGNORED_LABEL
        losses = torch.nn.functional.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
        if self.training:
            total = counted.sum() if num_items_in_batch is None else num_items_in_batch
            return {"loss": losses.sum() / total}
        return loss_and_scores(losses, counted)
