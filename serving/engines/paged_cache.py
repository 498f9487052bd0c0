"""Keys and values of many sequences in pages on one device, as a cache that transformers' own models write to.

A sequence owns a row of the page table and as many pages as its greatest length needs, so it never waits for memory in
the middle of a text. Page 0 is never written: every position that a sequence does not have yet reads from it, so masked
values are finite whatever a free page holds. Page 1 belongs to row 0, which fills up batches, and takes the writes of
padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import CacheLayerMixin

PAGE = 32  # tokens
_SCRATCH = PAGE  # the first cell of page 1
_FREE_FROM = 2  # pages
FILLER = (0, 0, 1, 0)  # a row of `BatchStep.inputs` for decoding: row 0 reads token 0
HEADER = 3  # columns of `BatchStep.inputs` before the tokens


@dataclass(frozen=True)
class LayerShape:
    """What a layer keeps for each token."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int

    @property
    def numbers(self) -> int:
        """How many numbers that are."""
        return self.key_heads * self.key_dim + self.value_heads * self.value_dim


@dataclass
class PagedSlot:
    """A sequence's place in the cache."""

    row: int  # of the page table
    pages: list[int]
    read: int = 0  # tokens in the cache


class PageTable:
    """Which pages each sequence owns, on the host and on the device."""

    def __init__(self, slots: int, pages: int, length: int, device: torch.device) -> None:
        """Make a table.

        Args:
            slots: The most sequences at a time.
            pages: Of the whole cache.
            length: The most tokens of a sequence.
            device: Of the cache.
        """
        self.capacity = pages * PAGE
        self._free_rows = list(range(slots, 0, -1))
        self._free_pages = list(range(pages - 1, _FREE_FROM - 1, -1))
        self.rows = torch.zeros(slots + 1, -(-length // PAGE), dtype=torch.long, device=device)
        self.rows[0] = 1

    def open(self, length: int) -> PagedSlot:
        """Return a slot for a sequence of at most `length` tokens; raises MemoryError."""
        count = -(-length // PAGE)
        if not self._free_rows or count > min(len(self._free_pages), self.rows.shape[1]):
            raise MemoryError
        slot = PagedSlot(self._free_rows.pop(), [self._free_pages.pop() for _ in range(count)])
        self.rows[slot.row, :count] = torch.tensor(slot.pages, device=self.rows.device)
        return slot

    def close(self, slot: PagedSlot) -> None:
        """Free a slot; what it kept is overwritten before anybody reads it."""
        self._free_rows.append(slot.row)
        self._free_pages += reversed(slot.pages)


class BatchStep:
    """Where the rows of one batch read and write, and what they may attend to.

    Computed on the device alone, with `masked_fill`: `torch.where` copies a number there, which ends a graph's capture.
    """

    def __init__(self, table: PageTable, inputs: torch.Tensor, length: int) -> None:
        """Prepare a step.

        Args:
            table: Of the sequences.
            inputs: (batch, 3 + tokens): row of the table, tokens in the cache, tokens to read, and these on the right.
            length: To which all caches are read: at least the greatest length after the step.
        """
        row, read, new = inputs[:, 0], inputs[:, 1], inputs[:, 2]
        self.ids = inputs[:, HEADER:]  # (batch, tokens)
        count = self.ids.shape[1]
        offsets = torch.arange(count, device=inputs.device) - (count - new)[:, None]  # negative in the padding
        self.positions = (read[:, None] + offsets).clamp(min=0)  # (batch, tokens)
        self._keys = torch.arange(length, device=inputs.device)
        pages = table.rows[row]  # (batch, pages)
        self.write = _cells(pages, self.positions).masked_fill(offsets < 0, _SCRATCH).flatten()
        cells = _cells(pages, self._keys.expand(len(inputs), -1))
        self.read = cells.masked_fill(self._keys >= (read + new)[:, None], 0).flatten()
        self.shape = (len(inputs), length)

    def mask(self, window: int | None = None) -> torch.Tensor:
        """Return which keys each token attends to, (batch, 1, tokens, length): at most the latest `window`."""
        allowed = self._keys <= self.positions[..., None]
        if window is not None:
            allowed &= self._keys > self.positions[..., None] - window
        return allowed[:, None]


def _cells(pages: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return pages.gather(1, positions // PAGE) * PAGE + positions % PAGE


class CurrentStep:
    """The step that the layers of a cache take part in."""

    step: BatchStep


class PagedLayer(CacheLayerMixin):
    """The keys and values of a layer: each token's in a cell."""

    def __init__(self, shape: LayerShape, cells: int, current: CurrentStep, like: torch.Tensor) -> None:
        """Allocate `cells` on the device and in the type of `like`."""
        super().__init__()
        self.keys = like.new_empty(cells, shape.key_heads, shape.key_dim)
        self.values = like.new_empty(cells, shape.value_heads, shape.value_dim)
        for kept in (self.keys, self.values):
            kept[: _FREE_FROM * PAGE] = 0
        self.is_initialized = True
        self._current = current

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: it was allocated."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep new keys and values, (batch, heads, tokens, dim); return all of each sequence in that shape."""
        return self._keep(self.keys, key_states), self._keep(self.values, value_states)

    def _keep(self, kept: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        assert kept is not None
        step = self._current.step
        kept.index_copy_(0, step.write, states.transpose(1, 2).flatten(0, 1))
        return kept.index_select(0, step.read).view(*step.shape, *kept.shape[1:]).transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys `update` returns, and where they begin."""
        return self._current.step.shape[1], 0

    def get_seq_length(self) -> int:
        """Return 0: sequences differ, and `BatchStep.positions` says where each of them is."""
        return 0

    def get_max_length(self) -> int:
        """Return that there is no maximum."""
        return -1


def paged_layers(
    shapes: Sequence[LayerShape], cells: int, current: CurrentStep, like: torch.Tensor
) -> list[PagedLayer]:
    """Return a layer for each of `shapes`."""
    return [PagedLayer(shape, cells, current, like) for shape in shapes]
