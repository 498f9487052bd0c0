"""Sample from whole vocabularies, without top_k: one compiled kernel for some thirty operations of torch a row."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from numba import carray

from serving.engines.compiled import CLAIMED, OPTIONS, Kernel, claim, matrix, pointer_to
from serving.engines.kernels import exp, to_bits

_BLOCK = 64  # tokens whose probabilities are summed before a draw looks for the block
# Positive floats are ordered like their bits; these upper ones, up to 1.0, are the bins of a histogram.
_SHIFT = 20
_BINS = (0x3F800000 >> _SHIFT) + 1


class _Arguments(ctypes.Structure):
    """What the kernel reads and writes, as in `serving.engines.kernels`."""

    _fields_ = (
        *CLAIMED,  # rows
        ("rows", ctypes.c_int64),
        ("vocabulary", ctypes.c_int64),
        ("logits", ctypes.c_int64),  # (rows, vocabulary)
        ("settings", ctypes.c_int64),  # (rows, 3), float64: temperature, top_p, a number uniform in [0, 1)
        ("tokens", ctypes.c_int64),  # (rows,), int64
    )


def sample_rows(logits: torch.Tensor, settings: Sequence[tuple[float, float, float]]) -> list[int]:
    """Return a token for each row of finite `logits`, (rows, vocabulary).

    Args:
        logits: In float32.
        settings: For each row its temperature, top_p and a number uniform in [0, 1), at which the cumulative
            distribution of the tokens in the nucleus is inverted, in the order of their ids.
    """
    rows, vocabulary = logits.shape
    logits = logits.contiguous()
    of_rows, tokens = np.array(settings, np.float64), np.empty(rows, np.int64)
    arguments = _Arguments(
        rows=rows,
        vocabulary=vocabulary,
        logits=logits.data_ptr(),
        settings=of_rows.ctypes.data,
        tokens=tokens.ctypes.data,
    )
    _sample(arguments, rows * vocabulary)
    result: list[int] = tokens.tolist()
    return result


@numba.njit(**OPTIONS)
def _probabilities(logits: Any, temperature: Any, probabilities: Any) -> None:
    """Fill `probabilities` with e^((x - max x) / temperature), which `_draw` takes as shares of their sum."""
    largest = np.float32(-np.inf)
    for i in range(len(logits)):
        largest = max(largest, logits[i])
    for i in range(len(logits)):
        x = (logits[i] - largest) / temperature
        probabilities[i] = exp(x) if x > np.float32(-87) else np.float32(0)


@numba.njit(**OPTIONS)
def nucleus_threshold(probabilities: Any, top_p: float) -> Any:
    """Return the least of the greatest probabilities that together reach `top_p`, of a sum that need not be 1.

    Sorting a vocabulary takes milliseconds: only what is in the bin of the threshold is sorted.
    """
    sums = np.zeros(_BINS, np.float64)
    for i in range(len(probabilities)):
        sums[to_bits(probabilities[i]) >> _SHIFT] += probabilities[i]
    missing = top_p * sums.sum()
    at = _BINS - 1
    while at > 0 and sums[at] < missing:
        missing -= sums[at]
        at -= 1
    near = np.empty(len(probabilities), np.float32)
    count = 0
    for i in range(len(probabilities)):
        if to_bits(probabilities[i]) >> _SHIFT == at:
            near[count] = probabilities[i]
            count += 1
    near = np.sort(near[:count])
    last = count - 1
    while last > 0 and near[last] < missing:
        missing -= near[last]
        last -= 1
    return near[last]


@numba.njit(**OPTIONS)
def _draw(probabilities: Any, number: float) -> int:
    """Return where the cumulative distribution exceeds `number`."""
    blocks = (len(probabilities) + _BLOCK - 1) // _BLOCK
    sums = np.empty(blocks, np.float64)
    for block in range(blocks):
        part = probabilities[block * _BLOCK : (block + 1) * _BLOCK]
        total = np.float64(0)
        for i in range(len(part)):
            total += part[i]
        sums[block] = total
    left = number * sums.sum()
    block = 0
    while block < blocks - 1 and sums[block] <= left:
        left -= sums[block]
        block += 1
    chosen = 0
    for i in range(block * _BLOCK, min((block + 1) * _BLOCK, len(probabilities))):
        if probabilities[i] > 0:
            chosen = i  # the last one, where rounding leaves a rest
            left -= probabilities[i]
            if left < 0:
                break
    return chosen


def _sample_rows(pointer: Any) -> None:
    """Sample the tokens of the rows."""
    arguments = carray(pointer, 1)[0]
    rows, vocabulary = arguments.rows, arguments.vocabulary
    logits = matrix(arguments.logits, rows, vocabulary)
    settings = carray(pointer_to(arguments.settings), (rows, 3), np.float64)
    tokens = carray(pointer_to(arguments.tokens), rows, np.int64)
    probabilities = np.empty(vocabulary, np.float32)
    while True:
        row = claim(pointer)
        if row >= rows:
            break
        temperature, top_p, number = settings[row]
        _probabilities(logits[row], np.float32(temperature), probabilities)
        if top_p < 1:
            threshold = nucleus_threshold(probabilities, top_p)
            for i in range(vocabulary):
                probabilities[i] = probabilities[i] if probabilities[i] >= threshold else np.float32(0)
        tokens[row] = _draw(probabilities, number)


_sample = Kernel(_sample_rows, _Arguments)
