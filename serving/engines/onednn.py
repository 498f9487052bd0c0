"""Matrix products of 8-bit integers by oneDNN, through torch's internal operators.

This module alone uses their names (`torch.ops.onednn.*`, `torch.cpu._is_*`);
tests/serving/engines/test_onednn.py checks each one.
"""

import torch

_MIN_SCALE = 1e-12  # in place of 0 as a divisor
_MIDPOINT = torch.tensor(128.5)  # of the unsigned 8-bit integers, plus a half to round by
_MIDPOINT_16 = torch.tensor(257 * 128.0 + 0.5)  # likewise, of two bytes

_qlinear = torch.ops.onednn.qlinear_pointwise.default  # looked up once


def is_supported() -> bool:
    """Return whether this processor has instructions for products of 8-bit integers (AVX-512 VNNI)."""
    return bool(torch.backends.mkldnn.enabled and torch.cpu._is_vnni_supported())


def has_amx() -> bool:
    """Return whether this processor multiplies tiles of matrices (AMX), also of bfloat16."""
    return bool(torch.cpu._is_amx_tile_supported())


class Int8Linear:
    """x W + b with W and each row of x rounded to 8 bits, as in LLM.int8() (arXiv:2208.07339) without its outliers."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Round `weight`, (out, in), with one scale for each output."""
        scale = weight.abs().amax(dim=1).clamp_(min=_MIN_SCALE) / 127
        rounded = (weight / scale[:, None]).round_().to(torch.int8).contiguous()
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zero = torch.zeros(len(weight), dtype=torch.int32)
        self._scale = scale / 127  # includes the 127 of the rows' scales
        # The instructions take unsigned activations, so these are shifted by 128; this shifts the products back.
        self._shift = -128 * rounded.sum(dim=1, dtype=torch.int32) * self._scale
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return (rows, out) for `x`, (rows, in)."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_(min=_MIN_SCALE)
        # As few operations as possible: with one sequence they take as long as the product. `to` truncates.
        return self._product(torch.addcdiv(_MIDPOINT, x, scale, value=127).to(torch.uint8), scale)

    def of_many(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same for some hundred rows, which these operations round in half the time."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_(min=_MIN_SCALE)
        return self._product(torch.add(_MIDPOINT, x * scale.reciprocal(), alpha=127).to(torch.uint8), scale)

    def _product(self, rounded: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self._scaled(self._multiplied(rounded), scale)

    def _multiplied(self, rounded: torch.Tensor) -> torch.Tensor:
        """Return (rows, out) for rows of unsigned integers around 128, before their scales."""
        product: torch.Tensor = _qlinear(
            rounded, 1.0, 0, self._weight, self._scale, self._zero, self._shift, 1.0, 0, torch.float32, "none", [], ""
        )
        return product

    def _scaled(self, product: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return product.mul_(scale) if self._bias is None else torch.addcmul(self._bias, product, scale)


class TwoTermInt8Linear(Int8Linear):
    """`Int8Linear` with each row of x rounded to 16 bits, for rows with outliers next to small numbers.

    The upper and the lower bytes are rows of one product, which reads the weights once.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return (rows, out) for `x`, (rows, in)."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_(min=_MIN_SCALE)
        # 257 x 127 = 32,639 steps to either side, so that both bytes lie around 128.
        whole = torch.addcdiv(_MIDPOINT_16, x, scale, value=32639).to(torch.int32)
        upper, lower = self._multiplied(torch.cat([whole >> 8, whole]).to(torch.uint8)).chunk(2)
        return self._scaled(lower.add_(upper, alpha=256), scale / 257)
