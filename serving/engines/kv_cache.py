"""The keys and values of a batch, in pools of slots of the same capacity, and attention over them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from serving.engines import kernels
from serving.engines.kernels import AttentionArguments
from serving.engines.lora_rows import LoadedAdapter

_CAPACITIES = (64, 96, 128, 192, 256, 384, 512)  # tokens, of the slots of a pool; above, multiples of 512
_KEPT_BYTES = 2**26  # of an unused cache: allocating it again would delay the first token of the next request
_MEMORY_RESERVE = 256 * 2**20  # bytes left to the rest of the machine when a cache grows


@dataclass
class KVCachePool:
    """Slots of one capacity, in one tensor."""

    capacity: int  # tokens of a slot
    shape: tuple[int, int, int]  # layers, heads of keys, head_dim
    window: int | None = None  # tokens that a token attends to, itself among them
    cache: torch.Tensor | None = None  # (layers, 2, slots, heads, capacity, head_dim)
    free: list[int] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    def open(self) -> "Slot":
        """Return a free slot; raises MemoryError."""
        if not self.free:
            self._grow()
        at = min(self.free)
        self.free.remove(at)
        self.used.add(at)
        return Slot(self, at)

    def close(self, at: int) -> None:
        """Free a slot, and a large cache with its last one."""
        self.used.discard(at)
        self.free.append(at)
        if not self.used and self.cache is not None and self.cache.nbytes > _KEPT_BYTES:
            self.cache = None
            self.free.clear()

    def _grow(self) -> None:
        """Double the number of slots."""
        old = self.cache.shape[2] if self.cache is not None else 0
        new = max(1, 2 * old)
        layers, heads, head_dim = self.shape
        shape = (layers, 2, new, heads, self.capacity, head_dim)
        if 4 * math.prod(shape) > psutil.virtual_memory().available - _MEMORY_RESERVE:
            raise MemoryError
        try:
            cache = torch.empty(shape)
        except RuntimeError:  # what torch raises when memory is short
            raise MemoryError from None
        if self.cache is not None:
            cache[:, :, :old] = self.cache
        self.cache = cache
        self.free += range(old, new)


@dataclass
class Slot:
    """A sequence's place in a pool."""

    pool: KVCachePool
    at: int
    read: int = 0  # tokens in the cache
    adapter: LoadedAdapter | None = None
    beginning: Any = None  # the key of what was read in whole chunks, see `PrefixCache`; None after anything else

    def keys_and_values(self, tokens: int) -> torch.Tensor:
        """Return those of the next `tokens` tokens, (layers, 2, heads of keys, tokens, head_dim), as a view."""
        assert self.pool.cache is not None
        return self.pool.cache[:, :, self.at, :, self.read : self.read + tokens]

    @property
    def place(self) -> tuple[int, int, int, int]:
        """The address of the first key, and the numbers between layers, between heads, and from a key to its value."""
        assert self.pool.cache is not None
        of_layer, to_value, of_slot, of_head, _, _ = self.pool.cache.stride()
        return self.pool.cache.data_ptr() + 4 * self.at * of_slot, of_layer, of_head, to_value


class KVCache:
    """All pools of a model, by capacity."""

    def __init__(self, shape: tuple[int, int, int], context: int, window: int | None = None) -> None:
        """Take the model's shape, as in `KVCachePool`; slots are at most as long as its context."""
        self._shape, self._window = shape, window
        self._context = context
        self._pools: dict[int, KVCachePool] = {}

    def open(self, length: int) -> Slot:
        """Return a slot for a sequence of at most `length` tokens; raises MemoryError."""
        longest = _CAPACITIES[-1]
        capacity = next((c for c in _CAPACITIES if c >= length), math.ceil(length / longest) * longest)
        capacity = min(capacity, self._context)
        return self._pools.setdefault(capacity, KVCachePool(capacity, self._shape, self._window)).open()

    def close(self, slot: Slot) -> None:
        """Free a slot."""
        slot.pool.close(slot.at)


class BatchAttention:
    """Attention of the sequences of a step, each over its own keys and values."""

    def __init__(
        self, heads: int, slots: Sequence[Slot], tokens: Sequence[Sequence[int]], guessed: Sequence[int]
    ) -> None:
        """Take the number of queries' heads, and the next `tokens` of each slot, which are rows in this order.

        The last `guessed` of a slot's are read as if each were a step of its own, so that they have the same bits.
        """
        self._heads = heads
        self._chunks: list[PrefillChunk] = []
        places = []
        row = 0
        for slot, chunk, guesses in zip(slots, tokens, guessed, strict=True):
            if len(chunk) > 1 and not guesses:
                self._chunks.append(PrefillChunk(slice(row, row + len(chunk)), slot))
            else:
                places += [(row + n, *slot.place, slot.read + n, n) for n in range(len(chunk))]
            row += len(chunk)
        self._places = np.array(places, np.int64)
        _, heads_of_keys, head_dim = slots[0].pool.shape
        self._arguments = AttentionArguments(
            tokens=len(places),
            places=self._places.ctypes.data,
            heads=heads,
            heads_of_keys=heads_of_keys,
            head_dim=head_dim,
            window=slots[0].pool.window or 0,
        )
        self._numbers = sum(read + 1 for *_, read, _ in places) * heads * head_dim

    def __call__(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Return (rows, heads, head_dim) for `qkv`, (rows, heads of queries, keys and values, head_dim)."""
        out = torch.empty(len(qkv), self._heads, qkv.shape[2])
        if len(self._places):
            self._arguments.layer, self._arguments.qkv, self._arguments.out = layer, qkv.data_ptr(), out.data_ptr()
            kernels.attend(self._arguments, self._numbers)
        for chunk in self._chunks:
            out[chunk.at] = chunk.attend(layer, qkv)
        return out


class PrefillChunk:
    """Several tokens of one sequence."""

    def __init__(self, at: slice, slot: Slot) -> None:
        """Read the rows `at` of the batch into `slot`."""
        self.at = at
        self._slot = slot
        self._length = slot.read + at.stop - at.start  # with the new tokens
        self._mask = None
        window = slot.pool.window or self._length
        if slot.read or window < self._length:
            new = self._length - slot.read
            self._mask = torch.ones(new, self._length, dtype=torch.bool).tril_(slot.read)
            self._mask.triu_(slot.read - window + 1)

    def attend(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Return (tokens of the chunk, heads, head_dim) for `qkv`, (tokens of the batch, all heads, head_dim)."""
        slot = self._slot
        of_keys = slot.pool.shape[1]
        queries, keys, values = torch.split(qkv[self.at], [qkv.shape[1] - 2 * of_keys, of_keys, of_keys], dim=1)
        cache = slot.pool.cache
        assert cache is not None
        cached = cache[layer, :, slot.at, :, : self._length]  # (2, heads of keys, length, head_dim)
        cached[0, :, slot.read :] = keys.transpose(0, 1)
        cached[1, :, slot.read :] = values.transpose(0, 1)
        out = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            cached[:1],
            cached[1:],
            self._mask,
            is_causal=self._mask is None,
            enable_gqa=queries.shape[1] > keys.shape[1],
        )
        return out[0].transpose(0, 1)
