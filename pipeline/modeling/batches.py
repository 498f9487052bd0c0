"""Batches from token rows: packed without padding, or padded to the longest row."""

import torch

IGNORED_LABEL = -100  # the label that torch's cross entropy leaves out


Batch = dict[str, torch.Tensor]


def collate_packed(rows: list[dict[str, list[int]]]) -> Batch:
    """Return all documents of `rows` strung together, (1, tokens), without padding.

    `position_ids` restart at each document, `labels` are the tokens but the first of each document. `cu_seq_lens_q`
    are the documents' borders, as flash attention has them; `row_lengths` the tokens of each row.
    """
    ids, positions, lengths = [], [], []
    for row in rows:
        row_ids, row_positions = torch.tensor(row["input_ids"]), _positions(row)
        starts = row_positions == 0
        alone = starts & starts.roll(-1).index_fill(0, torch.tensor([len(starts) - 1]), True)  # padding, or no label
        ids.append(row_ids[~alone])
        positions.append(row_positions[~alone])
        lengths.append(len(ids[-1]))
    all_ids, all_positions = torch.cat(ids), torch.cat(positions)
    borders = [*(all_positions == 0).nonzero()[:, 0].tolist(), len(all_ids)]
    return {
        "input_ids": all_ids[None],
        "position_ids": all_positions[None],
        "labels": all_ids.masked_fill(all_positions == 0, IGNORED_LABEL)[None],
        "cu_seq_lens_q": torch.tensor(borders),
        "row_lengths": torch.tensor(lengths),
    }


def _positions(row: dict[str, list[int]]) -> torch.Tensor:
    """Return each token's position in its document; a padded row is one document, its padding has position 0."""
    if "position_ids" in row:
        return torch.tensor(row["position_ids"])
    return torch.arange(len(row["input_ids"])) * torch.tensor(row["attention_mask"])


def collate_padded(rows: list[dict[str, list[int]]], masked: bool = True) -> Batch:
    """Return (rows, length of the longest) tensors with `labels`.

    Padding is on the right, where causal attention needs no mask: with `masked` False none is given, and the
    fastest kernels can be used.
    """
    positions = torch.stack([_positions(row) for row in rows])
    longest = int((positions > 0).any(0).nonzero().max()) + 1 if bool((positions > 0).any()) else 1
    positions = positions[:, :longest]
    ids = torch.tensor([row["input_ids"][:longest] for row in rows])
    batch = {"input_ids": ids, "labels": ids.masked_fill(positions == 0, IGNORED_LABEL)}
    if "position_ids" in rows[0]:
        batch["position_ids"] = positions
    elif masked:
        batch["attention_mask"] = torch.tensor([row["attention_mask"][:longest] for row in rows])
    return batch
