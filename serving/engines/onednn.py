"""Matrix products of 8-bit integers by oneDNN, through torch's internal operators.

This module alone uses their names (`torch.ops.onednn.*`, `torch.cpu._is_*`);
tests/serving/engines/test_onednn.py checks each one.
"""

import torch

from serving.engines.few_rows import MOST, FewRows

_MIN_SCALE = 1e-12  # in place of 0 as a divisor

_qlinear = torch.ops.onednn.qlinear_pointwise.default  # looked up once


def is_supported() -> bool:
    """Return whether this processor has instructions for products of 8-bit integers (AVX-512 VNNI)."""
    return bool(torch.backends.mkldnn.enabled and torch.cpu._is_vnni_supported())


def has_amx() -> bool:
    """Return whether this processor multiplies tiles of matrices (AMX), also of bfloat16."""
    return bool(torch.cpu._is_amx_tile_supported())


class Int8Linear:
    """x W + b with W and each row of x rounded to 8 bits, as in LLM.int8() (arXiv:2208.07339) without its outliers.

    A `fused_layers.Linear`: kernels round the rows, and give the product their scales and the biases.
    """

    parts = 1

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Round `weight`, (out, in), with one scale for each output."""
        self.outputs, self.inputs = weight.shape
        self.bias = torch.zeros(self.outputs) if bias is None else bias.contiguous()
        scale = weight.abs().amax(dim=1).clamp_(min=_MIN_SCALE) / 127
        rounded = (weight / scale[:, None]).round_().to(torch.int8).contiguous()
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zero = torch.zeros(len(weight), dtype=torch.int32)
        self._scale = scale / 127  # includes the 127 of the rows' scales
        # The instructions take unsigned activations, so these are shifted by 128; this shifts the products back.
        self._shift = -128 * rounded.sum(dim=1, dtype=torch.int32) * self._scale
        self._few_rows: FewRows | None = None
        if self.inputs % 4 == 0:
            few_rows = FewRows(rounded, self._scale, self._shift)
            probe = torch.arange(7 * self.inputs).mul_(167).view(7, self.inputs).to(torch.uint8)  # all of the bytes
            if few_rows.matches(probe, self.multiply(probe)):  # else a row's bits would depend on others
                self._few_rows = few_rows

    def multiply(self, rounded: torch.Tensor) -> torch.Tensor:
        """Return (rows, outputs) for rows of unsigned integers around 128, before their scales and the bias."""
        if self._few_rows and len(rounded) <= MOST:
            return self._few_rows.multiply(rounded)
        product: torch.Tensor = _qlinear(
            rounded, 1.0, 0, self._weight, self._scale, self._zero, self._shift, 1.0, 0, torch.float32, "none", [], ""
        )
        return product


class TwoPartInt8Linear(Int8Linear):
    """`Int8Linear` with each row of x rounded to 16 bits, for rows with outliers next to small numbers.

    The upper and the lower bytes are rows of one product, which reads the weights once.
    """

    parts = 2
