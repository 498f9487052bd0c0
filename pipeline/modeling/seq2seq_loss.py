"""An encoder with a decoder whose output is the loss of its targets: what training and validation run."""

import functools
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.modeling.batches import IGNORED_LABEL, collate_pairs
from pipeline.modeling.fast_layers import use_fast_layers, use_tanh_gelu
from pipeline.modeling.fused_loss import summed_loss
from pipeline.modeling.loss_model import LossModel, loss_and_scores, output_states
from pipeline.modeling.packed_attention import boundaries, use_varlen_attention


class Seq2SeqLossModel(LossModel):
    """Wraps `model`, which is changed in place for fast training; its batches come from `collate_pairs`.

    The models' own losses are means over a batch, and some ignore how many labels a step has. A T5 in training on a CPU
    computes no padding; in evaluation it stays as it is, for it also writes texts then.
    """

    _packs = False
    _longest: int | None = None  # tokens of a document, while packed ones are read

    def __init__(self, model: PreTrainedModel) -> None:
        """Wrap `model`, whose parameters are shared."""
        super().__init__(model, collate_pairs)
        use_tanh_gelu(model)
        if not torch.cuda.is_available():
            use_fast_layers(model)
            biases = [module for module in model.modules() if hasattr(module, "compute_bias")]
            # Without a bias, positions are learned ones, which a packed batch cannot restart.
            self._packs = bool(model._supports_sdpa and biases)
            for module in biases if self._packs else ():
                module.compute_bias = functools.partial(self._bias, module.compute_bias)
        self._attention = model.config._attn_implementation
        self.train(self.training)

    def train(self, mode: bool = True) -> "Seq2SeqLossModel":
        """Read packed batches in training, where the model can."""
        super().train(mode)
        if self._packs:
            if mode:
                use_varlen_attention(self.model)
            else:
                self.model.set_attn_implementation(self._attention)
        return self

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
        counted = labels != IGNORED_LABEL
        total = counted.sum() if num_items_in_batch is None else num_items_in_batch
        if self.training and self._packs:
            states = self._packed_states(input_ids, inputs["attention_mask"].bool(), shifted, counted)
            return {"loss": summed_loss(states, self.model.get_output_embeddings().weight, labels[counted], total)}
        logits = self.model(input_ids, decoder_input_ids=shifted, use_cache=False, **inputs).logits
        losses = torch.nn.functional.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
        return {"loss": losses.sum() / total} if self.training else loss_and_scores(losses, counted)

    def _packed_states(
        self, input_ids: torch.Tensor, kept: torch.Tensor, shifted: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        """Return what the output layer reads for the targets' tokens, (target tokens, hidden), without padding."""
        sources, targets = boundaries(kept), boundaries(counted)
        self._longest = max(kept.shape[1], counted.shape[1])
        encoded = self.model.get_encoder()(input_ids=input_ids[kept][None], cu_seq_lens_q=sources)
        states = output_states(
            self.model,
            encoder_outputs=encoded,
            decoder_input_ids=shifted[counted][None],
            use_cache=False,
            cu_seq_lens_q=targets,
            cu_seq_lens_k=sources,
        )
        self._longest = None
        return states[0]

    def _bias(self, compute: Any, queries: int, keys: int, **arguments: Any) -> torch.Tensor:
        """Compute the bias of positions for the longest document alone: those of a packed batch share it."""
        longest = max(queries, keys) if self._longest is None else self._longest
        bias: torch.Tensor = compute(min(queries, longest), min(keys, longest), **arguments)
        return bias
