"""Contract tests of torch's internal operators, one for each name that `serving.engines.onednn` uses."""

import pytest
import torch

from serving.engines import onednn
from serving.engines.onednn import Int8Linear, TwoPartInt8Linear
from tests.serving.engines.test_kernels import linear


@pytest.fixture
def supported() -> None:
    if not onednn.is_supported():
        pytest.skip("this processor has no AVX-512 VNNI")


def test_what_a_processor_supports_is_a_bool() -> None:
    assert isinstance(torch.cpu._is_vnni_supported(), bool)
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)


def test_qlinear_prepack_takes_int8_weights(supported: None) -> None:
    torch.ops.onednn.qlinear_prepack(torch.ones(8, 4, dtype=torch.int8), None)


def test_qlinear_pointwise_multiplies_like_float32(supported: None) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=generator) for shape in ((48, 32), (48,), (40, 32)))
    torch.testing.assert_close(linear(Int8Linear(weight, bias), x), x @ weight.T + bias, atol=0.2, rtol=0)


def test_two_parts_keep_what_an_outlier_drowns_in_one(supported: None) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=generator) for shape in ((48, 32), (48,), (5, 32)))
    weight[:, 0] = 0
    weight = (weight * 20).round_() / 127  # mostly what 8 bits hold, so that the error is that of x
    weight[:, 1] = 1
    x[:, 0] = 1000
    expected = x @ weight.T + bias
    assert (linear(Int8Linear(weight, bias), x) - expected).abs().max() > 1
    torch.testing.assert_close(linear(TwoPartInt8Linear(weight, bias), x), expected, atol=0.1, rtol=0)
