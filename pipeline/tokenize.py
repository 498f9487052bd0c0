"""Stage `tokenize`: clean texts become rows of tokens of one length, a `datasets.DatasetDict` with the three splits.

Each text is a document: start token, text, end token (for GPT-2 both are `<|endoftext|>`), so that a model learns
how texts begin and how they end. `pad` makes a row of each document, truncated or padded (`input_ids`,
`attention_mask`). `pack` fills rows with whole documents (`input_ids`, `position_ids`, which restart at each
document: transformers then keeps attention inside it).
"""

import bisect
import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.utils.logging import disable_progress_bar
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from pipeline import params, paths
from pipeline.command import UserError, run

SPLITS = ("train", "validation", "test")
_TEXTS_AT_ONCE = 1000  # handed to the tokenizer, whose threads share them

Row = dict[str, list[int]]


def main() -> None:
    """Run the stage."""
    wanted = params.load().tokenize
    context = context_of(AutoConfig.from_pretrained(paths.BASE))
    if wanted.max_length > context:
        raise UserError(
            f"params.yaml: tokenize.max_length: found {wanted.max_length}, but the base reads {context} tokens at most"
        )
    tokenizer = AutoTokenizer.from_pretrained(paths.BASE)
    clean = pd.read_parquet(paths.CLEAN)
    disable_progress_bar()

    shutil.rmtree(paths.TOKENS, ignore_errors=True)
    dataset = DatasetDict()
    budget: dict[str, Any] = {"data": data_hash(clean), "splits": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for split in SPLITS:
            texts = clean.loc[clean["split"] == split, "text"]
            dataset[split], budget["splits"][split] = token_rows(texts.tolist(), tokenizer, wanted, scratch)
        dataset.save_to_disk(paths.TOKENS)
    paths.TOKEN_BUDGET.parent.mkdir(parents=True, exist_ok=True)
    paths.TOKEN_BUDGET.write_text(json.dumps(budget, indent=2) + "\n", encoding="utf-8")


def data_hash(clean: pd.DataFrame) -> str:
    """Return the SHA-256 of the clean texts and their splits, in order: what "data" means in every later record."""
    total = hashlib.sha256()
    for split, text in zip(clean["split"], clean["text"], strict=True):
        total.update(f"{split}\0{text}\0".encode())
    return total.hexdigest()


def token_rows(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, wanted: params.Tokenize, scratch: str
) -> tuple[Dataset, dict[str, int]]:
    """Return the rows for `texts`, each of `wanted.max_length` tokens, and where the tokens went.

    The budget counts documents, rows, and tokens: kept, padding, truncated (cut off and lost).
    The dataset's bytes on disk depend on nothing but `texts`, the tokenizer and `wanted`: its fingerprint, which
    `datasets` would draw from paths and times, is a hash of these. `scratch` is a folder for its cache.
    """
    _, end = start_and_end(tokenizer)
    fill = {"pad": _pad, "pack": _pack}[wanted.strategy]
    budget: Counter[str] = Counter(documents=0, rows=0, kept=0, padding=0, truncated=0)

    def rows() -> Iterator[Row]:
        for row in fill(_documents(texts, tokenizer, budget), wanted.max_length, end, budget):
            budget["rows"] += 1
            yield row

    columns = ("input_ids", {"pad": "attention_mask", "pack": "position_ids"}[wanted.strategy])
    content = json.dumps([texts, tokenizer.get_vocab(), wanted.model_dump()], sort_keys=True)
    dataset = Dataset.from_generator(
        rows,
        features=Features({column: List(Value("int32"), length=wanted.max_length) for column in columns}),
        fingerprint=hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        cache_dir=scratch,
    )
    return dataset, dict(budget)


def context_of(config: PreTrainedConfig) -> int:
    """Return how many tokens a model reads at most; a model without position embeddings sets no limit."""
    context: int = getattr(config, "max_position_embeddings", sys.maxsize)
    return context


def start_and_end(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the ids of the tokens before and behind a text; GPT-2 has one, `<|endoftext|>`, for both."""
    end = tokenizer.eos_token_id
    start = tokenizer.bos_token_id
    return (end if start is None else start), end


def _documents(texts: list[str], tokenizer: PreTrainedTokenizerBase, budget: Counter[str]) -> Iterator[list[int]]:
    """Yield the token ids of each text between its start and its end token."""
    start, end = start_and_end(tokenizer)
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        chunk = texts[first : first + _TEXTS_AT_ONCE]
        for ids in tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]:
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
    """Yield rows filled with whole documents, the longest first, each into the fullest row that still has room.

    This is best-fit decreasing (Johnson 1974, at most 11/9 of the fewest rows possible). A document above `length`
    goes on in a row of its own and loses nothing. Padding has position 0, which no label is made for.
    """
    pieces = [document[at : at + length] for document in documents for at in range(0, len(document), length)]
    rows: list[list[list[int]]] = []
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
    for packed in rows:
        kept = [token for piece in packed for token in piece]
        missing = length - len(kept)
        budget["kept"] += len(kept)
        budget["padding"] += missing
        yield {
            "input_ids": kept + [padding] * missing,
            "position_ids": [position for piece in packed for position in range(len(piece))] + [0] * missing,
        }


if __name__ == "__main__":
    run(main)
