"""Drift: are new texts harder for the champion than the test rows were on which it was promoted, beyond noise?

The service keeps no texts, so what is measured are rows of the corpus that the last validate has not seen, or a file
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
from pipeline.intake.columns import check_columns, normalize_newlines, text_builder
from pipeline.intake.file_format import RESERVED_COLUMNS
from pipeline.intake.quarantine import unescape_formula
from pipeline.intake.reader import read_chunks
from pipeline.intake.row_metrics import compute_row_metrics
from pipeline.intake.rules import Checker, row_suite
from pipeline.intake.sniff import sniff_format
from pipeline.intake.splits import normalize_text, text_digest
from pipeline.modeling.nats import exp
from pipeline.registry.versions import Version

_MOST = 1000  # texts that are scored: GPT-2 takes 2 minutes for them on 2 cores, and the interval is narrow enough
_FIGURES = ("perplexity", "perplexity_low", "perplexity_high")


@dataclass(frozen=True)
class Drift:
    """The perplexity of new texts over that of the test rows, as a ratio with its interval."""

    ratio: float
    low: float
    high: float
    rows: int
    bound: float  # watch.drift
    drifted: bool  # `low` is above the bound
    champion: str  # its version
    perplexity: float  # of the new texts
    reference: float  # of the test rows, when it was promoted

    @property
    def sentence(self) -> str:
        """Return the ratio and the bound in a few words."""
        sign = ">" if self.drifted else "not beyond noise above"
        return f"drift {self.ratio:.2f} {sign} {self.bound:.2f}"

    def markdown(self, what: str) -> str:
        """Return the figures for people; `what` names the texts."""
        found = "Drift" if self.drifted else "No drift"
        return (
            f"# {found} in {escape.markdown(what)}\n\n| | |\n|---|---|\n"
            f"| ratio of perplexities (interval) | {self.ratio:.3f} ({self.low:.3f} to {self.high:.3f}) |\n"
            f"| bound (`watch.drift`), for the interval's lower end | {self.bound:.3f} |\n"
            f"| perplexity of these texts | {self.perplexity:.2f} |\n"
            f"| perplexity of the test rows, at promotion | {self.reference:.2f} |\n"
            f"| texts | {self.rows:,} |\n| champion | {escape.markdown(self.champion)} |\n"
        )


def new_texts(root: Path, wanted: params.Params) -> list[str]:
    """Return texts of the corpus that the last validate has not seen and no rule for single rows refuses.

    At most 1,000, as good as drawn at random. Raises UserError where the corpus cannot be read.
    """
    known = np.sort(np.fromiter(map(_digest, _validated(root, wanted)), np.uint64))
    return _clean_looking(_texts(root / wanted.data.path, wanted), known, wanted)


def read_texts(path: Path, wanted: params.Params) -> list[str]:
    """Return the texts of a file like the corpus, likewise; raises UserError where it cannot be read so."""
    return _clean_looking(_texts(path, wanted), np.zeros(0, np.uint64), wanted)


def measure_drift(texts: list[str], wanted: params.Params, champion: Version) -> Drift | None:
    """Return the drift of `texts`; None for fewer than watch.drift_rows.

    Raises UserError where the champion's figures were not recorded.
    """
    if len(texts) < wanted.watch.drift_rows:
        return None
    recorded = champion.metadata.get("figures", {})
    if missing := [name for name in _FIGURES if name not in recorded]:
        raise UserError(
            f"{champion.tag} was registered without {', '.join(missing)}, so drift cannot be held against it; promote "
            "a model with `python -m pipeline.promote`"
        )
    from pipeline.evaluate import load_model  # torch takes seconds to import
    from pipeline.evaluation import perplexity

    model, tokenizer = load_model(champion.folder)
    how = wanted.evaluate
    scored = perplexity.score(model, tokenizer, texts, how.batch_tokens, how.stride)
    found = perplexity.figures(scored, how.resamples, how.confidence, how.seed)
    ratio, low, high = perplexity_ratio(found, recorded)
    return Drift(
        ratio=ratio,
        low=low,
        high=high,
        rows=len(texts),
        bound=wanted.watch.drift,
        drifted=low > wanted.watch.drift,
        champion=champion.version,
        perplexity=found["perplexity"],
        reference=recorded["perplexity"],
    )


def perplexity_ratio(found: Mapping[str, float], reference: Mapping[str, float]) -> tuple[float, float, float]:
    """Return the ratio of two perplexities of different texts, and its interval.

    It combines both intervals, in the logarithm: Zou and Donner 2008, Construction of confidence intervals about
    effect measures, Statistics in Medicine 27(10) (MOVER).
    """
    (new, new_low, new_high), (old, old_low, old_high) = (
        [math.log(figures[name]) for name in _FIGURES] for figures in (found, reference)
    )
    nats = new - old
    low = nats - math.hypot(new - new_low, old_high - old)
    high = nats + math.hypot(new_high - new, old - old_low)
    return exp(nats), exp(low), exp(high)


def _texts(path: Path, wanted: params.Params) -> Iterator[str]:
    seen = sniff_format(path, wanted.data, wanted.validate_)
    check_columns(seen, wanted.validate_)
    text = text_builder(seen.columns, wanted.validate_)
    for chunk in read_chunks(seen, wanted.data):
        yield from map(normalize_newlines, map(text, chunk.fields))


def _validated(root: Path, wanted: params.Params) -> Iterator[str]:
    """Yield the texts that the last validate saw, clean or refused; none where there was none."""
    if (root / paths.CLEAN).exists():
        with pq.ParquetFile(root / paths.CLEAN) as clean:
            for batch in clean.iter_batches(columns=["text"]):
                yield from batch["text"].to_pylist()
    if (root / paths.QUARANTINE).exists():
        with (root / paths.QUARANTINE).open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows)
            of_corpus = [at for at, name in enumerate(header) if name not in RESERVED_COLUMNS]
            text = text_builder([unescape_formula(header[at]) for at in of_corpus], wanted.validate_)
            for row in rows:
                yield text([unescape_formula(row[at]) for at in of_corpus])


def _clean_looking(texts: Iterable[str], known: npt.NDArray[np.uint64], wanted: params.Params) -> list[str]:
    """Return those with the smallest digests that are not `known` (sorted) and keep to the rules for single rows."""
    kept: dict[int, str] = {}
    for text in texts:
        digest = _digest(text)
        at = int(np.searchsorted(known, np.uint64(digest)))
        if at < len(known) and int(known[at]) == digest:
            continue
        kept.setdefault(digest, text)
        if len(kept) > 4 * _MOST:
            kept = dict(sorted(kept.items())[: 2 * _MOST])
    drawn = [text for _, text in sorted(kept.items())][: 2 * _MOST]
    if not drawn:
        return []
    critical, _ = Checker(row_suite(wanted.validate_.rules)).check(
        pd.DataFrame(compute_row_metrics(drawn, wanted.validate_.rules))
    )
    return [text for text, reasons in zip(drawn, critical, strict=True) if not reasons][:_MOST]


def _digest(text: str) -> int:
    return int.from_bytes(text_digest(normalize_text(text))[:8], "big")
