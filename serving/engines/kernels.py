"""What a model computes between its products of integers: loops over rows, compiled by numba.

One call takes some 2 µs, in place of ten operations of torch that take 2 to 10 µs each. A row's result has the same
bits whatever other rows there are, and with any number of threads: one thread computes it, in an order that depends on
its width alone. NaN and infinity stay what they are.
"""

import ctypes
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from serving.engines.activations import Activation
from serving.engines.compiled import CLAIMED, OPTIONS, Kernel, claim, matrix, pointer_to

_F32 = np.float32


class RowArguments(ctypes.Structure):
    """What a kernel of rows reads and writes: addresses of contiguous numbers, float32 unless said otherwise."""

    _fields_ = (
        *CLAIMED,  # rows
        ("rows", ctypes.c_int64),
        # The product before; 0 for none
        ("product", ctypes.c_void_p),  # (parts x rows, width), see `_read_product`
        ("product_parts", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("bias", ctypes.c_void_p),  # (width,)
        ("scales", ctypes.c_void_p),  # (rows,) of the product before, and then of the rounded rows
        # The rows for the next product; 0 for none
        ("rounded", ctypes.c_void_p),  # (parts x rows, rounded_width), see `_write_rounded`
        ("rounded_parts", ctypes.c_int64),
        ("rounded_width", ctypes.c_int64),
        # Of single kernels
        ("x", ctypes.c_void_p),  # (rows, width)
        ("weight", ctypes.c_void_p),  # of a norm: (width,), or (normed heads, head_dim); 0 for none
        ("norm_bias", ctypes.c_void_p),  # (width,); 0 for RMSNorm
        ("epsilon", ctypes.c_float),
        ("is_post_norm", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("is_gated", ctypes.c_int32),
        ("rotated", ctypes.c_int64),  # the first heads, which are normed and rotated
        ("head_dim", ctypes.c_int64),
        ("cosines", ctypes.c_void_p),  # (context, head_dim / 2); 0 for none
        ("sines", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),  # (rows,), int64
    )


class AttentionArguments(ctypes.Structure):
    """What the kernel `attend` reads and writes, as in `RowArguments`."""

    _fields_ = (
        *CLAIMED,  # pairs of a token and a head of keys
        ("tokens", ctypes.c_int64),
        ("places", ctypes.c_void_p),  # (tokens, 7), int64, see `_attend`
        ("layer", ctypes.c_int64),
        ("qkv", ctypes.c_void_p),  # (rows, heads of queries, keys and values, head_dim)
        ("heads", ctypes.c_int64),
        ("heads_of_keys", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("window", ctypes.c_int64),  # tokens that a token attends to, itself among them; 0 for all
        ("out", ctypes.c_void_p),  # (rows, heads, head_dim)
    )


@intrinsic
def from_bits(_: Any, __: Any) -> Any:
    """Return the float32 with the bits of an int32."""

    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def to_bits(_: Any, __: Any) -> Any:
    """Return the bits of a float32 as an int32."""

    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.IntType(32))

    return types.int32(types.float32), generate


@numba.njit(**OPTIONS)
def exp(x: Any) -> Any:
    """Return e^x to 2 units in the last place, of x between -87 and 88: the polynomial of Cephes' expf, in vectors."""
    x = min(max(x, _F32(-87)), _F32(88))
    exponent = np.int32(x * _F32(1.44269504) + _F32(127.5))  # the nearest power of 2, as a float32 has it
    power = _F32(exponent - np.int32(127))
    x = x - power * _F32(0.693359375) - power * _F32(-2.12194440e-4)  # less ln 2, in two numbers
    y = _F32(1.9875691500e-4)
    y = y * x + _F32(1.3981999507e-3)
    y = y * x + _F32(8.3334519073e-3)
    y = y * x + _F32(4.1665795894e-2)
    y = y * x + _F32(1.6666665459e-1)
    y = y * x + _F32(5.0000001201e-1)
    return (y * x * x + x + _F32(1)) * from_bits(exponent << np.int32(23))


@numba.njit(**OPTIONS)
def _read_product(arguments: Any, row: int, values: Any) -> None:
    """Fill `values` with a row of the product, with its scale and bias; the parts of a row are its bytes' products."""
    width, rows, parts = arguments.width, arguments.rows, arguments.product_parts
    product = matrix(arguments.product, rows * max(parts, 1), width)
    if parts == 0:
        for i in range(width):
            values[i] = product[row, i]
        return
    scale = matrix(arguments.scales, 1, rows)[0, row]
    bias = matrix(arguments.bias, 1, width)
    if parts == 1:
        for i in range(width):
            values[i] = product[row, i] * scale + bias[0, i]
    else:
        for i in range(width):
            values[i] = (product[row, i] * _F32(256) + product[rows + row, i]) * scale + bias[0, i]


@numba.njit(**OPTIONS)
def _write_rounded(arguments: Any, row: int, values: Any) -> None:
    """Round `values` to one part of 8 bits, or two for the upper and lower bytes, and note their scale; 0 parts: copy.

    Bytes lie around 128, for the instructions take unsigned ones. See `serving.engines.onednn`.
    """
    width, rows, parts = arguments.rounded_width, arguments.rows, arguments.rounded_parts
    if arguments.rounded == 0:
        return
    if parts == 0:
        copy = matrix(arguments.rounded, rows, width)
        for i in range(width):
            copy[row, i] = values[i]
        return
    largest = to_bits(_F32(1e-12))  # in place of 0 as a divisor
    for i in range(width):  # the bits of positive numbers are in their order, with infinity and NaN last
        largest = max(largest, to_bits(values[i]) & np.int32(0x7FFFFFFF))
    scale = from_bits(largest)
    scales = matrix(arguments.scales, 1, rows)
    rounded = carray(pointer_to(arguments.rounded), (rows * parts, width), np.uint8)
    if parts == 1:
        scales[0, row] = scale
        factor = _F32(127) / scale
        for i in range(width):
            rounded[row, i] = np.uint8(np.int32(values[i] * factor + _F32(128.5)))
    else:
        scales[0, row] = scale / _F32(257)
        factor = _F32(257 * 127) / scale  # steps to either side, so that both bytes lie around 128
        for i in range(width):
            whole = np.int32(values[i] * factor + _F32(257 * 128 + 0.5))
            rounded[row, i] = np.uint8(whole >> 8)
            rounded[rows + row, i] = np.uint8(whole & 255)


@numba.njit(**OPTIONS)
def _layer_norm(values: Any, weight: Any, bias: Any, epsilon: Any) -> None:
    """LayerNorm (arXiv:1607.06450), in place."""
    width = len(values)
    mean = _F32(0)
    for i in range(width):
        mean += values[i]
    mean /= _F32(width)
    squares = _F32(0)
    for i in range(width):
        squares += (values[i] - mean) * (values[i] - mean)
    factor = _F32(1) / np.sqrt(squares / _F32(width) + epsilon)
    for i in range(width):
        values[i] = (values[i] - mean) * factor * weight[i] + bias[i]


@numba.njit(**OPTIONS)
def _rms_norm(values: Any, weight: Any, epsilon: Any) -> None:
    """RMSNorm (arXiv:1910.07467), in place."""
    width = len(values)
    squares = _F32(0)
    for i in range(width):
        squares += values[i] * values[i]
    factor = _F32(1) / np.sqrt(squares / _F32(width) + epsilon)
    for i in range(width):
        values[i] = values[i] * factor * weight[i]


@numba.njit(**OPTIONS)
def _apply(activation: int, values: Any) -> None:
    """Apply an activation in place."""
    if activation == Activation.RELU.value:
        for i in range(len(values)):
            values[i] = max(values[i], _F32(0))
    elif activation == Activation.SILU.value:
        for i in range(len(values)):
            values[i] = values[i] / (_F32(1) + exp(-values[i]))
    elif activation == Activation.GELU_TANH.value:  # (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
        for i in range(len(values)):
            x = values[i]
            doubled = _F32(1.5957691216) * (x + _F32(0.044715) * x * x * x)  # 2 sqrt(2 / pi)
            values[i] = x / (_F32(1) + exp(-doubled))
    else:  # GELU; erf to 1.5e-7 by formula 7.1.26 of Abramowitz and Stegun
        for i in range(len(values)):
            x = values[i]
            z = abs(x) * _F32(0.70710678)
            t = _F32(1) / (_F32(1) + _F32(0.3275911) * z)
            y = _F32(1.061405429)
            y = y * t + _F32(-1.453152027)
            y = y * t + _F32(1.421413741)
            y = y * t + _F32(-0.284496736)
            y = y * t + _F32(0.254829592)
            tail = _F32(0.5) * y * t * exp(-z * z)  # of the normal distribution
            values[i] = x * (tail if x < _F32(0) else _F32(1) - tail)


@numba.njit(**OPTIONS)
def _rotate(head: Any, cosines: Any, sines: Any) -> None:
    """Rotate a head by its position (arXiv:2104.09864), in halves as transformers does."""
    left, right = head[: len(cosines)], head[len(cosines) :]  # an index from 0 makes vectors, a sum does not
    for i in range(len(cosines)):
        x, y = left[i], right[i]
        left[i] = x * cosines[i] - y * sines[i]
        right[i] = y * cosines[i] + x * sines[i]


@numba.njit(**OPTIONS)
def _attend_head(query: Any, keys: Any, values: Any, scores: Any, out: Any) -> None:
    """Fill `out`, (head_dim,), with the mean of `values`, (tokens, head_dim), by the softmax of keys times query."""
    tokens, dim = keys.shape
    largest = _F32(-np.inf)
    for token in range(tokens):
        score = _F32(0)
        for i in range(dim):
            score += query[i] * keys[token, i]
        scores[token] = score
        largest = max(largest, score)
    total = _F32(0)
    for token in range(tokens):
        scores[token] = exp(scores[token] - largest)
        total += scores[token]
    out[:] = _F32(0)
    for token in range(tokens):
        share = scores[token] / total
        for i in range(dim):
            out[i] += share * values[token, i]


def _norm(pointer: Any) -> None:
    """Add the product to `x`, norm the sum, and round it; with `is_post_norm`, `x` is the normed sum."""
    arguments = carray(pointer, 1)[0]
    rows, width = arguments.rows, arguments.width
    x = matrix(arguments.x, rows, width)
    weight, bias = matrix(arguments.weight, 1, width)[0], matrix(arguments.norm_bias, 1, width)[0]
    values = np.empty(width, np.float32)
    while True:
        row = claim(pointer)
        if row >= rows:
            break
        if arguments.product == 0:
            for i in range(width):
                values[i] = x[row, i]
        else:
            _read_product(arguments, row, values)
            for i in range(width):
                values[i] += x[row, i]
        if not arguments.is_post_norm:
            for i in range(width):
                x[row, i] = values[i]
        if arguments.norm_bias == 0:
            _rms_norm(values, weight, arguments.epsilon)
        else:
            _layer_norm(values, weight, bias, arguments.epsilon)
        if arguments.is_post_norm:
            for i in range(width):
                x[row, i] = values[i]
        _write_rounded(arguments, row, values)


def _activate(pointer: Any) -> None:
    """Apply the activation to the product, multiply by its second half where that is gated, and round."""
    arguments = carray(pointer, 1)[0]
    half = arguments.rounded_width
    values = np.empty(arguments.width, np.float32)
    while True:
        row = claim(pointer)
        if row >= arguments.rows:
            break
        _read_product(arguments, row, values)
        _apply(arguments.activation, values[:half])
        if arguments.is_gated:
            up = values[half:]
            for i in range(half):
                values[i] *= up[i]
        _write_rounded(arguments, row, values)


def _finish(pointer: Any) -> None:
    """Give the product its scales and biases in place, in its first rows; norm and rotate its first heads."""
    arguments = carray(pointer, 1)[0]
    rows, width, dim = arguments.rows, arguments.width, arguments.head_dim
    out = matrix(arguments.product, rows, width)
    values = np.empty(width, np.float32)
    while True:
        row = claim(pointer)
        if row >= rows:
            break
        _read_product(arguments, row, values)
        for number in range(arguments.rotated):
            head = values[number * dim : (number + 1) * dim]
            if arguments.weight != 0:
                _rms_norm(head, matrix(arguments.weight, arguments.rotated, dim)[number], arguments.epsilon)
            if arguments.cosines != 0:
                position = carray(pointer_to(arguments.positions), rows, np.int64)[row]
                cosines = matrix(arguments.cosines, position + 1, dim // 2)[position]
                _rotate(head, cosines, matrix(arguments.sines, position + 1, dim // 2)[position])
        for i in range(width):
            out[row, i] = values[i]


def _round_rows(pointer: Any) -> None:
    """Round `x`."""
    arguments = carray(pointer, 1)[0]
    x = matrix(arguments.x, arguments.rows, arguments.rounded_width)
    while True:
        row = claim(pointer)
        if row >= arguments.rows:
            break
        _write_rounded(arguments, row, x[row])


def _attend(pointer: Any) -> None:
    """Write new tokens to the cache of their texts, and attend from each to all that are there.

    A token's place is: its row; the address of its text's first key; how many numbers lie between layers, between
    heads, and between a key and its value; how many tokens come before it; and how many of these are in rows before.
    """
    arguments = carray(pointer, 1)[0]
    dim, heads, heads_of_keys = arguments.head_dim, arguments.heads, arguments.heads_of_keys
    all_heads = heads + 2 * heads_of_keys
    sharing = heads // heads_of_keys
    places = carray(pointer_to(arguments.places), (arguments.tokens, 7), np.int64)
    query = np.empty(dim, np.float32)
    scores = np.empty(places[:, 5].max() + 1, np.float32)
    scale = _F32(1 / np.sqrt(dim))
    while True:
        item = claim(pointer)
        if item >= arguments.tokens * heads_of_keys:
            break
        head = item % heads_of_keys
        row, address, between_layers, between_heads, to_value, read, new = places[item // heads_of_keys]
        address += 4 * (arguments.layer * between_layers + head * between_heads)
        keys, values = matrix(address, read + 1, dim), matrix(address + 4 * to_value, read + 1, dim)
        qkv = matrix(arguments.qkv + 4 * (row - new) * all_heads * dim, (new + 1) * all_heads, dim)
        out = matrix(arguments.out + 4 * row * heads * dim, heads, dim)
        for n in range(new + 1):  # also what another thread writes for the rows before: it may not have done so yet
            keys[read - new + n] = qkv[n * all_heads + heads + head]
            values[read - new + n] = qkv[n * all_heads + heads + heads_of_keys + head]
        begin = max(0, read + 1 - arguments.window) if arguments.window else 0
        for number in range(head * sharing, (head + 1) * sharing):
            for i in range(dim):
                query[i] = qkv[new * all_heads + number, i] * scale
            _attend_head(query, keys[begin:], values[begin:], scores, out[number])


norm, activate, finish, round_rows = (Kernel(one, RowArguments) for one in (_norm, _activate, _finish, _round_rows))
attend = Kernel(_attend, AttentionArguments)
