"""The precision of matrix products: chosen by measurement, set for the process."""

import pytest
import torch

from pipeline.training import precision


def test_measuring_gives_the_same_precision_each_time_and_changes_no_switch() -> None:
    assert len({precision.choose("auto") for _ in range(3)}) == 1
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_set_precision_is_taken_as_it_is() -> None:
    assert precision.choose("fp32") == "fp32"
    assert precision.choose("bf16") == "bf16"


def test_a_narrow_model_trains_in_fp32_on_a_cpu_that_is_faster_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_bf16_speedup", lambda: 3.0)
    assert [precision.choose("auto", width) for width in (192, 256, 768)] == ["fp32", "bf16", "bf16"]
    assert precision.choose("bf16", 192) == "bf16"


def test_precision_and_hardware_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.describe("fp32", 1) == "fp32 on the CPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert [precision.describe("bf16", count) for count in (1, 2)] == ["bf16 on NVIDIA H200", "bf16 on 2 x NVIDIA H200"]
