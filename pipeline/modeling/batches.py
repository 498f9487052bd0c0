"""Batches from token rows: packed without padding, or padded to the longest row of the batch."""

from collections.abc import Callable
from typing import Any

import torch

IGNORED_LABEL = -100  # torch's cross entropy skips it

# What `with_token_index` adds.
TOKEN_INDEX = ("token_at", "cu_seq_lens_q", "max_length_q")

Batch = dict[str, Any]  # tensors, and numbers that stay on the host
TokenRow = dict[str, list[int]]


def collate_packed(rows: list[TokenRow]) -> Batch:
    """Return the documents of `rows` concatenated without padding.

    Returns:
        `input_ids`, `labels` and `position_ids`, each (1, tokens). Positions restart at each document; labels are the
        tokens except the first of each document. `cu_seq_lens_q` (documents + 1,) holds the document boundaries, as
        flash attention takes them; `row_lengths` (rows,) counts the tokens of each row.
    """
    ids, positions, lengths = [], [], []
    for row in rows:
        row_ids, row_positions = torch.tensor(row["input_ids"]), _positions(row)
        starts = row_positions == 0
        # A document of one token is padding, or has no label.
        alone = starts & starts.roll(-1).index_fill(0, torch.tensor([len(starts) - 1]), True)
        ids.append(row_ids[~alone])
        positions.append(row_positions[~alone])
        lengths.append(len(ids[-1]))
    all_ids, all_positions = torch.cat(ids), torch.cat(positions)
    boundaries = [*(all_positions == 0).nonzero()[:, 0].tolist(), len(all_ids)]
    return {
        "input_ids": all_ids[None],
        "position_ids": all_positions[None],
        "labels": all_ids.masked_fill(all_positions == 0, IGNORED_LABEL)[None],
        "cu_seq_lens_q": torch.tensor(boundaries),
        "row_lengths": torch.tensor(lengths),
    }


def collate_varlen(rows: list[TokenRow], is_fixed: bool = False) -> Batch:
    """Return what `collate_packed` does, for one attention kernel over all documents.

    Args:
        rows: Rows of one length, padding included.
        is_fixed: Whether as many rows always make tensors of the same shapes. Documents without labels then fill up the
            tokens, and empty ones the boundaries.

    Returns:
        `max_length_q`, which no document exceeds, and what `collate_packed` does, with int32 boundaries.
    """
    batch = collate_packed(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    if is_fixed:
        missing = len(rows) * longest - batch["input_ids"].shape[1]
        fill = {"input_ids": 0, "labels": IGNORED_LABEL}
        batch |= {name: torch.nn.functional.pad(batch[name], (0, missing), value=fill[name]) for name in fill}
        positions = torch.arange(missing)[None] % longest
        batch["position_ids"] = torch.cat([batch["position_ids"], positions], dim=1)
        tokens = batch["input_ids"].shape[1]
        filled = [*range(tokens - missing, tokens, longest)][1:]
        # Documents have two tokens or more; unpacked rows are one each.
        most = len(rows) * (1 + (longest // 2 if "position_ids" in rows[0] else 1))
        ends = [*batch["cu_seq_lens_q"].tolist(), *filled]
        batch["cu_seq_lens_q"] = torch.tensor(ends + [tokens] * (most + 1 - len(ends)))
    return {**batch, "cu_seq_lens_q": batch["cu_seq_lens_q"].int(), "max_length_q": longest}


def with_token_index(collate: Callable[[list[TokenRow]], Batch], rows: list[TokenRow]) -> Batch:
    """Return `collate(rows)` with what layers without padding and the loss would else look for on the device.

    Returns:
        Besides, `token_at`, where in the batch each token is, (tokens,); the boundaries of rows as `cu_seq_lens_q`;
        `max_length_q`, which no row exceeds; `label_count`, how many labels there are.
    """
    batch = collate(rows)
    kept = batch["attention_mask"].bool()
    return {
        **batch,
        "token_at": kept.flatten().nonzero()[:, 0],
        "cu_seq_lens_q": torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0)).int(),
        "max_length_q": kept.shape[1],
        "label_count": int((batch["labels"] != IGNORED_LABEL).sum()),
    }


def without_token_index(batch: Batch) -> Batch:
    """Return a batch as before `with_token_index`."""
    return {name: value for name, value in batch.items() if name not in (*TOKEN_INDEX, "label_count")}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`; the host does not wait for those in pinned memory."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def collate_padded(rows: list[TokenRow], with_mask: bool = True) -> Batch:
    """Return `input_ids` and `labels`, (rows, tokens of the longest row), and `attention_mask` or `position_ids`.

    Padding is on the right, where causal attention needs no mask: without it the fastest kernels apply.
    """
    positions = torch.stack([_positions(row) for row in rows])
    longest = int((positions > 0).any(0).nonzero().max()) + 1 if bool((positions > 0).any()) else 1
    positions = positions[:, :longest]
    ids = torch.tensor([row["input_ids"][:longest] for row in rows])
    batch = {"input_ids": ids, "labels": ids.masked_fill(positions == 0, IGNORED_LABEL)}
    if "position_ids" in rows[0]:
        batch["position_ids"] = positions
    elif with_mask:
        batch["attention_mask"] = torch.tensor([row["attention_mask"][:longest] for row in rows])
    return batch


def collate_rows(rows: list[TokenRow]) -> Batch:
    """Return every column of `rows` as a tensor, lists cut to the last token that the mask of any row shows.

    A column of lists is cut where it is as long as `attention_mask`; labels of another length stay as they are.
    """
    mask = torch.tensor([row["attention_mask"] for row in rows])
    longest = int(mask.any(0).nonzero().max()) + 1
    batch = {}
    for name in rows[0]:
        column = torch.tensor([row[name] for row in rows])
        batch[name] = column[:, :longest] if column.shape == mask.shape and name != "labels" else column
    return batch


def collate_pairs(rows: list[TokenRow]) -> Batch:
    """Return the sources and targets of `rows`, each cut to the longest: as `DataCollatorForSeq2Seq` without a model.

    Returns:
        `input_ids` and `attention_mask`, (rows, tokens of the longest source), and `labels`, (rows, tokens of the
        longest target).
    """
    batch = collate_rows(rows)
    longest = int((batch["labels"] != IGNORED_LABEL).any(0).nonzero().max()) + 1
    return {**batch, "labels": batch["labels"][:, :longest].contiguous()}


def _positions(row: TokenRow) -> torch.Tensor:
    """Return each token's position in its document; a padded row is one document, its padding has position 0."""
    if "position_ids" in row:
        return torch.tensor(row["position_ids"])
    return torch.arange(len(row["input_ids"])) * torch.tensor(row["attention_mask"])
