"""Groups of documents of like length in a packed batch, so that a few products with little padding serve them all."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_SIZE = 8  # documents of a group, about


@dataclass(frozen=True)
class PaddedGroups:
    """Where a packed batch's tokens stand in rows of groups of documents, each row as long as its group's longest."""

    at: torch.Tensor  # of each token, (tokens,)
    rows: list[int]  # of each group
    longest: list[int]  # in each group
    masks: list[torch.Tensor]  # of each group, (rows, 1, 1, longest): what is added to scores, -inf at padding

    def pad(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """Return (rows, heads, longest, head_dim) of each group from (1, heads, tokens, head_dim)."""
        tokens = packed[0].transpose(0, 1)
        sizes = [rows * longest for rows, longest in zip(self.rows, self.longest, strict=True)]
        padded = tokens.new_zeros(sum(sizes), *tokens.shape[1:]).index_copy(0, self.at, tokens)
        groups = zip(torch.split(padded, sizes), self.rows, strict=True)
        return [group.view(rows, -1, *tokens.shape[1:]).transpose(1, 2) for group, rows in groups]

    def unpad(self, groups: list[torch.Tensor]) -> torch.Tensor:
        """Return (1, tokens, heads, head_dim)."""
        return torch.cat([group.transpose(1, 2).flatten(0, 1) for group in groups]).index_select(0, self.at)[None]


@functools.lru_cache(maxsize=8)  # all layers read the same batch
def of(lengths: tuple[int, ...], key_lengths: tuple[int, ...]) -> tuple[PaddedGroups, PaddedGroups]:
    """Return how queries and keys are grouped: documents of like length together, so that there is little padding."""
    order = sorted(range(len(lengths)), key=lambda document: (key_lengths[document], lengths[document]))
    count = len(order) // _SIZE
    groups = [order[len(order) * n // count : len(order) * (n + 1) // count] for n in range(count)]
    queries = _padded(groups, lengths)
    return queries, queries if key_lengths == lengths else _padded(groups, key_lengths)


def _padded(groups: list[list[int]], lengths: Sequence[int]) -> PaddedGroups:
    starts, at, offset = [0, *itertools.accumulate(lengths)], torch.empty(sum(lengths), dtype=torch.long), 0
    longest = [max(lengths[document] for document in group) for group in groups]
    masks = []
    for group, most in zip(groups, longest, strict=True):
        mask = torch.zeros(len(group), 1, 1, most)
        for row, document in enumerate(group):
            at[starts[document] : starts[document + 1]] = offset + torch.arange(lengths[document])
            mask[row, ..., lengths[document] :] = -math.inf
            offset += most
        masks.append(mask)
    return PaddedGroups(at, [len(group) for group in groups], longest, masks)
