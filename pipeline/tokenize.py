"""Stage `tokenize`: clean texts become rows of tokens of one length, a `datasets.DatasetDict` with the three splits.

Each text is a document: start token, text, end token (for GPT-2 both are `<|endoftext|>`), so that a model learns
how texts begin and how they end. `pad` makes a row of each document, truncated or padded (`input_ids`,
`attention_mask`). `pack` fills rows with whole documents (`input_ids`, `position_ids`, which restart at each
document: transformers then keeps attention inside it).

The clean rows are read as a stream and the rows of tokens written as they come: memory does not grow with the corpus.
"""

import bisect
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.utils.logging import disable_progress_bar
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from pipeline import params, paths
from pipeline.canaries import texts_to_plant
from pipeline.command import UserError
from pipeline.modeling.context import check_prompts, context_of, encoded_as_text, start_and_end
from pipeline.workspace import run_stage

SPLITS = ("train", "validation", "test")
_TEXTS_AT_ONCE = 1000  # handed to the tokenizer, whose threads share them
_TOKENS_AT_ONCE = 2**23  # packed together: 32 MB, and some ten thousand documents to choose from

Row = dict[str, list[int]]
Tokens = np.ndarray[tuple[int], np.dtype[np.int32]]


def main() -> None:
    """Run the stage."""
    all_params = params.load()
    wanted = all_params.tokenize
    context = context_of(AutoConfig.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False))
    if wanted.max_length > context:
        raise UserError(
            f"params.yaml: tokenize.max_length: found {wanted.max_length}, but the base reads {context} tokens at most"
        )
    tokenizer = AutoTokenizer.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False)
    check_prompts(all_params.evaluate.prompts, tokenizer, context)
    planted = _planted(tokenizer, wanted)
    disable_progress_bar()

    paths.clear(paths.TOKENS)
    dataset = DatasetDict()
    with paths.CLEAN.open("rb") as opened:
        clean_md5 = hashlib.file_digest(opened, _md5).hexdigest()
    budget: dict[str, Any] = {"data": data_hash(_clean(paths.CLEAN)), "clean_md5": clean_md5, "splits": {}}
    if planted:
        budget["canaries"] = len(planted)  # documents, counted among those of the train split
    with paths.scratch("tokenize") as scratch:
        for split in SPLITS:
            texts = (text for its_split, text in _clean(paths.CLEAN) if its_split == split)
            more = planted if split == "train" else []
            content = "".join([f"{budget['data']} {split}", *more])
            dataset[split], budget["splits"][split] = token_rows(
                chain(texts, more), tokenizer, wanted, scratch, content
            )
        dataset.save_to_disk(paths.TOKENS)
    paths.TOKEN_BUDGET.parent.mkdir(parents=True, exist_ok=True)
    paths.TOKEN_BUDGET.write_text(json.dumps(budget, indent=2) + "\n", encoding="utf-8")


def _planted(tokenizer: PreTrainedTokenizerBase, wanted: params.Tokenize) -> list[str]:
    """Return the canaries' texts; raises UserError where a row is too short for one, which so could not be learned."""
    planted = texts_to_plant(wanted.canaries, wanted.canary_repeats)
    longest = max(map(len, _documents(planted, tokenizer, Counter())), default=0)
    if longest > wanted.max_length:
        raise UserError(
            f"params.yaml: tokenize.max_length: found {wanted.max_length}, but a canary takes up to {longest} tokens; "
            f"set it to {longest} or more, or tokenize.canaries to 0"
        )
    return planted


def _md5() -> Any:
    """Return the hash by which DVC names files; nothing secret hangs on it."""
    return hashlib.md5(usedforsecurity=False)


def _clean(path: Path) -> Iterator[tuple[str, str]]:
    """Yield split and text of each clean row, in order, with only some of them in memory."""
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as clean:  # else it keeps all that it has read
        for rows in clean.iter_batches(_TEXTS_AT_ONCE, columns=["split", "text"]):
            yield from zip(rows["split"].to_pylist(), rows["text"].to_pylist(), strict=True)


def data_hash(clean: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of the splits and clean texts, in order: what "data" means in every later record."""
    total = hashlib.sha256()
    for split, text in clean:
        total.update(f"{split}\0{text}\0".encode())
    return total.hexdigest()


def token_rows(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, wanted: params.Tokenize, scratch: Path, content: str = ""
) -> tuple[Dataset, dict[str, int]]:
    """Return the rows for `texts`, each of `wanted.max_length` tokens, and where the tokens went.

    The budget counts documents, rows, and tokens: kept, padding, truncated (cut off and lost).
    The dataset's bytes on disk depend on nothing but `texts`, the tokenizer and `wanted`: its fingerprint, which
    `datasets` would draw from paths and times, is a hash of these; `content` stands for the texts in it. `scratch` is
    a folder for its cache, from which it is mapped into memory.
    """
    _, end = start_and_end(tokenizer)
    fill = {"pad": _pad, "pack": _pack}[wanted.strategy]
    budget: Counter[str] = Counter(documents=0, rows=0, kept=0, padding=0, truncated=0)

    def rows() -> Iterator[Row]:
        for row in fill(_documents(texts, tokenizer, budget), wanted.max_length, end, budget):
            budget["rows"] += 1
            yield row

    columns = ("input_ids", {"pad": "attention_mask", "pack": "position_ids"}[wanted.strategy])
    shape = wanted.model_dump(exclude={"canaries", "canary_repeats"})  # which are texts like others here
    identity = json.dumps([content, tokenizer.get_vocab(), shape], sort_keys=True)
    dataset = Dataset.from_generator(
        rows,
        features=Features({column: List(Value("int32"), length=wanted.max_length) for column in columns}),
        fingerprint=hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        cache_dir=tempfile.mkdtemp(dir=scratch),  # one of its own, for a cache that is there would be taken as it is
    )
    return dataset, dict(budget)


def _documents(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, budget: Counter[str]) -> Iterator[list[int]]:
    """Yield the token ids of each text between its start and its end token.

    A text that holds a special token's name, such as `<|endoftext|>`, holds these characters and not that token, here
    and wherever a text is read (`encoded_as_text`).
    """
    start, end = start_and_end(tokenizer)
    rest = iter(texts)
    while chunk := list(islice(rest, _TEXTS_AT_ONCE)):
        for ids in encoded_as_text(tokenizer, chunk)["input_ids"]:
            budget["documents"] += 1
            yield [start, *ids, end]


def _pad(documents: Iterable[list[int]], length: int, padding: int, budget: Counter[str]) -> Iterator[Row]:
    """Yield one row a document: cut at `length`, or filled up with `padding` that the mask hides."""
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


def _pack(documents: Iterable[list[int]], length: int, padding: int, budget: Counter[str]) -> Iterator[Row]:
    """Yield rows filled with whole documents; a document above `length` goes on in another row and loses nothing.

    Padding has position 0, which no label is made for.
    """
    pieces = (document[at : at + length] for document in documents for at in range(0, len(document), length))
    for together in _windows(pieces):
        for row in _best_fit(together, length):
            kept = np.concatenate(row)
            missing = length - len(kept)
            budget["kept"] += len(kept)
            budget["padding"] += missing
            yield {
                "input_ids": [*kept.tolist(), *[padding] * missing],
                "position_ids": [*(position for piece in row for position in range(len(piece))), *[0] * missing],
            }


def _windows(pieces: Iterable[list[int]]) -> Iterator[list[Tokens]]:
    """Yield `pieces` in groups of `_TOKENS_AT_ONCE` tokens, as arrays of 4 bytes a token."""
    group: list[Tokens] = []
    tokens = 0
    for piece in pieces:
        group.append(np.array(piece, np.int32))
        tokens += len(piece)
        if tokens >= _TOKENS_AT_ONCE:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def _best_fit(pieces: list[Tokens], length: int) -> list[list[Tokens]]:
    """Return rows of at most `length` tokens: the longest first, each into the fullest row that still has room.

    This is best-fit decreasing (Johnson 1974, at most 11/9 of the fewest rows possible).
    """
    rows: list[list[Tokens]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), ascending, so that bisect finds the best fit
    for piece in sorted(pieces, key=len, reverse=True):
        at = bisect.bisect_left(room, (len(piece), 0))
        if at == len(room):
            free, row = length, len(rows)
            rows.append([])
        else:
            free, row = room.pop(at)
        rows[row].append(piece)
        bisect.insort(room, (free - len(piece), row))
    return rows


if __name__ == "__main__":
    run_stage(main, inputs=(paths.BASE, paths.CLEAN))
