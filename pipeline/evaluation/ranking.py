"""Figures of a ranking by query: nDCG@10, reciprocal rank and recall, each the expected value over ties.

Passages with equal scores have no order, so every order of them counts alike (McSherry and Najork, "Computing
Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores", ECIR 2008): a model that gives
all passages one score is worth what a random order is, however the rows are sorted.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import ndcg_score

from pipeline.evaluation.bootstrap import bootstrap_ratios, interval

Floats = npt.NDArray[np.float64]

NDCG = "ndcg@10"
_DEPTH = 10
_RECALL_AT = (1, 5, 10)
_HIGHEST = 30.0  # relevance; 2^30 is a gain beside which all others vanish


class QueryFigures(NamedTuple):
    """Figures of each query, NaN where it has no relevant passage: (queries,) each, in order of appearance."""

    first_row: npt.NDArray[np.int64]
    values: dict[str, Floats]  # "ndcg@10", "mrr", "recall@1", "recall@5", "recall@10"
    is_alike: npt.NDArray[np.bool_]  # all its passages are equally relevant, so that any order is the best


def query_figures(queries: Sequence[Hashable], relevance: npt.NDArray[Any], scores: npt.NDArray[Any]) -> QueryFigures:
    """Return the figures of each query.

    - ndcg@10: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 20(4), 2002, with the
      discount 1 / log2(rank + 1) and the gain 2^relevance - 1 (Burges et al., "Learning to Rank using Gradient
      Descent", ICML 2005), which for a relevance of 0 and 1 is the relevance itself.
    - mrr: 1 / rank of the first relevant passage (Voorhees, TREC-8 1999), without a cut.
    - recall@k: share of a query's relevant passages that are among the first k.

    A passage is relevant where its relevance is above 0.

    Args:
        queries: The query of each row, (rows,); its rows need not be neighbours.
        relevance: From 0 to 30, graded or 0 and 1, (rows,).
        scores: Of the model, higher is better, (rows,).

    Raises:
        ValueError: The lengths differ, a relevance is out of range, or a score is not finite.
    """
    relevance, scores = np.asarray(relevance, np.float64), np.asarray(scores, np.float64)
    if not len(queries) == len(relevance) == len(scores):
        raise ValueError(f"found {len(queries)} queries, {len(relevance)} relevances and {len(scores)} scores")
    if not ((relevance >= 0) & (relevance <= _HIGHEST)).all():
        raise ValueError(f"a relevance is below 0, above {_HIGHEST:g} or not a number; expected 0 to {_HIGHEST:g}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
    rows: dict[Hashable, list[int]] = {}
    for row, query in enumerate(queries):
        rows.setdefault(query, []).append(row)
    names = (NDCG, "mrr", *(f"recall@{k}" for k in _RECALL_AT))
    values = np.array([_figures(relevance[own], scores[own]) for own in rows.values()]).reshape(-1, len(names))
    return QueryFigures(
        np.array([own[0] for own in rows.values()], np.int64),
        dict(zip(names, values.T, strict=True)),
        np.array([len(set(relevance[own])) == 1 for own in rows.values()], bool),
    )


def ranking_metrics(figures: QueryFigures, resamples: int, confidence: float, seed: int) -> dict[str, Any]:
    """Return the means over the queries that have a relevant passage, with intervals by a bootstrap over queries.

    Each figure is None, and `undefined` says why, where no query has a relevant passage. `queries` counts those in the
    means, `queries_without_relevant` those left out, and `queries_alike` those in the means that any order serves.
    """
    counted = ~np.isnan(figures.values[NDCG])
    result: dict[str, Any] = {
        "queries": int(counted.sum()),
        "queries_without_relevant": int((~counted).sum()),
        "queries_alike": int((counted & figures.is_alike).sum()),
        "undefined": [],
    }
    if not counted.any():
        reason = f"none of {len(counted)} queries has a passage with a relevance above 0"
        result["undefined"].append(f"{', '.join(figures.values)} are not defined: {reason}")
    for name, values in figures.values.items():
        bounds: tuple[float | None, float | None] = (None, None)
        if counted.any():
            drawn = bootstrap_ratios(values[counted], np.ones(int(counted.sum())), resamples, seed)
            bounds = interval(drawn, confidence)
        result[name] = float(values[counted].mean()) if counted.any() else None
        result[f"{name}_low"], result[f"{name}_high"] = bounds
    return result


def row_figures(figures: QueryFigures, rows: int) -> dict[str, Floats]:
    """Return `ndcg@10` on the first row of each query, NaN elsewhere and without a relevant passage: (rows,)."""
    values = np.full(rows, np.nan)
    values[figures.first_row] = figures.values[NDCG]
    return {NDCG: values}


def _figures(relevance: Floats, scores: Floats) -> list[float]:
    """Return ndcg@10, the reciprocal rank and the recalls of one query."""
    is_relevant = relevance > 0
    if not is_relevant.any():
        return [np.nan] * (2 + len(_RECALL_AT))
    gains = np.exp2(relevance) - 1
    # sklearn averages the gains over ties, and refuses a single passage, whose only order is the best.
    ndcg = float(ndcg_score(gains[None], scores[None], k=_DEPTH)) if len(gains) > 1 else 1.0
    higher = 0  # passages above those with this score
    recalls, reciprocal = np.zeros(len(_RECALL_AT)), 0.0
    for score in np.unique(scores)[::-1]:
        tied, relevant = int((scores == score).sum()), int((is_relevant & (scores == score)).sum())
        if relevant and not reciprocal:
            reciprocal = _expected_reciprocal(higher, tied, relevant)
        recalls += [relevant * min(max(k - higher, 0), tied) / tied for k in _RECALL_AT]
        higher += tied
    return [ndcg, reciprocal, *(recalls / is_relevant.sum())]


def _expected_reciprocal(higher: int, tied: int, relevant: int) -> float:
    """Return the mean of 1 / rank of the first relevant passage over all orders of `tied` below `higher` others."""
    expected, none_before = 0.0, 1.0  # the chance that no relevant passage stands before this place
    for place in range(tied - relevant + 1):
        chance = relevant / (tied - place)
        expected += none_before * chance / (higher + place + 1)
        none_before *= 1 - chance
    return expected
