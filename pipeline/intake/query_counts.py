"""How the clean rows of a corpus of pairs fall into queries, and which queries a ranking learns nothing from."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.intake.splits import normalize_text, text_digest
from pipeline.tasks.columns import Columns


class Queries(NamedTuple):
    """Numbers of queries; one can be counted as `single` and as one of the last two."""

    queries: int
    single: int  # with one passage: there is nothing to order
    irrelevant: int  # no passage of theirs is relevant, so that ranking figures are not defined
    alike: int  # of several passages, all equally relevant and more than 0: any order is right


class QueryCounts:
    """Counts queries where the task splits by a column and has a number for each row; keeps 17 bytes a row."""

    def __init__(self, columns: Columns) -> None:
        """Start without rows."""
        self._query = next((column for column in columns.kept if column.source == columns.split_by), None)
        self._number = next((column for column in columns.kept if column.kind == "number"), None)
        self._parts: list[tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.bool_]]] = []

    def add(self, clean_rows: pa.Table) -> None:
        """Add a chunk of clean rows."""
        if self._query is None or self._number is None:
            return
        digests = b"".join(text_digest(normalize_text(query))[:8] for query in clean_rows[self._query.name].to_pylist())
        values = clean_rows[self._number.name].to_numpy()
        is_training = pc.equal(clean_rows["split"], "train").to_numpy()
        self._parts.append((np.frombuffer(digests, dtype=np.uint64), values, is_training))

    def counts(self) -> Queries | None:
        """Return the numbers of queries; None where the task has none."""
        if not self._parts:
            return None
        keys, values, _ = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.argsort(keys, kind="stable")
        _, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
        if len(starts) == 0:
            return Queries(0, 0, 0, 0)
        least, most = (function.reduceat(values[order], starts) for function in (np.minimum, np.maximum))
        alike = (sizes > 1) & (least == most) & (most > 0)
        return Queries(len(starts), *(int(chosen.sum()) for chosen in (sizes == 1, most == 0, alike)))

    def as_json(self) -> dict[str, dict[str, int]]:
        """Return the counts for the stage's metrics, {} where the task has none."""
        counts = self.counts()
        return {"queries": counts._asdict()} if counts else {}

    def problem(self) -> str:
        """Return why no model can be trained on these pairs, as a clause; "" where one can."""
        if not self._parts or self._number is None:
            return ""
        _, values, is_training = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        learned = np.unique(values[is_training])
        if len(learned) != 1:
            return ""
        return (
            f"the column {self._number.source!r} ({self._number.key}) is {learned[0]:g} in every training row, so there"
            " is nothing to tell apart"
        )

    def warnings(self) -> list[str]:
        """Return what a person should know of these queries, a sentence each."""
        counts = self.counts()
        if counts is None:
            return []
        sentences = [
            (counts.single, "have one passage, so no order of theirs is learned or measured: add passages"),
            (counts.irrelevant, "have no relevant passage: they train, but no ranking figure counts them"),
            (counts.alike, "have passages that are all equally relevant, so any order is right: add irrelevant ones"),
        ]
        return [f"warning: {some} of {counts.queries} queries {what}" for some, what in sentences if some]
