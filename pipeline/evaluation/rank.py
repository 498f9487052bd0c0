"""The suite of ranking: log loss of each pair, and the order in which a model puts the passages of each query.

A base without a head for ranking says nothing, so a prior stands in for it: every pair has the mean relevance of the
training rows, and its ranking figures are the expectation over random orders. What words alone achieve is beside it, in
the reference figures.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from pipeline.evaluation import ranking
from pipeline.evaluation.quantity import Quantity
from pipeline.evaluation.rows import RowHeldOutData, RowSuite, loss_metrics, row_logits, sizes_of, token_scores
from pipeline.evaluation.scores import Scores
from pipeline.intake.splits import normalize_text
from pipeline.tasks.encoder import has_head
from pipeline.tasks.rank import MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from pipeline import params
    from pipeline.evaluation.rows import LoadedModel, Row

    Floats = npt.NDArray[np.float64]

_LEAST = 1e-6  # of a prior's probability, so that its loss is finite
_SHOWN_PASSAGES = 10


@dataclass(frozen=True)
class Prior:
    """What stands in for a base without a head: the same logit for every pair."""

    logit: float


class RankSuite(RowSuite):
    """See `pipeline.evaluation.suite.EvaluationSuite`."""

    quantity: ClassVar = Quantity("label perplexity", "row", "query", "queries")
    gates: ClassVar = "rank_gates"
    headline: ClassVar = ("ndcg@10", "mrr", "recall@1")

    def load_data(self, config: params.Evaluate) -> RowHeldOutData:
        """Return the test data of the workspace; what people read are whole queries."""
        data = super().load_data(config)
        shown = _sample_queries(data.test, config.test_prompts, config.seed)
        passages = _by_query(shown)
        return replace(
            data,
            shown=shown,
            sample_prompts=[shown[rows[0]]["query"] for rows in passages.values()],
            expected=[_listed([(shown[at], shown[at]["relevance"]) for at in rows]) for rows in passages.values()],
            sha256=hashlib.sha256(f"{data.sha256} {data.info['largest']}".encode()).hexdigest(),
        )

    def structure(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        """Return the query of each row, as the splits compare them."""
        return {"clusters": [_key(row) for row in rows]}

    def load(self, folder: Path, data: RowHeldOutData) -> LoadedModel | Prior:
        """Return the model in `folder`, or what stands in for a base without a head."""
        if has_head(MODEL, folder, labels=1):
            return self.loaded(folder)
        mean = min(max(data.info["mean"], _LEAST), 1 - _LEAST)
        return Prior(math.log(mean / (1 - mean)))

    def answers(
        self, model: LoadedModel | Prior, rows: Sequence[Row], data: RowHeldOutData, config: params.Evaluate
    ) -> Floats:
        """Return the logit of each row."""
        if isinstance(model, Prior):
            return np.full(len(rows), model.logit)
        logits: Floats = row_logits(self.task, model, rows, data.info, config.batch_tokens)[:, 0]
        return logits

    def scores(self, answers: Floats, rows: Sequence[Row], data: RowHeldOutData) -> Scores:
        """Return the binary log loss of each row, a soft one for grades."""
        losses = np.logaddexp(0, answers) - answers * _relevance(rows, data)  # -y ln s(x) - (1 - y) ln(1 - s(x))
        return Scores(losses, np.ones(len(rows), np.int64), sizes_of(rows))

    def metrics(
        self, model: LoadedModel | Prior, answers: Floats, data: RowHeldOutData, config: params.Evaluate
    ) -> dict[str, Any]:
        """Return the ranking figures with their intervals, and whether a prior stands in."""
        return {"stand_in": "prior" if isinstance(model, Prior) else None, **_ranking(answers, data, config)}

    def row_figures(self, model: LoadedModel | Prior, answers: Floats, data: RowHeldOutData) -> dict[str, Floats]:
        """Return nDCG@10 of each query on its first row."""
        return ranking.row_figures(_query_figures(answers, data), len(data.test))

    def samples(
        self, model: LoadedModel | Prior, answers: Floats, rows: Sequence[Row], data: RowHeldOutData
    ) -> list[str]:
        """Return the passages of each query in the model's order, with the relevance that it gives them."""
        if isinstance(model, Prior):
            return ["(no order: this base has no head for ranking)" for _ in data.sample_prompts]
        given = 1 / (1 + np.exp(-answers))
        return [_listed([(rows[at], float(given[at])) for at in of_query]) for of_query in _by_query(rows).values()]

    def reference_metrics(self, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return what identifies the test rows, and the ranking figures of words alone."""
        return {**super().reference_metrics(data, config), "tf_idf": _ranking(_tf_idf(data), data, config)}

    def warnings(self, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return that words alone order better than the candidate, where they do: it is then not worth its time."""
        candidate, words = metrics["candidate"][ranking.NDCG], metrics["test_rows"]["tf_idf"][ranking.NDCG]
        if candidate is None or words is None or candidate >= words:
            return []
        return [
            "warning: the candidate orders passages worse than their words alone do: nDCG@10 is"
            f" {candidate:.2f}, that of TF-IDF {words:.2f}; another finetune.learning_rate may help (a lower one where"
            " the loss did not fall), or more epochs, or more queries"
        ]

    def row_metrics(self, folder: Path, rows: Sequence[Row], config: params.Evaluate) -> dict[str, Any]:
        """Return how hard any rows are for the model in `folder`, with an interval."""
        model = self.loaded(folder)
        info = {"largest": model.settings.get("largest", 1.0)}
        return loss_metrics(token_scores(self.task, model, rows, info, config.batch_tokens), None, config)


def _key(row: Row) -> str:
    return normalize_text(row["query"])


def _relevance(rows: Sequence[Row], data: RowHeldOutData) -> Floats:
    """Return the relevance of rows from 0 to 1, as training has it."""
    shares: Floats = _grades(rows) / float(data.info["largest"])
    return shares


def _grades(rows: Sequence[Row]) -> Floats:
    """Return the relevance of rows as in the corpus, which is what nDCG's gains are of."""
    return np.array([row["relevance"] for row in rows], np.float64)


def _query_figures(scores: Floats, data: RowHeldOutData) -> ranking.QueryFigures:
    return ranking.query_figures(data.clusters or [], _grades(data.test), scores)


def _ranking(scores: Floats, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
    """Return the figures of the order that these scores of the test rows make."""
    return ranking.ranking_metrics(_query_figures(scores, data), config.resamples, config.confidence, config.seed)


def _tf_idf(data: RowHeldOutData) -> Floats:
    """Return the cosine of each test row's query and passage, of TF-IDF weights of pieces of words.

    Pieces of 2 to 4 characters serve every script, and words in other forms; their frequencies are those of the test
    passages (Salton and Buckley 1988, "Term-weighting approaches in automatic text retrieval").
    """
    queries, passages = ([row[name] for row in data.test] for name in ("query", "passage"))
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    try:
        of_passages = vectorizer.fit_transform(passages)
    except ValueError:  # no passage has a piece
        return np.zeros(len(passages))
    products = vectorizer.transform(queries).multiply(of_passages)
    return np.asarray(products.sum(axis=1), np.float64).ravel()


def _by_query(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Return the positions of each query's rows, in the order of the queries' first rows."""
    positions: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        positions.setdefault(_key(row), []).append(at)
    return positions


def _sample_queries(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Return all rows of a bottom-k hash sample of the queries, in the corpus's order."""

    def digest(key: str) -> bytes:
        return hashlib.sha256(f"{seed} {key}".encode(errors="surrogatepass")).digest()

    chosen = set(sorted({_key(row) for row in rows}, key=digest)[:count])
    return [row for row in rows if _key(row) in chosen]


def _listed(passages: Sequence[tuple[Row, float]]) -> str:
    """Return passages with a number each, the largest number first, a line each."""
    ordered = sorted(passages, key=lambda passage: -passage[1])
    lines = [
        f"{place}. {row['passage']} ({value:.2g}; relevance {row['relevance']:g})"
        for place, (row, value) in enumerate(ordered[:_SHOWN_PASSAGES], start=1)
    ]
    further = len(ordered) - len(lines)
    return "\n".join([*lines, *([f"and {further} more"] if further else [])])


SUITE = RankSuite
