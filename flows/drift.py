"""Drift: whether new texts are harder for the champion than the test rows were at its promotion, beyond noise.

The service keeps no texts, so drift is measured on rows of the corpus that the last validate has not seen, or on a file
of texts that somebody names.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

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

_SAMPLE = 1000  # texts to score: GPT-2 takes 2 minutes for them on 2 cores, and the interval is narrow enough
_METRICS = ("perplexity", "perplexity_low", "perplexity_high")


@dataclass(frozen=True)
class Drift:
    """The ratio of two perplexities of the champion, of new texts and of the test rows, with its interval.

    Args:
        ratio: The ratio.
        low: The lower end of its confidence interval.
        high: The upper end.
        rows: The number of new texts.
        bound: `watch.drift`.
        drifted: Whether `low` is above the bound.
        champion: The champion's version.
        perplexity: Of the new texts.
        reference: Of the test rows, at the champion's promotion.
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

    @property
    def sentence(self) -> str:
        """The ratio and the bound in a few words."""
        comparison = ">" if self.drifted else "not beyond noise above"
        return f"drift {self.ratio:.2f} {comparison} {self.bound:.2f}"

    def markdown(self, source: str) -> str:
        """Return the figures as a page; `source` names the texts."""
        title = "Drift" if self.drifted else "No drift"
        return (
            f"# {title} in {escape.markdown(source)}\n\n| | |\n|---|---|\n"
            f"| ratio of perplexities (interval) | {self.ratio:.3f} ({self.low:.3f} to {self.high:.3f}) |\n"
            f"| bound (`watch.drift`) for the lower end of the interval | {self.bound:.3f} |\n"
            f"| perplexity of these texts | {self.perplexity:.2f} |\n"
            f"| perplexity of the test rows at promotion | {self.reference:.2f} |\n"
            f"| texts | {self.rows:,} |\n| champion | {escape.markdown(self.champion)} |\n"
        )


def new_texts(root: Path, config: params.Params) -> list[str]:
    """Return a sample of the corpus's texts that the last validate has not seen and that pass all rules for one row.

    The sample is the 1,000 texts with the smallest hashes, so it is deterministic and independent of their order.
    Raises UserError if the corpus cannot be read.
    """
    seen = np.sort(np.fromiter(map(_digest, _validated_texts(root, config)), np.uint64))
    return _sample(_read_texts(root / config.data.path, config), seen, config)


def read_texts(path: Path, config: params.Params) -> list[str]:
    """Return such a sample of the texts of a file in the form of the corpus; raises UserError if it cannot be read."""
    return _sample(_read_texts(path, config), np.zeros(0, np.uint64), config)


def measure_drift(texts: list[str], config: params.Params, champion: Version) -> Drift | None:
    """Return the drift of `texts`; None if there are fewer than `watch.drift_rows`.

    Raises UserError if the champion was registered without its metrics.
    """
    if len(texts) < config.watch.drift_rows:
        return None
    recorded = champion.metadata.get("figures", {})
    if missing := [name for name in _METRICS if name not in recorded]:
        raise UserError(
            f"{champion.tag} was registered without {', '.join(missing)}, with which drift is compared; promote a "
            "model with `fresh promote`"
        )
    metrics = get_suite(config.task).text_metrics(champion.folder, texts, config.evaluate)
    ratio, low, high = perplexity_ratio(metrics, recorded)
    return Drift(
        ratio=ratio,
        low=low,
        high=high,
        rows=len(texts),
        bound=config.watch.drift,
        drifted=low > config.watch.drift,
        champion=champion.version,
        perplexity=metrics["perplexity"],
        reference=recorded["perplexity"],
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


def _read_texts(path: Path, config: params.Params) -> Iterator[str]:
    file = sniff_format(path, config.data, config.validate_)
    check_columns(file, config.validate_)
    text = text_builder(file.columns, config.validate_)
    for chunk in read_chunks(file, config.data):
        yield from map(normalize_newlines, map(text, chunk.fields))


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


def _sample(texts: Iterable[str], seen: npt.NDArray[np.uint64], config: params.Params) -> list[str]:
    """Return the texts with the smallest digests that are not in `seen` (sorted) and pass all rules for one row."""
    kept: dict[int, str] = {}
    for text in texts:
        digest = _digest(text)
        position = int(np.searchsorted(seen, np.uint64(digest)))
        if position < len(seen) and int(seen[position]) == digest:
            continue
        kept.setdefault(digest, text)
        if len(kept) > 4 * _SAMPLE:
            kept = dict(sorted(kept.items())[: 2 * _SAMPLE])
    candidates = [text for _, text in sorted(kept.items())][: 2 * _SAMPLE]
    if not candidates:
        return []
    rules = config.validate_.rules
    critical, _ = Checker(row_suite(rules)).check(pd.DataFrame(compute_row_metrics(candidates, rules)))
    return [text for text, reasons in zip(candidates, critical, strict=True) if not reasons][:_SAMPLE]


def _digest(text: str) -> int:
    return int.from_bytes(text_digest(normalize_text(text))[:8], "big")
