"""How a GPU runs a model's layers in training: one operation after another, compiled, or compiled and as CUDA graphs.

The output layer and its loss stay as they are: they are a few large products, and chunks that depend on the batch.
"""

import functools
from typing import Any, Literal

import torch

from pipeline.modeling.batches import TokenRow, collate_varlen
from pipeline.modeling.loss_model import LossModel
from pipeline.modeling.packed_attention import is_varlen

Execution = Literal["eager", "compiled", "graphs"]


def kinds(model: LossModel) -> list[Execution]:
    """Return how the layers of `model` can run: graphs need batches of a fixed size."""
    return ["eager", "compiled", "graphs"] if is_varlen(model.model) else ["eager", "compiled"]


def use(model: LossModel, execution: Execution, step: list[TokenRow]) -> None:
    """Let the layers of `model` run so in training; validation never compiles.

    Args:
        model: Changed in place, its `collate` too.
        execution: Compiled layers take batches of any size, graphs those of one size.
        step: As many rows as a step has; graphs leave other steps, such as an epoch's last one, to `eager`.
    """
    if execution == "eager":
        return
    from torch._inductor import list_options  # takes seconds, which a CPU need not spend; it has no public name

    is_fixed = execution == "graphs"
    # No choices by timing: they may differ in a run that resumes this one.
    options: dict[str, Any] = {"triton.cudagraphs": is_fixed, "deterministic": True}
    known = {name: value for name, value in options.items() if name in list_options()}
    layers = model.model.base_model
    plain = layers.forward
    fast = torch.compile(plain, options=known)
    size: torch.Size | None = None
    if is_fixed:
        model.collate = functools.partial(collate_varlen, is_fixed=True)
        size = model.collate(step)["cu_seq_lens_q"].shape

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not layers.training or (size is not None and kwargs["cu_seq_lens_q"].shape != size):
            return plain(*args, **kwargs)
        if is_fixed:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        else:
            _mark_sizes([*args, *kwargs.values()])
        return fast(*args, **kwargs)  # type: ignore[no-untyped-call]

    layers.forward = forward


def _mark_sizes(inputs: list[Any]) -> None:
    """Tell torch.compile that the sizes of tensors differ from batch to batch, so that it compiles once."""
    from torch._dynamo import maybe_mark_dynamic  # documented, but without a public name

    for tensor in inputs:
        if isinstance(tensor, torch.Tensor):
            for dimension in range(tensor.ndim):
                maybe_mark_dynamic(tensor, dimension)
