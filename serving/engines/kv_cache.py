"""The keys and values of a batch, in pools of slots of the same capacity, and attention over them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

_CAPACITIES = (64, 96, 128, 192, 256, 384, 512)  # tokens, of the slots of a pool; above, multiples of 512
# Sums over keys must split alike for every length that a sequence is read with, which depends on the longest one in its
# group. Sums over up to 384 keys do not split in MKL; beyond, torch's attention takes 512 keys at a time.
_BLOCK = 32
_MAX_UNSPLIT = 384
_LONG_BLOCK = 512
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
    beginning: Any = None  # the key of what was read in whole chunks, see `PrefixCache`; None after anything else

    def keys_and_values(self, tokens: int) -> torch.Tensor:
        """Return those of the next `tokens` tokens, (layers, 2, heads of keys, tokens, head_dim), as a view."""
        assert self.pool.cache is not None
        return self.pool.cache[:, :, self.at, :, self.read : self.read + tokens]

    @property
    def is_long(self) -> bool:
        """Whether the next token attends to more keys than one sum holds."""
        return self.read >= _MAX_UNSPLIT


class KVCache:
    """All pools of a model, by capacity."""

    def __init__(self, shape: tuple[int, int, int], context: int, window: int | None = None) -> None:
        """Take the model's shape, as in `KVCachePool`; slots are at most as long as its context."""
        self._shape, self._window = shape, window
        self._max_capacity = math.ceil(context / _BLOCK) * _BLOCK
        self._pools: dict[int, KVCachePool] = {}

    def open(self, length: int) -> Slot:
        """Return a slot for a sequence of at most `length` tokens; raises MemoryError."""
        capacity = next((c for c in _CAPACITIES if c >= length), math.ceil(length / _LONG_BLOCK) * _LONG_BLOCK)
        capacity = min(capacity, self._max_capacity)
        return self._pools.setdefault(capacity, KVCachePool(capacity, self._shape, self._window)).open()

    def close(self, slot: Slot) -> None:
        """Free a slot."""
        slot.pool.close(slot.at)


def attention_groups(slots: Sequence[Slot], tokens: Sequence[Sequence[int]]) -> list["PrefillGroup | DecodeGroup"]:
    """Return what attends together: short or long sequences of a pool that read one token; each longer chunk alone."""
    groups: list[PrefillGroup | DecodeGroup] = []
    decoding: dict[tuple[int, bool], list[tuple[int, Slot]]] = {}
    at = 0
    for slot, chunk in zip(slots, tokens, strict=True):
        if len(chunk) == 1:
            decoding.setdefault((slot.pool.capacity, slot.is_long), []).append((at, slot))
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
        window = slot.pool.window or self._length
        if slot.read or window < self._length:
            new = self._length - slot.read
            self._mask = torch.ones(new, self._length, dtype=torch.bool).tril_(slot.read)
            self._mask.triu_(slot.read - window + 1)

    def attend(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Return (tokens of the group, heads, head_dim) for `qkv`, (tokens of the batch, all heads, head_dim)."""
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


class DecodeGroup:
    """One token each of several sequences of one pool, all short or all long."""

    def __init__(self, of_pool: list[tuple[int, Slot]]) -> None:
        """Take pairs of a row of the batch and its slot."""
        self._pool = of_pool[0][1].pool
        self._slots = torch.tensor([slot.at for _, slot in of_pool])
        self._read = torch.tensor([slot.read for _, slot in of_pool])
        self.at = torch.tensor([at for at, _ in of_pool])
        self._count = int(self._slots.max()) + 1
        block = _LONG_BLOCK if of_pool[0][1].is_long else _BLOCK
        self._length = min(self._pool.capacity, (int(self._read.max()) // block + 1) * block)
        self._in_order = [slot.at for _, slot in of_pool] == list(range(len(of_pool)))
        limits = self._read
        if not self._in_order:
            limits = torch.zeros(self._count, dtype=torch.long).index_copy_(0, self._slots, self._read)
        limits = limits[:, None, None, None]
        self._mask = torch.zeros(self._count, 1, 1, self._length)
        self._mask.masked_fill_(torch.arange(self._length) > limits, -math.inf)
        if self._pool.window:
            self._mask.masked_fill_(torch.arange(self._length) <= limits - self._pool.window, -math.inf)

    def attend(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Return (tokens of the group, heads, head_dim) for `qkv`, (tokens of the batch, all heads, head_dim)."""
        cache = self._pool.cache
        assert cache is not None
        of_keys = self._pool.shape[1]
        new = qkv if len(self.at) == len(qkv) else qkv[self.at]
        queries = new[:, : -2 * of_keys]
        cache[layer, :, self._slots, :, self._read] = new[:, -2 * of_keys :].view(len(new), 2, of_keys, -1)
        if not self._in_order:
            queries = torch.zeros(self._count, *queries.shape[1:]).index_copy_(0, self._slots, queries)
        cached = cache[layer, :, : self._count, :, : self._length]  # (2, slots, heads of keys, length, head_dim)
        # Queries that share keys are to attention what tokens are: (slots, heads of keys, queries of each, head_dim).
        queries = queries.view(self._count, of_keys, -1, queries.shape[-1])
        out = F.scaled_dot_product_attention(queries, cached[0], cached[1], self._mask).flatten(1, 2)
        return out if self._in_order else out[self._slots]
