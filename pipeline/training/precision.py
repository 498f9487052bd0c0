"""The precision of matrix products: float32, or bf16 where the machine is faster with it.

On a CPU "bf16" rounds only the factors of a product; weights, sums and everything else stay float32. It is torch's
switch for the whole process. On a GPU it is autocast.
"""

import math
import time
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]

_MIN_SPEEDUP = 1.5  # of bf16 on a CPU: with AMX it is 3, without it below 1, so noise does not decide
# On a CPU with AMX a T5 with a width of 192 is slower in bf16 (0.8 times): its products are small, and oneDNN prepares
# them anew for each number of tokens. A GPT-2 with a width of 256 is 8 % faster in it, one with 768 44 %.
_MIN_WIDTH = 256


def choose(setting: Literal["auto", "fp32", "bf16"], width: int = 768) -> Precision:
    """Return the precision to train in; "auto" measures a CPU (0.1 s) and takes bf16 on GPUs that have it.

    Args:
        setting: Of params.yaml.
        width: The model's hidden size.
    """
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if width < _MIN_WIDTH:
        return "fp32"
    return "bf16" if _bf16_speedup() >= _MIN_SPEEDUP else "fp32"


def describe(precision: Precision, devices: int) -> str:
    """Return the precision and the hardware, for people: "bf16 on NVIDIA H100", "fp32 on the CPU"."""
    if not torch.cuda.is_available():
        return f"{precision} on the CPU"
    return f"{precision} on {f'{devices} x ' if devices > 1 else ''}{torch.cuda.get_device_name()}"


def use(precision: Precision) -> None:
    """Set the precision of this process's matrix products."""
    torch.set_float32_matmul_precision("medium" if precision == "bf16" else "highest")


def dtype(precision: Precision) -> torch.dtype:
    """Return the type in which `autocast` computes products; float32 on CPUs."""
    return torch.bfloat16 if torch.cuda.is_available() and precision == "bf16" else torch.float32


def autocast(precision: Precision) -> torch.autocast:
    """Return the context in which `Trainer` runs the model, for steps outside of it."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(kind, torch.bfloat16, enabled=dtype(precision) is torch.bfloat16)


def _bf16_speedup(rounds: int = 50) -> float:
    """Return how many times as fast bf16 products are: best times of one core, alternating so that load hits both."""
    settings, threads = ("highest", "medium"), torch.get_num_threads()
    before = torch.get_float32_matmul_precision()
    left, right, result = torch.ones(256, 768), torch.ones(768, 768), torch.empty(256, 768)
    seconds = dict.fromkeys(settings, math.inf)
    torch.set_num_threads(1)
    for _ in range(rounds):
        for setting in settings:
            torch.set_float32_matmul_precision(setting)
            began = time.perf_counter()
            torch.mm(left, right, out=result)
            seconds[setting] = min(seconds[setting], time.perf_counter() - began)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(before)
    return seconds["highest"] / seconds["medium"]
