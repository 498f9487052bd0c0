"""The keys and values of a batch, in pools of slots of the same capacity, and attention over them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

_CAPACITIES = (64, 96, 128, 192, 256, 384, 512)  # tokens, of the slots of a pool; above, multiples of 512
_BLOCK = 32  # caches are read in multiples of this many tokens, so that sums split alike for every length
_KEPT_BYTES = 2**26  # of an unused cache: allocating it again would delay the first token of the next request
_MEMORY_RESERVE = 256 * 2**20  # bytes left to the rest of the machine when a cache grows


@dataclass
class KVCachePool:
    """Slots of one capacity, in one tensor."""

    capacity: int  # tokens of a slot
    shape: tuple[int, int, int]  # layers, heads, head_dim
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
            cache = torch.zeros(shape)  # finite, since masked values are multiplied too
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


class KVCache:
    """All pools of a model, by capacity."""

    def __init__(self, layers: int, heads: int, head_dim: int, context: int) -> None:
        """Take the model's shape; slots are at most as long as its context."""
        self._shape = (layers, heads, head_dim)
        self._max_capacity = math.ceil(context / _BLOCK) * _BLOCK
        self._pools: dict[int, KVCachePool] = {}

    def open(self, length: int) -> Slot:
        """Return a slot for a sequence of at most `length` tokens; raises MemoryError."""
        capacity = next((c for c in _CAPACITIES if c >= length), math.ceil(length / 512) * 512)
        capacity = min(capacity, self._max_capacity)
        return self._pools.setdefault(capacity, KVCachePool(capacity, self._shape)).open()

    def close(self, slot: Slot) -> None:
        """Free a slot."""
        slot.pool.close(slot.at)


def attention_groups(slots: Sequence[Slot], tokens: Sequence[Sequence[int]]) -> list["PrefillGroup | DecodeGroup"]:
    """Return what attends together: sequences of a pool that read one token each; each longer chunk on its own."""
    groups: list[PrefillGroup | DecodeGroup] = []
    decoding: dict[int, list[tuple[int, Slot]]] = {}
    at = 0
    for slot, chunk in zip(slots, tokens, strict=True):
        if len(chunk) == 1:
            decoding.setdefault(slot.pool.capacity, []).append((at, slot))
        else:
            groups.append(PrefillGroup(slice(at, at + len(chunk)), slot))
        at += len(chunk)
    groups += [DecodeGroup(of_pool) for of_pool in decoding.values()]
    return groups


class PrefillGroup:
    """Several tokens of one sequence."""

    def __init__(self, at: slice, slot: Slot) -> None:
        """Read the rows `at` of the batch into `slot`."""
        self.at = at
        self._slot = slot
        self._length = slot.read + at.stop - at.start  # with the new tokens
        self._mask = None
        if slot.read:
            new = self._length - slot.read
            self._mask = torch.ones(new, self._length, dtype=torch.bool).tril_(slot.read)

    def attend(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Return (tokens of the group, heads, head_dim) for `qkv`, (tokens of the batch, 3, heads, head_dim)."""
        slot = self._slot
        queries, keys, values = qkv[self.at].unbind(1)
        cache = slot.pool.cache
        assert cache is not None
        cached = cache[layer, :, slot.at, :, : self._length]  # (2, heads, length, head_dim)
        cached[0, :, slot.read :] = keys.transpose(0, 1)
        cached[1, :, slot.read :] = values.transpose(0, 1)
        out = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None], cached[:1], cached[1:], self._mask, is_causal=self._mask is None
        )
        return out[0].transpose(0, 1)


class DecodeGroup:
    """One token each of several sequences of one pool."""

    def __init__(self, of_pool: list[tuple[int, Slot]]) -> None:
        """Take pairs of a row of the batch and its slot."""
        self._pool = of_pool[0][1].pool
        self._slots = torch.tensor([slot.at for _, slot in of_pool])
        self._read = torch.tensor([slot.read for _, slot in of_pool])
        self.at = torch.tensor([at for at, _ in of_pool])
        self._count = int(self._slots.max()) + 1
        self._length = min(self._pool.capacity, (int(self._read.max()) // _BLOCK + 1) * _BLOCK)
        self._in_order = [slot.at for _, slot in of_pool] == list(range(len(of_pool)))
        limits = self._read
        if not self._in_order:
            limits = torch.zeros(self._count, dtype=torch.long).index_copy_(0, self._slots, self._read)
        self._mask = torch.zeros(self._count, 1, 1, self._length)
        self._mask.masked_fill_(torch.arange(self._length) > limits[:, None, None, None], -math.inf)

    def attend(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Return (tokens of the group, heads, head_dim) for `qkv`, (tokens of the batch, 3, heads, head_dim)."""
        cache = self._pool.cache
        assert cache is not None
        new = qkv if len(self.at) == len(qkv) else qkv[self.at]
        cache[layer, :, self._slots, :, self._read] = new[:, 1:]
        queries = new[:, 0]
        if not self._in_order:
            queries = torch.zeros(self._count, *queries.shape[1:]).index_copy_(0, self._slots, queries)
        cached = cache[layer, :, : self._count, :, : self._length]  # (2, slots, heads, length, head_dim)
        out = F.scaled_dot_product_attention(queries[:, :, None], cached[0], cached[1], self._mask)[:, :, 0]
        return out if self._in_order else out[self._slots]
