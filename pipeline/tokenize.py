"""Stage `tokenize`: turns clean texts into token rows of one length, a `datasets.DatasetDict` with three splits.

The task makes a document of each clean row. `pad` makes a row of each document, truncated or padded (`input_ids`,
`attention_mask`). `pack` fills rows with whole documents (`input_ids`, `position_ids`, which restart at each document:
transformers then keeps attention inside it). Rows are streamed: memory does not grow with the corpus. What the task
must know of the whole corpus, such as its labels, goes into `data/tokens/corpus_info.json`.
"""

import bisect
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.utils.logging import disable_progress_bar
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from pipeline import base_fit, fit_warnings, params, paths
from pipeline.canaries import texts_to_plant
from pipeline.command import UserError, warn
from pipeline.data_hash import NOT_LEARNED, DataHash
from pipeline.modeling.batches import TokenRow
from pipeline.modeling.context import check_prompts
from pipeline.modeling.loading import load_config, load_tokenizer
from pipeline.tasks.padding import padded_row
from pipeline.tasks.protocol import CorpusInfo, Document, Task, TokenColumn
from pipeline.tasks.registry import get_task
from pipeline.workspace import run_stage

SPLITS = ("train", "validation", "test")
_TEXTS_PER_CHUNK = 1000  # for the tokenizer, whose threads share them
_TOKENS_PER_WINDOW = 2**23  # packed together: 32 MB, and some ten thousand documents to choose from

Tokens = np.ndarray[tuple[int], np.dtype[np.int32]]


def main() -> None:
    """Run the stage."""
    all_params = params.load()
    config, task = all_params.tokenize, get_task(all_params.task, all_params.task_config)
    context = task.context(load_config(paths.BASE))
    _check_settings(config, all_params.task, task, context)
    tokenizer = load_tokenizer(paths.BASE)
    check_prompts(all_params.evaluate.prompts, tokenizer, context)
    planted = _planted_texts(task, tokenizer, config)
    info = task.corpus_info(_clean(paths.CLEAN))
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
            rows = chain(_rows_of(split), planted if split == "train" else [])
            identity = "".join([f"{budget['data']} {split}", *(row["text"] for row in planted if split == "train")])
            writer = TokenWriter(task, tokenizer, config, info)
            dataset[split], budget["splits"][split] = writer.dataset(rows, scratch, identity)
        dataset.save_to_disk(paths.TOKENS)
    if info:
        paths.CORPUS_INFO.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    paths.TOKEN_BUDGET.parent.mkdir(parents=True, exist_ok=True)
    paths.TOKEN_BUDGET.write_text(json.dumps(budget, indent=2) + "\n", encoding="utf-8")
    columns = task.token_columns(tokenizer, config.max_length, info)
    _check_base_fit(all_params, context, columns, budget["splits"].values())


def _check_settings(config: params.Tokenize, name: str, task: Task, context: int) -> None:
    """Raise UserError for settings of `tokenize` that the base or the task excludes, all of them at once."""
    problems = []
    if config.max_length > context:
        problems.append(
            f"tokenize.max_length: found {config.max_length}, but the base's context is {context} tokens;"
            f" set it to {context} or less"
        )
    if not task.packs:
        if config.strategy == "pack":
            problems.append(f"tokenize.strategy: found pack, but a row of {name} is read by itself; set it to pad")
        if config.canaries:
            problems.append(f"tokenize.canaries: found {config.canaries}, but {name} repeats no texts; set it to 0")
    if problems:
        raise UserError("\n".join(f"params.yaml: {problem}" for problem in problems))


def _check_base_fit(
    all_params: params.Params, context: int, columns: Mapping[str, TokenColumn], budgets: Iterable[dict[str, int]]
) -> None:
    """Warn, and write down, where the base does not know the corpus's language, or rows lose much of the texts."""
    total: Counter[str] = sum(map(Counter, budgets), Counter())
    truncated = total["truncated"] / max(1, total["kept"] + total["truncated"])
    task = get_task(all_params.task, all_params.task_config)
    fit = base_fit.measure((row["text"] for row in _rows_of("train")), task, truncated)
    warnings = (
        base_fit.warnings(fit, all_params.base, all_params.tokenize.max_length, context, packs=task.packs)
        if fit
        else {}
    ) | _target_warnings(columns, total)
    for sentence in warnings.values():
        warn(sentence)
    fit_warnings.write(asdict(fit) if fit else {}, warnings, all_params)


def _target_warnings(columns: Mapping[str, TokenColumn], total: Mapping[str, int]) -> dict[str, str]:
    """Return the warnings about columns with a length of their own, by the column."""
    found = {
        name: base_fit.target_warning(column.key, column.length or 0, total[f"{name}_kept"], total[f"{name}_truncated"])
        for name, column in columns.items()
        if column.key
    }
    return {name: sentence for name, sentence in found.items() if sentence}


def _planted_texts(task: Task, tokenizer: PreTrainedTokenizerBase, config: params.Tokenize) -> list[dict[str, str]]:
    """Return the canaries as rows; raises UserError where a row is too short for one to be learned."""
    planted = [{"text": text} for text in texts_to_plant(config.canaries, config.canary_repeats)]
    made = task.documents(planted, tokenizer, config.max_length, {}) if planted else []
    longest = max((len(document.columns["input_ids"]) for document in made), default=0)
    if longest > config.max_length:
        raise UserError(
            f"params.yaml: tokenize.max_length: found {config.max_length}, but a canary takes up to {longest} tokens; "
            f"set it to {longest} or more, or tokenize.canaries to 0"
        )
    return planted


def _md5() -> Any:
    """Return the hash by which DVC names files; it protects no secret."""
    return hashlib.md5(usedforsecurity=False)


def _clean(path: Path) -> Iterator[dict[str, Any]]:
    """Yield each clean row, in order, with a chunk of rows in memory."""
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as clean:  # else it keeps all that it has read
        names = [name for name in clean.schema_arrow.names if name != "row"]
        for rows in clean.iter_batches(_TEXTS_PER_CHUNK, columns=names):
            yield from rows.to_pylist()


def _rows_of(split: str) -> Iterator[dict[str, Any]]:
    return (row for row in _clean(paths.CLEAN) if row["split"] == split)


def data_hash(clean: Iterable[Mapping[str, Any]]) -> str:
    """Return the hash of the clean rows, in order."""
    data = DataHash()
    for row in clean:
        data.add(row["split"], row["text"], [row[name] for name in row if name not in ("split", "text", *NOT_LEARNED)])
    return data.hexdigest()


@dataclass(frozen=True)
class TokenWriter:
    """Makes the token rows of a split."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    config: params.Tokenize
    info: CorpusInfo

    def dataset(
        self, rows: Iterable[Mapping[str, Any]], scratch: Path, identity: str = ""
    ) -> tuple[Dataset, dict[str, int]]:
        """Return the token rows, and the budget: documents, rows, and tokens kept, padding, truncated.

        The dataset's bytes on disk depend on the rows, the tokenizer and the settings alone: its fingerprint, which
        `datasets` would derive from paths and times, is a hash of these.

        Args:
            rows: The clean rows.
            scratch: A folder for the dataset's cache, which is mapped into memory.
            identity: Stands for the rows in the fingerprint.
        """
        budget: Counter[str] = Counter(documents=0, rows=0, kept=0, padding=0, truncated=0)
        columns = self.task.token_columns(self.tokenizer, self.config.max_length, self.info)
        # Canaries are documents like others.
        shape = self.config.model_dump(exclude={"canaries", "canary_repeats"}) | (self.info and {"info": self.info})
        fingerprint = json.dumps([identity, self.tokenizer.get_vocab(), shape], sort_keys=True)

        def token_rows() -> Iterator[TokenRow]:
            yield from self._rows(rows, columns, budget)

        dataset = Dataset.from_generator(
            token_rows,
            features=_features(columns, self.config.strategy),
            fingerprint=hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()[:16],
            cache_dir=tempfile.mkdtemp(dir=scratch),  # a new one: `datasets` would reuse a cache that exists
        )
        return dataset, dict(budget)

    def _rows(
        self, rows: Iterable[Mapping[str, Any]], columns: dict[str, TokenColumn], budget: Counter[str]
    ) -> Iterator[TokenRow]:
        documents = self._documents(rows, budget)
        if self.config.strategy == "pack":
            ids = (document.columns["input_ids"] for document in documents)
            filled = _pack(ids, self.config.max_length, columns["input_ids"].fill, budget)
        else:
            filled = _pad(documents, columns, budget)
        for row in filled:
            budget["rows"] += 1
            yield row

    def _documents(self, rows: Iterable[Mapping[str, Any]], budget: Counter[str]) -> Iterator[Document]:
        """Yield the document of each row, tokenized in chunks."""
        remaining = iter(rows)
        while chunk := list(islice(remaining, _TEXTS_PER_CHUNK)):
            for document in self.task.documents(chunk, self.tokenizer, self.config.max_length, self.info):
                budget["documents"] += 1
                yield document


def _features(columns: Mapping[str, TokenColumn], strategy: str) -> Features:
    """Return the features of the token rows: the task's columns, and the mask of the padding or the positions."""
    of_columns = {
        name: Value(column.dtype) if column.length is None else List(Value(column.dtype), length=column.length)
        for name, column in columns.items()
    }
    mask = {"pad": "attention_mask", "pack": "position_ids"}[strategy]
    ids = of_columns.pop("input_ids")
    return Features({"input_ids": ids, mask: ids, **of_columns})


def _pad(documents: Iterable[Document], columns: Mapping[str, TokenColumn], budget: Counter[str]) -> Iterator[TokenRow]:
    """Yield one row per document, see `padded_row`."""
    length = columns["input_ids"].length or 0
    for document in documents:
        ids = document.columns["input_ids"]
        kept = min(length, len(ids))
        budget["kept"] += kept
        budget["truncated"] += len(ids) - kept + document.truncated
        budget["padding"] += length - kept
        for name, column in columns.items():
            if column.key:
                tokens = len(document.columns[name])
                budget[f"{name}_kept"] += min(column.length or 0, tokens)
                budget[f"{name}_truncated"] += max(0, tokens - (column.length or 0))
        yield padded_row(document, columns)


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
