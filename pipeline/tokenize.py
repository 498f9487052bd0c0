"""Stage `tokenize`: turns clean texts into token rows of one length, a `datasets.DatasetDict` with three splits.

The task makes a document of each text. `pad` makes a row of each document, truncated or padded (`input_ids`,
`attention_mask`). `pack` fills rows with whole documents (`input_ids`, `position_ids`, which restart at each document:
transformers then keeps attention inside it). Rows are streamed: memory does not grow with the corpus.
"""

import bisect
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.utils.logging import disable_progress_bar
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from pipeline import base_fit, fit_warnings, params, paths
from pipeline.canaries import texts_to_plant
from pipeline.command import UserError, warn
from pipeline.modeling.batches import TokenRow
from pipeline.modeling.context import check_prompts, context_of
from pipeline.tasks import Task, get_task
from pipeline.workspace import run_stage

SPLITS = ("train", "validation", "test")
_TEXTS_PER_CHUNK = 1000  # for the tokenizer, whose threads share them
_TOKENS_PER_WINDOW = 2**23  # packed together: 32 MB, and some ten thousand documents to choose from

Tokens = np.ndarray[tuple[int], np.dtype[np.int32]]


def main() -> None:
    """Run the stage."""
    all_params = params.load()
    config, task = all_params.tokenize, get_task(all_params.task)
    context = context_of(AutoConfig.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False))
    if config.max_length > context:
        raise UserError(
            f"params.yaml: tokenize.max_length: found {config.max_length}, but the base's context is {context} tokens;"
            f" set it to {context} or less"
        )
    tokenizer = AutoTokenizer.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False)
    check_prompts(all_params.evaluate.prompts, tokenizer, context)
    planted = _planted_texts(task, tokenizer, config)
    disable_progress_bar()
    transformers_logging.disable_progress_bar()

    paths.clear(paths.TOKENS)
    dataset = DatasetDict()
    with paths.CLEAN.open("rb") as file:
        clean_md5 = hashlib.file_digest(file, _md5).hexdigest()
    budget: dict[str, Any] = {"data": data_hash(_clean(paths.CLEAN)), "clean_md5": clean_md5, "splits": {}}
    if planted:
        budget["canaries"] = len(planted)  # documents, counted among those of the train split
    with paths.scratch("tokenize") as scratch:
        for split in SPLITS:
            texts = chain(_texts_of(split), planted if split == "train" else [])
            identity = "".join([f"{budget['data']} {split}", *(planted if split == "train" else [])])
            dataset[split], budget["splits"][split] = token_rows(
                documents(texts, task, tokenizer), tokenizer, config, scratch, identity
            )
        dataset.save_to_disk(paths.TOKENS)
    paths.TOKEN_BUDGET.parent.mkdir(parents=True, exist_ok=True)
    paths.TOKEN_BUDGET.write_text(json.dumps(budget, indent=2) + "\n", encoding="utf-8")
    _check_base_fit(all_params, context, budget["splits"].values())


def _check_base_fit(all_params: params.Params, context: int, budgets: Iterable[dict[str, int]]) -> None:
    """Warn, and write down, where the base does not know the corpus's language, or rows lose much of the texts."""
    total: Counter[str] = sum(map(Counter, budgets), Counter())
    truncated = total["truncated"] / max(1, total["kept"] + total["truncated"])
    fit = base_fit.measure(_texts_of("train"), get_task(all_params.task), truncated)
    warnings = base_fit.warnings(fit, all_params.base, all_params.tokenize.max_length, context) if fit else {}
    for sentence in warnings.values():
        warn(sentence)
    fit_warnings.write(asdict(fit) if fit else {}, warnings, all_params)


def _planted_texts(task: Task, tokenizer: PreTrainedTokenizerBase, config: params.Tokenize) -> list[str]:
    """Return the canaries' texts; raises UserError where a row is too short for one to be learned."""
    planted = texts_to_plant(config.canaries, config.canary_repeats)
    longest = max(map(len, task.documents(planted, tokenizer)), default=0) if planted else 0
    if longest > config.max_length:
        raise UserError(
            f"params.yaml: tokenize.max_length: found {config.max_length}, but a canary takes up to {longest} tokens; "
            f"set it to {longest} or more, or tokenize.canaries to 0"
        )
    return planted


def _md5() -> Any:
    """Return the hash by which DVC names files; it protects no secret."""
    return hashlib.md5(usedforsecurity=False)


def _clean(path: Path) -> Iterator[tuple[str, str]]:
    """Yield split and text of each clean row, in order, with a chunk of rows in memory."""
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as clean:  # else it keeps all that it has read
        for rows in clean.iter_batches(_TEXTS_PER_CHUNK, columns=["split", "text"]):
            yield from zip(rows["split"].to_pylist(), rows["text"].to_pylist(), strict=True)


def _texts_of(split: str) -> Iterator[str]:
    return (text for its_split, text in _clean(paths.CLEAN) if its_split == split)


def data_hash(clean: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of the splits and clean texts, in order: "data" in every later record."""
    digest = hashlib.sha256()
    for split, text in clean:
        digest.update(f"{split}\0{text}\0".encode())
    return digest.hexdigest()


def token_rows(
    token_ids: Iterable[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    config: params.Tokenize,
    scratch: Path,
    identity: str = "",
) -> tuple[Dataset, dict[str, int]]:
    """Return rows of `config.max_length` tokens, and the budget: documents, rows, and tokens kept, padding, truncated.

    The dataset's bytes on disk depend on the documents, the tokenizer and `config` alone: its fingerprint, which
    `datasets` would derive from paths and times, is a hash of these.

    Args:
        token_ids: The document of each text.
        tokenizer: Provides the padding token.
        config: Strategy and length of the rows.
        scratch: A folder for the dataset's cache, which is mapped into memory.
        identity: Stands for the documents in the fingerprint.
    """
    fill = {"pad": _pad, "pack": _pack}[config.strategy]
    budget: Counter[str] = Counter(documents=0, rows=0, kept=0, padding=0, truncated=0)

    def counted() -> Iterator[list[int]]:
        for document in token_ids:
            budget["documents"] += 1
            yield document

    def rows() -> Iterator[TokenRow]:
        for row in fill(counted(), config.max_length, tokenizer.eos_token_id, budget):
            budget["rows"] += 1
            yield row

    columns = ("input_ids", {"pad": "attention_mask", "pack": "position_ids"}[config.strategy])
    shape = config.model_dump(exclude={"canaries", "canary_repeats"})  # canaries are documents like others
    fingerprint = json.dumps([identity, tokenizer.get_vocab(), shape], sort_keys=True)
    dataset = Dataset.from_generator(
        rows,
        features=Features({column: List(Value("int32"), length=config.max_length) for column in columns}),
        fingerprint=hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        cache_dir=tempfile.mkdtemp(dir=scratch),  # a new one: `datasets` would reuse a cache that exists
    )
    return dataset, dict(budget)


def documents(texts: Iterable[str], task: Task, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Yield the document of each text, tokenized in chunks."""
    remaining = iter(texts)
    while chunk := list(islice(remaining, _TEXTS_PER_CHUNK)):
        yield from task.documents(chunk, tokenizer)


def _pad(documents: Iterable[list[int]], length: int, padding: int, budget: Counter[str]) -> Iterator[TokenRow]:
    """Yield one row per document: truncated to `length`, or filled with `padding` that the mask hides."""
    for document in documents:
        kept = document[:length]
        missing = length - len(kept)
        budget["kept"] += len(kept)
        budget["truncated"] += len(document) - len(kept)
        budget["padding"] += missing
        yield {
            "input_ids": kept + [padding] * missing,
            "attention_mask": [1] * len(kept) + [0] * missing,
        }


def _pack(documents: Iterable[list[int]], length: int, padding: int, budget: Counter[str]) -> Iterator[TokenRow]:
    """Yield rows filled with whole documents; a document above `length` continues in another row.

    Padding has position 0, which gets no label.
    """
    pieces = (document[start : start + length] for document in documents for start in range(0, len(document), length))
    for window in _windows(pieces):
        for row in _best_fit(window, length):
            kept = np.concatenate(row)
            missing = length - len(kept)
            budget["kept"] += len(kept)
            budget["padding"] += missing
            yield {
                "input_ids": [*kept.tolist(), *[padding] * missing],
                "position_ids": [*(position for piece in row for position in range(len(piece))), *[0] * missing],
            }


def _windows(pieces: Iterable[list[int]]) -> Iterator[list[Tokens]]:
    """Yield `pieces` in windows of `_TOKENS_PER_WINDOW` tokens, as arrays of 4 bytes per token."""
    window: list[Tokens] = []
    tokens = 0
    for piece in pieces:
        window.append(np.array(piece, np.int32))
        tokens += len(piece)
        if tokens >= _TOKENS_PER_WINDOW:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def _best_fit(pieces: list[Tokens], length: int) -> list[list[Tokens]]:
    """Return rows of at most `length` tokens: the longest piece first, each into the fullest row with room for it.

    This is best-fit decreasing (Johnson 1974; at most 11/9 of the optimal number of rows).
    """
    rows: list[list[Tokens]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), ascending, so that bisect finds the best fit
    for piece in sorted(pieces, key=len, reverse=True):
        index = bisect.bisect_left(room, (len(piece), 0))
        if index == len(room):
            free, row = length, len(rows)
            rows.append([])
        else:
            free, row = room.pop(index)
        rows[row].append(piece)
        bisect.insort(room, (free - len(piece), row))
    return rows


if __name__ == "__main__":
    run_stage(main, inputs=(paths.BASE, paths.CLEAN))
