"""What makes a training step fast: the same arithmetic as the recipe's, without padding and needless memory traffic.

For `pipeline.finetune`, in this order:

- `preload_allocator()` first of all, from `run_stage` only.
- `choose(wanted.precision)` before anything else: "fp32" or "bf16"; belongs in the key of the checkpoints.
- `training_arguments(...)` -> keyword arguments for `TrainingArguments`.
- `prepare(model, choose)` changes a model in place. Its batches come from `collate(model)`, and it answers
  them with `{"loss", "scores"}`; `scores` is (rows, 2), in evaluation only: the summed loss of each row's labels in
  nats, and their number.
- `optimizer(wanted)` -> `optimizer_cls_and_kwargs` for `Trainer`, which clips gradients itself: `max_grad_norm` is 0 in
  the training arguments.

On a CPU a step of GPT-2 124M is two thirds matrix products; the rest is memory. Here texts are strung together
without padding, attention runs inside each text, the logits are never kept for the backward pass, and freed memory
is kept for the next step. GPUs take the batch padded to its longest text, torch's own kernels and bf16.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from pipeline.modeling.batches import IGNORED_LABEL, Batch, collate_packed, collate_padded
from pipeline.modeling.cpu import keep_freed_memory, use_physical_cores
from pipeline.modeling.fast_layers import use_fast_dropout, use_tanh_gelu
from pipeline.modeling.fused_loss import summed_loss, token_losses
from pipeline.modeling.packed_attention import supports_packing, varlen_attention
from pipeline.training.precision import Precision

_COMPILING_PAYS = 5e16  # floating-point operations: some five minutes of a fast GPU; compiling takes about one


def training_arguments(chosen: Precision, operations: float) -> dict[str, Any]:
    """Return keyword arguments for `TrainingArguments`; `operations` is 6 x parameters x tokens of the whole run."""
    on_gpu = torch.cuda.is_available()
    return {
        "bf16": on_gpu and chosen == "bf16",  # on a CPU it is torch's switch, see `choose`
        "torch_compile": on_gpu and operations >= _COMPILING_PAYS,
        "max_grad_norm": 0.0,  # the optimizer clips
        "dataloader_pin_memory": on_gpu,
    }


def prepare(model: PreTrainedModel, chosen: Precision) -> PreTrainedModel:
    """Change `model` in place for fast training, with results equal to float32's rounding; return it."""
    torch.set_float32_matmul_precision("medium" if chosen == "bf16" else "highest")
    use_tanh_gelu(model)
    if not torch.cuda.is_available():
        keep_freed_memory()
        use_physical_cores()
        if supports_packing(model):
            model.set_attn_implementation("documents")
            use_fast_dropout(model)
            # The embedding's gradient has a row for each token of the batch: added to the output layer's, which is
            # the same tensor, it need not be spread over the whole vocabulary. (Processes can not exchange such.)
            tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
            model.get_input_embeddings().sparse = tied and int(os.environ.get("WORLD_SIZE", "1")) == 1
    model.forward = functools.partial(_forward if supports_packing(model) else _forward_of_others, model)
    return model


# --- memory and threads


# --- batches


def collate(model: PreTrainedModel) -> Callable[[list[dict[str, list[int]]]], Batch]:
    """Return the collator whose batches suit `model` on this machine; rows are those of `pipeline.tokenize`."""
    if supports_packing(model) and not torch.cuda.is_available():
        return collate_packed
    return functools.partial(collate_padded, masked=not supports_packing(model))


# --- the model


AttentionInterface.register("documents", varlen_attention)


def _forward(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    labels: torch.Tensor | None = None,
    row_lengths: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    **kwargs: Any,
) -> Any:
    """Return the loss of `labels`, the mean or the sum over `num_items_in_batch`; without labels, the logits."""
    if labels is None:
        return type(model).forward(model, input_ids, **kwargs)
    states = model.base_model(input_ids, **kwargs).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    counted = targets != IGNORED_LABEL
    weight = model.get_output_embeddings().weight
    if model.training:
        total = counted.sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": summed_loss(states[counted], weight, targets[counted]) / total}
    return _scored(token_losses(states[counted], weight, targets[counted]), counted, row_lengths)


def _forward_of_others(
    model: PreTrainedModel, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
) -> Any:
    """Return what the model's own `forward` returns in training, and the scores in evaluation."""
    if labels is None or model.training:
        return type(model).forward(model, input_ids, labels=labels, **kwargs)
    kwargs.pop("num_items_in_batch", None)
    logits = type(model).forward(model, input_ids, **kwargs).logits[:, :-1]
    counted = labels[:, 1:] != IGNORED_LABEL
    losses = torch.nn.functional.cross_entropy(logits[counted].float(), labels[:, 1:][counted], reduction="none")
    return _scored(losses, counted)


def _scored(losses: torch.Tensor, counted: torch.Tensor, row_lengths: torch.Tensor | None = None) -> Batch:
    """Return loss and scores of a batch; `losses` are those of the `counted` of its tokens but the first."""
    both = torch.zeros(*counted.shape, 2, device=losses.device)
    both[counted] = torch.stack([losses, torch.ones_like(losses)], dim=-1)
    both = torch.nn.functional.pad(both, (0, 0, 1, 0))
    if row_lengths is None:
        scores = both.sum(1)
    else:
        scores = torch.stack([row.sum(0) for row in torch.split(both[0], row_lengths.tolist())])
    loss, count = scores.double().sum(0)
    return {"loss": (loss / count).float(), "scores": scores}


# --- the optimizer
