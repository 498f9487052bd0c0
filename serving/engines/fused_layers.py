"""The layers between products of integers, as objects that hold a kernel's parameters.

Each takes the product of the linear layer before it, and returns the rounded rows for the linear layer after it.
`scales`, (rows,), holds the scales of the rows that were rounded last; it is the same tensor throughout a step.
"""

from typing import Protocol

import torch

from serving.engines import kernels
from serving.engines.activations import Activation
from serving.engines.compiled import Kernel
from serving.engines.kernels import RowArguments


class Linear(Protocol):
    """A linear layer whose input is rounded, and whose product gets its scales and biases, by kernels."""

    parts: int  # rows of bytes that a row is rounded to; 0 for a layer that takes floats
    inputs: int
    outputs: int
    bias: torch.Tensor  # (outputs,)

    def multiply(self, rounded: torch.Tensor) -> torch.Tensor:
        """Return (parts x rows, outputs) for `rounded`, (parts x rows, inputs)."""


class FusedLayer:
    """One kernel with its parameters."""

    def __init__(
        self, kernel: Kernel, before: Linear | None, after: Linear | None, **parameters: torch.Tensor | float | None
    ) -> None:
        """Take a kernel, the linear layers around it, and fields of its `RowArguments`."""
        self.parameters = {name: value for name, value in parameters.items() if value is not None}
        self._kernel = kernel
        self._before, self._after = before, after  # kept, as the parameters are: the arguments are addresses of them
        self._arguments = RowArguments(**{name: _field(value) for name, value in self.parameters.items()})
        if before:
            self._arguments.product_parts, self._arguments.bias = before.parts, _field(before.bias)
        if after:
            self._arguments.rounded_parts, self._arguments.rounded_width = after.parts, after.inputs
        self._width = self._arguments.width = before.outputs if before else after.inputs if after else 0

    def __call__(
        self,
        scales: torch.Tensor,
        product: torch.Tensor | None = None,
        x: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the rounded rows; without a linear layer after this one, the rows of the product, changed in place."""
        arguments, rows = self._arguments, len(scales)
        arguments.rows, arguments.scales = rows, scales.data_ptr()
        if x is not None:
            arguments.x = x.data_ptr()
        if positions is not None:
            arguments.positions = positions.data_ptr()
        if product is not None:
            arguments.product = product.data_ptr()
        if self._after:
            result = empty_rows(self._after, rows)
            arguments.rounded = result.data_ptr()
        else:
            assert product is not None
            result = product[:rows]
        self._kernel(arguments, rows * self._width)
        return result


def norm(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    epsilon: float,
    before: Linear | None,
    after: Linear | None,
    *,
    is_post_norm: bool = False,
) -> FusedLayer:
    """Return what adds the product to `x`, and norms and rounds the sum; see `kernels.norm`."""
    return FusedLayer(
        kernels.norm, before, after, weight=weight, norm_bias=bias, epsilon=epsilon, is_post_norm=is_post_norm
    )


def activation(kind: Activation, before: Linear, after: Linear) -> FusedLayer:
    """Return the activation of an MLP, gated (arXiv:2002.05202) where `before` has twice the numbers of `after`."""
    return FusedLayer(kernels.activate, before, after, activation=kind, is_gated=before.outputs == 2 * after.inputs)


def rounding(after: Linear) -> FusedLayer:
    """Return what rounds `x`."""
    return FusedLayer(kernels.round_rows, None, after)


def finish(before: Linear, **heads: torch.Tensor | float | None) -> FusedLayer:
    """Return what gives the product its scales and biases, and norms and rotates heads; see `kernels.finish`."""
    return FusedLayer(kernels.finish, before, None, **heads)


def empty_rows(linear: Linear, rows: int) -> torch.Tensor:
    """Return a tensor for rows that `linear` takes."""
    if linear.parts == 0:
        return torch.empty(rows, linear.inputs)
    return torch.empty(linear.parts * rows, linear.inputs, dtype=torch.uint8)


def select_rows(linear: Linear, rounded: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return some of the rows that `linear` takes."""
    return rounded.view(max(linear.parts, 1), -1, linear.inputs)[:, rows].flatten(0, 1)


def _field(value: torch.Tensor | float) -> float:
    if not isinstance(value, torch.Tensor):
        return value
    assert value.dtype == torch.float32
    assert value.is_contiguous()
    return value.data_ptr()
