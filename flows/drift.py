"""Drift: whether new rows are harder for the champion than the test rows were at its promotion, beyond noise.

The service keeps no texts, so drift is measured on rows of the corpus that the last validate has not seen, or on a file
of rows that somebody names. What is hard depends on the task: a text is, where the model continues texts, and a label
is, where it classifies them.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from pipeline import escape, params, paths
from pipeline.command import UserError
from pipeline.evaluation.suite import get_suite
from pipeline.intake.columns import check_columns
from pipeline.intake.file_format import RESERVED_COLUMNS
from pipeline.intake.quarantine import unescape_formula
from pipeline.intake.reader import read_chunks
from pipeline.intake.row_metrics import compute_row_metrics
from pipeline.intake.rules import Checker, row_suite
from pipeline.intake.sniff import sniff_format
from pipeline.intake.splits import normalize_text, text_digest
from pipeline.intake.text_builder import normalize_newlines, text_builder
from pipeline.modeling.nats import exp
from pipeline.registry.versions import Version

Row = Mapping[str, Any]  # its text, and the columns of the task
_SAMPLE = 1000  # rows to score: GPT-2 takes 2 minutes for them on 2 cores, and the interval is narrow enough
_METRICS = ("perplexity", "perplexity_low", "perplexity_high")


@dataclass(frozen=True)
class Drift:
    """The ratio of two perplexities of the champion, of new rows and of the test rows, with its interval.

    Args:
        ratio: The ratio.
        low: The lower end of its confidence interval.
        high: The upper end.
        rows: The number of new rows.
        bound: `watch.drift`.
        drifted: Whether `low` is above the bound.
        champion: The champion's version.
        perplexity: Of the new rows.
        reference: Of the test rows, at the champion's promotion.
        quantity: What perplexity is called in this task.
    """

    ratio: float
    low: float
    high: float
    rows: int
    bound: float
    drifted: bool
    champion: str
    perplexity: float
    reference: float
    quantity: str = "perplexity"

    @property
    def sentence(self) -> str:
        """The ratio and the bound in a few words."""
        comparison = ">" if self.drifted else "not beyond noise above"
        of = "" if self.quantity == "perplexity" else f" of the {self.quantity}"
        return f"drift{of} {self.ratio:.2f} {comparison} {self.bound:.2f}"

    def markdown(self, source: str) -> str:
        """Return the figures as a page; `source` names the texts."""
        title = "Drift" if self.drifted else "No drift"
        return (
            f"# {title} in {escape.markdown(source)}\n\n| | |\n|---|---|\n"
            f"| ratio of {self.quantity} (interval) | {self.ratio:.3f} ({self.low:.3f} to {self.high:.3f}) |\n"
            f"| bound (`watch.drift`) for the lower end of the interval | {self.bound:.3f} |\n"
            f"| {self.quantity} of these rows | {self.perplexity:.2f} |\n"
            f"| {self.quantity} of the test rows at promotion | {self.reference:.2f} |\n"
            f"| rows | {self.rows:,} |\n| champion | {escape.markdown(self.champion)} |\n"
        )


def new_rows(root: Path, config: params.Params) -> list[Row]:
    """Return a sample of the corpus's rows that the last validate has not seen and that pass all rules for one row.

    The sample is the 1,000 rows whose texts have the smallest hashes, so it is deterministic and independent of their
    order. Raises UserError if the corpus cannot be read.
    """
    seen = np.sort(np.fromiter(map(_digest, _validated_texts(root, config)), np.uint64))
    return _sample(_read_rows(root / config.data.path, config), seen, config)


def read_rows(path: Path, config: params.Params) -> list[Row]:
    """Return such a sample of the rows of a file in the form of the corpus; raises UserError if it cannot be read."""
    return _sample(_read_rows(path, config), np.zeros(0, np.uint64), config)


def measure_drift(rows: Sequence[Row], config: params.Params, champion: Version) -> Drift | None:
    """Return the drift of `rows`; None if there are fewer than `watch.drift_rows`.

    Raises UserError if the champion was registered without its metrics.
    """
    if len(rows) < config.watch.drift_rows:
        return None
    recorded = champion.metadata.get("figures", {})
    if missing := [name for name in _METRICS if name not in recorded]:
        raise UserError(
            f"{champion.tag} was registered without {', '.join(missing)}, with which drift is compared; promote a "
            "model with `fresh promote`"
        )
    suite = get_suite(config.task, config.task_config)
    metrics = suite.row_metrics(champion.folder, rows, config.evaluate)
    ratio, low, high = perplexity_ratio(metrics, recorded)
    return Drift(
        ratio=ratio,
        low=low,
        high=high,
        rows=len(rows),
        bound=config.watch.drift,
        drifted=low > config.watch.drift,
        champion=champion.version,
        perplexity=metrics["perplexity"],
        reference=recorded["perplexity"],
        quantity=suite.quantity.name,
    )


def perplexity_ratio(metrics: Mapping[str, float], reference: Mapping[str, float]) -> tuple[float, float, float]:
    """Return the ratio of two perplexities of different texts, and its confidence interval.

    Combines both intervals, as logarithms, by the MOVER method: Zou and Donner 2008, Construction of confidence
    intervals about effect measures, Statistics in Medicine 27(10).
    """
    (new, new_low, new_high), (old, old_low, old_high) = (
        [math.log(values[name]) for name in _METRICS] for values in (metrics, reference)
    )
    difference = new - old  # nats per token
    low = difference - math.hypot(new - new_low, old_high - old)
    high = difference + math.hypot(new_high - new, old - old_low)
    return exp(difference), exp(low), exp(high)


def _read_rows(path: Path, config: params.Params) -> Iterator[Row]:
    """Yield the rows of a file whose columns of the task can be read; `validate` refuses the others."""
    file = sniff_format(path, config.data, config.validate_)
    check_columns(file, config.validate_)
    text = text_builder(file.columns, config.validate_)
    kept = [(column, file.columns.index(column.source)) for column in config.validate_.columns.kept]
    for chunk in read_chunks(file, config.data):
        for fields in chunk.fields:
            try:
                values = {column.name: column.read(fields[place]) for column, place in kept}
            except ValueError:
                continue
            yield {"text": normalize_newlines(text(fields)), **values}


def _validated_texts(root: Path, config: params.Params) -> Iterator[str]:
    """Yield the texts that the last validate read, clean or quarantined; none if there was none."""
    if (root / paths.CLEAN).exists():
        with pq.ParquetFile(root / paths.CLEAN) as clean:
            for batch in clean.iter_batches(columns=["text"]):
                yield from batch["text"].to_pylist()
    if (root / paths.QUARANTINE).exists():
        with (root / paths.QUARANTINE).open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows)
            columns = [column for column, name in enumerate(header) if name not in RESERVED_COLUMNS]
            text = text_builder([unescape_formula(header[column]) for column in columns], config.validate_)
            for row in rows:
                yield text([unescape_formula(row[column]) for column in columns])


def _sample(rows: Iterable[Row], seen: npt.NDArray[np.uint64], config: params.Params) -> list[Row]:
    """Return the rows with the smallest digests that are not in `seen` (sorted) and pass all rules for one row."""
    kept: dict[int, Row] = {}
    for row in rows:
        digest = _digest(row["text"])
        position = int(np.searchsorted(seen, np.uint64(digest)))
        if position < len(seen) and int(seen[position]) == digest:
            continue
        kept.setdefault(digest, row)
        if len(kept) > 4 * _SAMPLE:
            kept = dict(sorted(kept.items())[: 2 * _SAMPLE])
    candidates = [kept[digest] for digest in sorted(kept)][: 2 * _SAMPLE]
    if not candidates:
        return []
    rules = config.validate_.rules
    row_metrics = compute_row_metrics([row["text"] for row in candidates], rules)
    critical, _ = Checker(row_suite(rules)).check(pd.DataFrame(row_metrics))
    return [row for row, reasons in zip(candidates, critical, strict=True) if not reasons][:_SAMPLE]


def _digest(text: str) -> int:
    return int.from_bytes(text_digest(normalize_text(text))[:8], "big")
