"""The precision of matrix products: chosen by measurement, set for the process."""

import torch

from pipeline.training import precision


def test_measuring_gives_the_same_precision_each_time_and_changes_no_switch() -> None:
    assert len({precision.choose("auto") for _ in range(3)}) == 1
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_set_precision_is_taken_as_it_is() -> None:
    assert precision.choose("fp32") == "fp32"
    assert precision.choose("bf16") == "bf16"
