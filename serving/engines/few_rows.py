"""Products of a few rows of 8-bit integers, which take as long as reading the weights does.

oneDNN prepares for some 20 µs before each product, as long as a small one takes. These are the same bits: sums of
integers are exact, and a multiplication and an addition in float32 follow, which are rounded once or twice.
"""

import ctypes
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from serving.engines.compiled import CLAIMED, EXACT, Kernel, claim, matrix

MOST = 16  # rows; with more, oneDNN is as fast

_LANES = 16  # sums in a vector
_VECTORS = 4  # next to each other: the outputs of a block
_BLOCK = _LANES * _VECTORS
_ALIGNMENT = 64  # bytes: a cache line, and a vector
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_INT32, _LANES)


class _Arguments(ctypes.Structure):
    """What the kernel reads and writes, as in `serving.engines.kernels`."""

    _fields_ = (
        *CLAIMED,  # blocks of outputs
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("weight", ctypes.c_int64),  # see `FewRows`
        ("rounded", ctypes.c_int64),  # (rows, inputs), uint8
        ("scale", ctypes.c_int64),  # (outputs,)
        ("shift", ctypes.c_int64),  # (outputs,)
        ("rounds_once", ctypes.c_int64),  # whether the product is scaled and shifted in one operation
        ("product", ctypes.c_int64),  # (rows, outputs)
    )


class FewRows:
    """The weight of a linear layer for products of up to MOST rows."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """Take `weight`, (outputs, inputs), int8, with inputs in fours; products are scaled, and then shifted."""
        outputs, inputs = weight.shape
        self._outputs = outputs
        rest = -outputs % _BLOCK
        # Four inputs of sixteen outputs are a vector; a block is read from its beginning to its end.
        packed = F.pad(weight, (0, 0, 0, rest)).view(-1, _BLOCK, inputs // 4, 4).transpose(1, 2)
        memory = torch.empty(packed.numel() + _ALIGNMENT, dtype=torch.int8)
        begin = -memory.data_ptr() % _ALIGNMENT
        aligned = memory[begin : begin + packed.numel()]
        aligned.view(packed.shape).copy_(packed)
        self._kept = memory, scale, shift
        self._arguments = _Arguments(
            inputs=inputs,
            outputs=outputs,
            weight=aligned.data_ptr(),
            scale=scale.data_ptr(),
            shift=shift.data_ptr(),
        )

    def matches(self, rounded: torch.Tensor, expected: torch.Tensor) -> bool:
        """Return whether products can have the bits of `expected`, which they have from now on."""
        for rounds_once in (0, 1):
            self._arguments.rounds_once = rounds_once
            if torch.equal(self.multiply(rounded), expected):
                return True
        return False

    def multiply(self, rounded: torch.Tensor) -> torch.Tensor:
        """Return (rows, outputs) for `rounded`, (rows, inputs), uint8."""
        product = torch.empty(len(rounded), self._outputs)
        arguments = self._arguments
        arguments.rows, arguments.rounded, arguments.product = len(rounded), rounded.data_ptr(), product.data_ptr()
        _multiply_rows(arguments, arguments.inputs * self._outputs)
        return product


def _multiplication(rows: int) -> Any:
    """Return a function that multiplies so many rows with a block of the weight, by the instruction `vpdpbusd`."""

    @intrinsic
    def multiply_block(_: Any, weight: Any, rounded: Any, inputs: Any, sums: Any) -> Any:
        """Take addresses: of a block of the weight, of the first row, and of (rows, _BLOCK) int32 to fill."""

        def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            weight, rounded, inputs, sums = arguments
            signature = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
            # Add the products of four unsigned by four signed bytes to each sum. LLVM's own name changes with versions.
            dot = ir.InlineAsm(signature, "vpdpbusd $2, $1, $0", "=v,v,v,0")

            def address(base: Any, offset: Any, of_type: Any) -> Any:
                return builder.inttoptr(builder.add(base, offset), of_type.as_pointer())

            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            at = builder.phi(_INT64)  # the first of four inputs
            totals = [[builder.phi(_VECTOR) for _ in range(_VECTORS)] for _ in range(rows)]
            at.add_incoming(_INT64(0), before)
            of_weight = builder.mul(at, _INT64(_BLOCK))
            weights = [
                builder.load(address(weight, builder.add(of_weight, _INT64(4 * _LANES * n)), _VECTOR), align=64)
                for n in range(_VECTORS)
            ]
            for row in range(rows):
                of_row = builder.add(builder.mul(inputs, _INT64(row)), at)
                four = builder.load(address(rounded, of_row, _INT32), align=4)
                first = builder.insert_element(_VECTOR(ir.Undefined), four, _INT32(0))
                everywhere = builder.shuffle_vector(first, _VECTOR(ir.Undefined), _VECTOR(None))
                for n in range(_VECTORS):
                    total = totals[row][n]
                    total.add_incoming(_VECTOR(None), before)
                    totals[row][n] = builder.call(dot, [everywhere, weights[n], total])
                    total.add_incoming(totals[row][n], loop)
            following = builder.add(at, _INT64(4))
            at.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", following, inputs), loop, after)
            builder.position_at_end(after)
            for row in range(rows):
                for n in range(_VECTORS):
                    place = address(sums, _INT64(4 * (row * _BLOCK + n * _LANES)), _VECTOR)
                    builder.store(totals[row][n], place, align=4)
            return context.get_dummy_value()

        return types.void(weight, rounded, inputs, sums), generate

    return multiply_block


_multiply_4, _multiply_2, _multiply_1 = _multiplication(4), _multiplication(2), _multiplication(1)


@intrinsic
def _fused(_: Any, x: Any, factor: Any, addend: Any) -> Any:
    """Return x times factor plus addend, rounded once."""

    def generate(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(x, factor, addend), generate


@numba.njit(**EXACT)
def _scale_sums(sums: Any, scale: Any, shift: Any, rounds_once: int, product: Any) -> None:
    """Fill `product` with the scaled sums of a row and a block."""
    if rounds_once:
        for i in range(len(product)):
            product[i] = _fused(np.float32(sums[i]), scale[i], shift[i])
    else:
        for i in range(len(product)):
            product[i] = np.float32(sums[i]) * scale[i] + shift[i]


def _multiply(pointer: Any) -> None:
    """Multiply the rows with blocks of the weight."""
    arguments = carray(pointer, 1)[0]
    rows, inputs, outputs = arguments.rows, arguments.inputs, arguments.outputs
    scale, shift = matrix(arguments.scale, 1, outputs), matrix(arguments.shift, 1, outputs)
    product = matrix(arguments.product, rows, outputs)
    sums = np.empty((4, _BLOCK), np.int32)
    address = np.int64(sums.ctypes.data)
    while True:
        begin = claim(pointer) * _BLOCK
        if begin >= outputs:
            break
        end = min(begin + _BLOCK, outputs)
        weight = arguments.weight + begin * inputs
        row = 0
        while row < rows:
            rounded = arguments.rounded + row * inputs
            if rows - row >= 4:
                count = 4
                _multiply_4(weight, rounded, inputs, address)
            elif rows - row >= 2:
                count = 2
                _multiply_2(weight, rounded, inputs, address)
            else:
                count = 1
                _multiply_1(weight, rounded, inputs, address)
            for n in range(count):
                part = product[row + n, begin:end]
                _scale_sums(sums[n], scale[0, begin:end], shift[0, begin:end], arguments.rounds_once, part)
            row += count


llvmlite.binding.initialize_native_asmparser()  # for the instruction
_multiply_rows = Kernel(_multiply, _Arguments, EXACT)
