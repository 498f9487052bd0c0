"""LoRA adapters on a decoder in int8: each row of a step gets what its own adapter adds, or nothing.

The low-rank matrices are float32, and read the rounded rows that the layer's product reads. One thread computes a row
of a layer, so its bits do not depend on other rows, nor on other adapters.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import carray

from serving.engines.compiled import CLAIMED, Kernel, claim, matrix, pointer_to
from serving.engines.fused_layers import Linear
from serving.engines.lora import Adapter, require_fit

_FIELDS = 5  # of a part's entry: the addresses of down and up, the rank, the first output, and the one after the last
_NO_PLACES = np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class LinearPart:
    """One of the model's linear layers, which may be computed as one with others."""

    linear: Linear
    begin: int  # of its outputs among those of `linear`
    end: int


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that rows may have."""

    number: int
    version: str


class _Arguments(ctypes.Structure):
    """What the kernel reads and writes, as in `serving.engines.kernels`."""

    _fields_ = (
        *CLAIMED,  # pairs of a row with an adapter and a part
        ("rows", ctypes.c_int64),  # of the step
        ("places", ctypes.c_void_p),  # (adapted, 2), int64: row and number of its adapter
        ("adapted", ctypes.c_int64),
        ("entries", ctypes.c_void_p),  # (adapters, parts, _FIELDS), int64
        ("adapters", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("highest_rank", ctypes.c_int64),
        ("rounded", ctypes.c_void_p),  # (rounded_parts x rows, inputs), uint8, or float32 for 0 parts
        ("rounded_parts", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("product", ctypes.c_void_p),  # (max(rounded_parts, 1) x rows, outputs)
    )


class _AdaptedLinear:
    """What all loaded adapters add to the product of one linear layer."""

    def __init__(self, linear: Linear, parts: Sequence[tuple[str, LinearPart]]) -> None:
        """Take the layer, and the model's layers that it stands for, by name."""
        self._linear, self._parts = linear, parts
        self._entries = np.zeros((0, len(parts), _FIELDS), np.int64)
        self._kept: dict[int, list[torch.Tensor]] = {}  # by number of an adapter: what entries have addresses of
        self._arguments = _Arguments(
            parts=len(parts),
            rounded_parts=linear.parts,
            inputs=linear.inputs,
            outputs=linear.outputs,
        )

    def load(self, number: int, adapter: Adapter) -> None:
        """Take an adapter's matrices for this layer."""
        if number >= len(self._entries):
            self._entries = np.pad(self._entries, ((0, number + 1 - len(self._entries)), (0, 0), (0, 0)))
        kept = self._kept[number] = []
        # Rows of bytes are 127 times what the layer's scale makes of them.
        unit = 127.0 if self._linear.parts else 1.0
        for at, (name, part) in enumerate(self._parts):
            if layer := adapter.layers.get(name):
                down, up = layer.down.contiguous(), (layer.up.t() / unit).contiguous()  # (rank, in), (rank, out)
                kept += [down, up]
                self._entries[number, at] = down.data_ptr(), up.data_ptr(), len(down), part.begin, part.end
        self._set_entries()

    def unload(self, number: int) -> None:
        """Forget an adapter."""
        self._entries[number] = 0
        del self._kept[number]
        self._set_entries()

    def _set_entries(self) -> None:
        self._arguments.entries, self._arguments.adapters = self._entries.ctypes.data, len(self._entries)
        self._arguments.highest_rank = self._entries[:, :, 2].max()

    def add(self, places: np.ndarray, rounded: torch.Tensor, product: torch.Tensor) -> None:
        """Add to the product what the adapters of `places` make of the rounded rows."""
        arguments = self._arguments
        if arguments.highest_rank == 0:
            return
        arguments.rows = len(product) // max(self._linear.parts, 1)
        arguments.places, arguments.adapted = places.ctypes.data, len(places)
        arguments.rounded, arguments.product = rounded.data_ptr(), product.data_ptr()
        _add_rows(arguments, len(places) * arguments.highest_rank * (arguments.inputs + arguments.outputs))


class LoraRows:
    """The adapters of a decoder, and which rows of a step have one."""

    def __init__(self, parts: Mapping[str, LinearPart]) -> None:
        """Take the model's linear layers, by their names in transformers."""
        self._parts = parts
        by_linear: dict[int, list[tuple[str, LinearPart]]] = {}
        for name, part in parts.items():
            by_linear.setdefault(id(part.linear), []).append((name, part))
        self._layers = {key: _AdaptedLinear(of_one[0][1].linear, of_one) for key, of_one in by_linear.items()}
        self._numbers: set[int] = set()
        self._places = _NO_PLACES

    def load(self, adapter: Adapter) -> LoadedAdapter:
        """Take an adapter; raises EngineError where it does not fit the model."""
        for name, layer in adapter.layers.items():
            part = self._parts.get(name)
            require_fit(name, layer, (part.end - part.begin, part.linear.inputs) if part else None)
        number = next(number for number in range(len(self._numbers) + 1) if number not in self._numbers)
        self._numbers.add(number)
        for of_linear in self._layers.values():
            of_linear.load(number, adapter)
        return LoadedAdapter(number, adapter.version)

    def unload(self, adapter: LoadedAdapter) -> None:
        """Forget an adapter that no slot has."""
        for of_linear in self._layers.values():
            of_linear.unload(adapter.number)
        self._numbers.remove(adapter.number)

    def begin_step(self, adapters: Sequence[LoadedAdapter | None], lengths: Sequence[int]) -> None:
        """Take the adapter of each sequence of a step, and its number of rows."""
        if not any(adapters):
            self._places = _NO_PLACES
            return
        of_rows = np.repeat([adapter.number if adapter else -1 for adapter in adapters], lengths)
        rows = np.flatnonzero(of_rows >= 0)
        self._places = np.stack([rows, of_rows[rows]], axis=1)

    def multiply(self, linear: Linear, rounded: torch.Tensor) -> torch.Tensor:
        """Return the product of a layer, with what the rows' adapters add to it; see `Linear.multiply`."""
        product = linear.multiply(rounded)
        if len(self._places):
            self._layers[id(linear)].add(self._places, rounded, product)
        return product


def _add(pointer: Any) -> None:
    """Add up (down x) to rows of the product, one part of the outputs at a time."""
    arguments = carray(pointer, 1)[0]
    rows, inputs, outputs, parts = arguments.rows, arguments.inputs, arguments.outputs, arguments.parts
    places = carray(pointer_to(arguments.places), (arguments.adapted, 2), np.int64)
    entries = carray(pointer_to(arguments.entries), (arguments.adapters, parts, _FIELDS), np.int64)
    product = matrix(arguments.product, rows * max(arguments.rounded_parts, 1), outputs)
    bytes_ = carray(pointer_to(arguments.rounded), (rows * arguments.rounded_parts, inputs), np.uint8)
    floats = matrix(arguments.rounded, rows, inputs)
    x = np.empty(inputs, np.float32)
    low = np.empty(arguments.highest_rank, np.float32)
    while True:
        item = claim(pointer)
        if item >= arguments.adapted * parts:
            break
        row, adapter = places[item // parts, 0], places[item // parts, 1]
        down_at, up_at, rank, begin, end = entries[adapter, item % parts]
        if rank == 0:
            continue
        target = row
        if arguments.rounded_parts == 0:
            for i in range(inputs):
                x[i] = floats[row, i]
        elif arguments.rounded_parts == 1:
            for i in range(inputs):
                x[i] = np.float32(np.int32(bytes_[row, i]) - np.int32(128))
        else:  # in units of the lower bytes, whose product they are added to
            target = rows + row
            for i in range(inputs):
                upper, lower = np.int32(bytes_[row, i]), np.int32(bytes_[rows + row, i])
                x[i] = np.float32(upper * np.int32(256) + lower - np.int32(257 * 128))
        down, up = matrix(down_at, rank, inputs), matrix(up_at, rank, end - begin)
        for n in range(rank):
            total = np.float32(0)
            for i in range(inputs):
                total += down[n, i] * x[i]
            low[n] = total
        out = product[target, begin:end]
        for n in range(rank):
            for i in range(end - begin):
                out[i] += low[n] * up[n, i]


_add_rows = Kernel(_add, _Arguments)
