"""Sample the next token of each row of logits in a compiled kernel, in place of some thirty operations of torch."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import carray

from serving.engines.compiled import CLAIMED, OPTIONS, Kernel, claim, matrix, pointer_to
from serving.engines.kernels import exp, to_bits

_BLOCK = 64  # tokens whose greatest logit, or sum of probabilities, stands for them at first
# Positive floats are ordered like their bits; these upper ones, up to 1.0, are the bins of a histogram.
_SHIFT = 20
_BINS = (0x3F800000 >> _SHIFT) + 1


class RowSettings(NamedTuple):
    """How a row is sampled, in the order of transformers: temperature, top_k, top_p."""

    temperature: float  # 0 takes the likeliest token
    top_k: int  # 0 for all
    top_p: float
    number: float  # uniform in [0, 1): where the cumulative distribution is inverted


class _Arguments(ctypes.Structure):
    """What the kernel reads and writes, as in `serving.engines.kernels`."""

    _fields_ = (
        *CLAIMED,  # rows
        ("rows", ctypes.c_int64),
        ("vocabulary", ctypes.c_int64),
        ("logits", ctypes.c_int64),  # (rows, vocabulary)
        ("settings", ctypes.c_int64),  # (rows, 4), float64: `RowSettings`
        ("tokens", ctypes.c_int64),  # (rows,), int64
    )


def sample_rows(logits: torch.Tensor, settings: Sequence[RowSettings]) -> list[int]:
    """Return a token for each row of finite `logits`, (rows, vocabulary)."""
    rows, vocabulary = logits.shape
    logits = logits.float().contiguous()
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
def _block_maxima(logits: Any, maxima: Any) -> None:
    """Fill `maxima` with the greatest logit of each block."""
    for block in range(len(maxima)):
        part = logits[block * _BLOCK : (block + 1) * _BLOCK]
        largest = part[0]
        for i in range(len(part)):
            largest = max(largest, part[i])
        maxima[block] = largest


@numba.njit(**OPTIONS)
def _likeliest(logits: Any, maxima: Any) -> Any:
    """Return the token of the greatest logit, the first of equal ones."""
    begin = np.argmax(maxima) * _BLOCK
    return begin + np.argmax(logits[begin : begin + _BLOCK])


@numba.njit(**OPTIONS)
def _draw_from_top_k(logits: Any, maxima: Any, top_k: int, settings: Any, ids: Any, values: Any) -> Any:
    """Return a token of the `top_k` likeliest, in whose order their distribution is inverted.

    As many blocks, or tokens, are no less than the threshold, so all of the likeliest are among those.
    """
    temperature, _, top_p, number = settings
    compared = maxima if len(maxima) >= top_k else logits
    threshold = np.partition(compared, len(compared) - top_k)[len(compared) - top_k]
    count = 0
    for block in range(len(maxima)):
        if maxima[block] < threshold:
            continue
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, len(logits))):
            if logits[i] >= threshold:
                ids[count], values[count] = i, -logits[i]
                count += 1
    order = np.argsort(values[:count], kind="mergesort")[:top_k]
    cumulative = np.empty(len(order), np.float64)
    total = np.float64(0)
    for at in range(len(order)):
        below = (values[order[at]] - values[order[0]]) / np.float32(temperature)
        total += exp(-below) if below < np.float32(87) else np.float32(0)
        cumulative[at] = total
    last = 0
    while last < len(order) - 1 and (top_p >= 1 or cumulative[last] < top_p * total):
        last += 1
    at = 0
    while at < last and cumulative[at] <= number * cumulative[last]:
        at += 1
    return ids[order[at]]


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
    if count == 0:  # rounding has left a rest behind all of them
        return np.float32(0)
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
    # Where rounding leaves a rest behind all of them, the last block and the last token that can be drawn are chosen.
    left = number * sums.sum()
    chosen_block = chosen = 0
    for block in range(blocks):
        if sums[block] > 0:
            chosen_block = block
            if sums[block] > left:
                break
            left -= sums[block]
    for i in range(chosen_block * _BLOCK, min((chosen_block + 1) * _BLOCK, len(probabilities))):
        if probabilities[i] > 0:
            chosen = i
            left -= probabilities[i]
            if left < 0:
                break
    return chosen


def _sample_rows(pointer: Any) -> None:
    """Sample the tokens of the rows."""
    arguments = carray(pointer, 1)[0]
    rows, vocabulary = arguments.rows, arguments.vocabulary
    logits = matrix(arguments.logits, rows, vocabulary)
    settings = carray(pointer_to(arguments.settings), (rows, 4), np.float64)
    tokens = carray(pointer_to(arguments.tokens), rows, np.int64)
    maxima = np.empty((vocabulary + _BLOCK - 1) // _BLOCK, np.float32)
    ids, values = np.empty(vocabulary, np.int64), np.empty(vocabulary, np.float32)
    while True:
        row = claim(pointer)
        if row >= rows:
            break
        temperature, top_k, top_p, number = settings[row]
        if temperature == 0 or 0 < top_k < vocabulary:
            _block_maxima(logits[row], maxima)
            if temperature == 0:
                tokens[row] = _likeliest(logits[row], maxima)
            else:
                tokens[row] = _draw_from_top_k(logits[row], maxima, int(top_k), settings[row], ids, values)
            continue
        _probabilities(logits[row], np.float32(temperature), values)
        if top_p < 1:
            threshold = nucleus_threshold(values, top_p)
            for i in range(vocabulary):
                values[i] = values[i] if values[i] >= threshold else np.float32(0)
        tokens[row] = _draw(values, number)


_sample = Kernel(_sample_rows, _Arguments)
