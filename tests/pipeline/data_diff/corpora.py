"""Small clean data sets, and comparisons of them."""

import html
import re
from pathlib import Path

import pandas as pd

from pipeline.data_diff.compare import diff
from pipeline.data_diff.result import DataDiff

HARBOUR = [
    f"The pilot of the {ship} took her out on the morning tide, and {what} on the way."
    for ship in ("Albatross", "Bonny Jean", "Cormorant", "Dunlin", "Eider", "Fulmar")
    for what in ("nobody said a word", "a gull stole the cook's bread", "the bell rang twice", "it rained for an hour")
]


def write(path: Path, texts: list[str], splits: list[str] | None = None) -> Path:
    """Write a clean data set; its rows are numbered as in a CSV with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = splits or [("train", "train", "validation", "test")[len(text) % 4] for text in texts]
    frame = pd.DataFrame({"row": range(2, len(texts) + 2), "text": texts, "split": splits})
    frame.astype({"row": "int64", "text": "str", "split": "str"}).to_parquet(path, index=False)
    return path


def compare_texts(folder: Path, old: list[str], new: list[str]) -> DataDiff:
    """Compare two lists of texts."""
    return diff(write(folder / "old.parquet", old), write(folder / "new.parquet", new), names=("old", "new"))


def row_counts(result: DataDiff) -> tuple[int, int, int, int]:
    """Return how many rows are unchanged, edited, removed and added."""
    return result.rows.unchanged, result.rows.edited, result.rows.removed, result.rows.added


def visible_text(page: str) -> str:
    """Return what a browser shows of a page, as one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
