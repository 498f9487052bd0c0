"""How the documents of a packed batch are read: one by one, or some of like length as rows with little padding."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

_SIZE = 8  # documents of a group, about


class Layout(Protocol):
    """Where the tokens of a packed batch stand."""

    @property
    def rows(self) -> list[int]:
        """The documents of each group."""

    @property
    def masks(self) -> list[torch.Tensor | None]:
        """What is added to the scores of each group, (rows, 1, 1, longest): -inf at padding."""

    def split(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """Return (rows x heads, longest, head_dim) of each group from (heads, tokens, head_dim)."""

    def join(self, groups: list[torch.Tensor]) -> torch.Tensor:
        """Return (tokens, heads, head_dim) from what `split` returns."""


class OneByOne:
    """Each document is a group."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """Take the tokens of each document."""
        self._lengths = list(lengths)
        self.rows = [1] * len(lengths)
        self.masks: list[torch.Tensor | None] = [None] * len(lengths)

    def split(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """See `Layout.split`."""
        return list(torch.split(packed, self._lengths, dim=1))

    def join(self, groups: list[torch.Tensor]) -> torch.Tensor:
        """See `Layout.join`."""
        return torch.cat([group.transpose(0, 1) for group in groups])


@dataclass(frozen=True)
class Padded:
    """Groups of documents as rows, each as long as its group's longest."""

    at: torch.Tensor  # where each token stands, (tokens,)
    rows: list[int]
    longest: list[int]  # in each group
    masks: list[torch.Tensor | None]

    def split(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """See `Layout.split`."""
        tokens = packed.transpose(0, 1)
        sizes = [rows * longest for rows, longest in zip(self.rows, self.longest, strict=True)]
        padded = tokens.new_zeros(sum(sizes), *tokens.shape[1:]).index_copy_(0, self.at, tokens)
        groups = zip(torch.split(padded, sizes), self.longest, strict=True)
        return [
            group.view(-1, longest, *tokens.shape[1:]).transpose(1, 2).reshape(-1, longest, tokens.shape[-1])
            for group, longest in groups
        ]

    def join(self, groups: list[torch.Tensor]) -> torch.Tensor:
        """See `Layout.join`."""
        rows = [group.view(rows, -1, *group.shape[1:]) for group, rows in zip(groups, self.rows, strict=True)]
        return torch.cat([group.transpose(1, 2).flatten(0, 1) for group in rows]).index_select(0, self.at)


@functools.lru_cache(maxsize=8)  # all layers read the same batch
def grouped(lengths: tuple[int, ...], key_lengths: tuple[int, ...]) -> tuple[Padded, Padded]:
    """Return how queries and keys are grouped: documents of like length together, so that there is little padding."""
    order = sorted(range(len(lengths)), key=lambda document: (key_lengths[document], lengths[document]))
    count = len(order) // _SIZE
    groups = [order[len(order) * n // count : len(order) * (n + 1) // count] for n in range(count)]
    queries = _padded(groups, lengths)
    return queries, queries if key_lengths == lengths else _padded(groups, key_lengths)


def _padded(groups: list[list[int]], lengths: Sequence[int]) -> Padded:
    starts, at, offset = [0, *itertools.accumulate(lengths)], torch.empty(sum(lengths), dtype=torch.long), 0
    longest = [max(lengths[document] for document in group) for group in groups]
    masks: list[torch.Tensor | None] = []
    for group, most in zip(groups, longest, strict=True):
        mask = torch.zeros(len(group), 1, 1, most)
        for row, document in enumerate(group):
            at[starts[document] : starts[document + 1]] = offset + torch.arange(lengths[document])
            mask[row, ..., lengths[document] :] = -math.inf
            offset += most
        masks.append(mask)
    return Padded(at, [len(group) for group in groups], longest, masks)
