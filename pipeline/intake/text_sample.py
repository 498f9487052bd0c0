"""A sample of the clean texts, and how many tokens of the base each has."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class BottomKSample:
    """Bottom-k hash sample: the texts with the smallest keys, deterministic and independent of their order."""

    def __init__(self, size: int) -> None:
        """Start empty; keep at most `size` texts."""
        self._size = size
        self._keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.texts: list[str] = []

    def add(self, keys: NDArray[np.uint64], texts: pa.Array) -> None:
        """Add the texts of a chunk whose keys are small enough."""
        smallest = np.argsort(keys)[: self._size]
        merged = np.concatenate([self._keys, keys[smallest]])
        order = np.argsort(merged)[: self._size]
        known = len(self.texts)
        self.texts = [self.texts[at] if at < known else texts[smallest[at - known]].as_py() for at in order.tolist()]
        self._keys = merged[order]


def count_tokens(texts: list[str], tokenizer_file: Path) -> list[int]:
    """Return how many tokens each text has in training, with the one before and the one after it.

    Empty if there is no tokenizer yet; `dvc repro` makes the base first.
    """
    if not tokenizer_file.exists():
        return []
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as text, like `tokenize`
    return [len(encoding) + 2 for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def context_in(config_file: Path) -> int:
    """Return the context in tokens that a model's config.json states; 0 if it is not there or states none."""
    if not config_file.exists():
        return 0
    config = json.loads(config_file.read_text(encoding="utf-8"))
    return int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
