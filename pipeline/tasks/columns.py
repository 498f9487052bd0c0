"""What a task needs of the corpus's columns: `validate` checks them, keeps them and splits by them. Light to import."""

import json
import math
from dataclasses import dataclass
from typing import Literal

Value = str | float | list[str]


@dataclass(frozen=True)
class Column:
    """A column of the corpus that the clean rows keep beside their text."""

    name: str  # in clean.parquet
    source: str  # in the corpus
    key: str  # of params.yaml, which names `source`
    kind: Literal["text", "label", "labels", "number"]
    separator: str = ""  # of `labels`: json for a list in JSON, else what stands between two
    min_rows: int = 0  # of labels: one that fewer clean rows have is reported
    most: float = math.inf  # of a number

    def read(self, cell: str) -> Value:
        """Return the value of any cell; raises ValueError for a blank one too."""
        if not cell.strip():
            raise ValueError(f"a {self.name}")
        return self.parse(cell)

    def parse(self, cell: str) -> Value:
        """Return the value of a cell that is not blank; raises ValueError, whose text says what is expected."""
        if self.kind == "text":
            return cell
        if self.kind == "label":
            return _label(cell)
        return self._number(cell) if self.kind == "number" else _labels(cell, self.separator)

    @property
    def expected(self) -> str:
        """What a cell should hold, for a sentence."""
        number = "a number from 0 on" if math.isinf(self.most) else f"a number from 0 to {self.most:g}"
        return {"text": "text", "label": "one label", "labels": "a list of labels", "number": number}[self.kind]

    def _number(self, cell: str) -> float:
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and 0 <= value <= self.most):
            raise ValueError(self.expected)
        return value


def _label(cell: str) -> str:
    if cell.lstrip().startswith("["):
        try:
            is_list = isinstance(json.loads(cell), list)
        except ValueError:
            is_list = False
        if is_list:
            raise ValueError("one label; with `separator: json` beside it in params.yaml a cell is a list")
    return cell.strip()


def _labels(cell: str, separator: str) -> list[str]:
    if separator != "json":
        return list(dict.fromkeys(filter(None, (part.strip() for part in cell.split(separator)))))
    try:
        labels = json.loads(cell)
    except ValueError:
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ValueError('a list of labels in JSON, such as ["billing", "refund"]')
    return list(dict.fromkeys(label.strip() for label in labels))


@dataclass(frozen=True)
class Columns:
    """The columns of a task; the defaults are those of a task that needs texts alone."""

    kept: tuple[Column, ...] = ()
    texts: tuple[str, ...] = ()  # the corpus's columns whose lines make the text; empty: validate.column or template
    split_by: str = ""  # the corpus's column whose equal values stay in one split; empty: the text
    compares_near_copies: bool = True  # whether near-copies of a text are copies for this task

    def key_of(self, source: str) -> str:
        """Return the key of params.yaml that names this column of the corpus; "" if none of the task's does."""
        return next((column.key for column in self.kept if column.source == source), "")
