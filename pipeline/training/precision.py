"""The choose of matrix products."""

import math
import time
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


_BF16_PAYS = 1.5  # times as fast as fp32: with AMX it is 3, without it below 1, so that chance does not decide


def choose(wanted: Literal["auto", "fp32", "bf16"] = "auto") -> Precision:
    """Return the choose of matrix products; "auto" measures a CPU (0.1 s), GPUs have bf16 since 2020.

    On a CPU "bf16" rounds only the factors of a product; weights, sums and all else stay float32. Sets torch's switch
    for it, which is the whole process's.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            chosen: Precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        else:
            chosen = "bf16" if _bf16_speedup() >= _BF16_PAYS else "fp32"
    else:
        chosen = wanted
    torch.set_float32_matmul_precision("medium" if chosen == "bf16" else "highest")
    return chosen


def _bf16_speedup(rounds: int = 50) -> float:
    """Return how many times as fast bf16 is: least times of one core, in turns, so that other work does not decide."""
    settings, threads = ("highest", "medium"), torch.get_num_threads()
    before = torch.get_float32_matmul_precision()
    left, right, result = torch.ones(256, 768), torch.ones(768, 768), torch.empty(256, 768)
    seconds = dict.fromkeys(settings, math.inf)
    torch.set_num_threads(1)
    for _ in range(rounds):
        for setting in settings:
            torch.set_float32_matmul_precision(setting)
            begun = time.perf_counter()
            torch.mm(left, right, out=result)
            seconds[setting] = min(seconds[setting], time.perf_counter() - begun)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(before)
    return seconds["highest"] / seconds["medium"]


def autocast(chosen: Precision) -> torch.autocast:
    """Return the context in which `Trainer` runs the model with `training_arguments`, for steps outside of it."""
    on_gpu = torch.cuda.is_available()
    return torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=on_gpu and chosen == "bf16")
