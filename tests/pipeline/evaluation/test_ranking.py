"""Rankings are measured by query, and passages with equal scores as if in every order."""

import json
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.ranking import QueryFigures, query_figures, ranking_metrics, row_figures


def of(relevance: list[float], scores: list[float]) -> dict[str, float]:
    """Return the figures of one query."""
    values = query_figures(["q"] * len(scores), np.array(relevance), np.array(scores)).values
    return {name: float(value[0]) for name, value in values.items()}


def report(figures: QueryFigures) -> dict[str, Any]:
    result = ranking_metrics(figures, 200, 0.95, 0)
    json.dumps(result, allow_nan=False)
    return result


def test_figures_of_a_query_are_those_by_hand() -> None:
    figures = of([3, 0, 1, 0], [0.1, 0.9, 0.5, 0.3])
    best = 7 + 1 / np.log2(3)
    assert figures["ndcg@10"] == pytest.approx((1 / np.log2(3) + 7 / np.log2(5)) / best)
    assert figures["mrr"] == 0.5
    assert [figures[f"recall@{k}"] for k in (1, 5, 10)] == [0, 1, 1]


def test_what_stands_below_the_tenth_place_is_worth_nothing_to_ndcg() -> None:
    figures = of([0.0] * 10 + [1.0], list(range(11, 0, -1)))
    assert figures["ndcg@10"] == figures["recall@10"] == 0
    assert figures["mrr"] == pytest.approx(1 / 11)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_ties_are_worth_the_mean_over_all_their_orders(rows: list[tuple[int, int]]) -> None:
    relevance, scores = ([float(row[at]) for row in rows] for at in (0, 1))
    figures = of(relevance, scores)
    if not any(relevance):
        assert all(np.isnan(value) for value in figures.values())
        return
    orders = [
        of([relevance[at] for at in order], [-float(place) for place in range(len(order))])
        for order in permutations(range(len(rows)))
        if [scores[at] for at in order] == sorted(scores, reverse=True)
    ]
    for name, value in figures.items():
        assert value == pytest.approx(np.mean([order[name] for order in orders])), name


def test_queries_without_a_relevant_passage_are_counted_and_left_out() -> None:
    queries = ["a", "b", "a", "c", "c", "b"]
    figures = query_figures(queries, np.array([1, 0, 0, 1, 1, 0]), np.array([0.2, 0.9, 0.8, 0.5, 0.4, 0.1]))
    result = report(figures)
    assert [result[key] for key in ("queries", "queries_without_relevant", "queries_alike")] == [2, 1, 1]
    assert result["mrr"] == pytest.approx((0.5 + 1) / 2)
    assert result["mrr_low"] <= result["mrr"] <= result["mrr_high"]
    values = row_figures(figures, 6)["ndcg@10"]
    assert values[[0, 3]] == pytest.approx([1 / np.log2(3), 1])
    assert np.isnan(values[[1, 2, 4, 5]]).all()


def test_without_any_relevant_passage_there_is_a_sentence_instead_of_figures() -> None:
    result = report(query_figures(["a", "a"], np.zeros(2), np.zeros(2)))
    assert result["ndcg@10"] is result["mrr_low"] is None
    assert result["undefined"] == [
        "ndcg@10, mrr, recall@1, recall@5, recall@10 are not defined: none of 1 queries has a passage with a relevance "
        "above 0"
    ]
    assert report(query_figures([], np.zeros(0), np.zeros(0)))["queries"] == 0


def test_a_single_passage_that_is_relevant_is_ranked_right() -> None:
    assert set(of([2], [0.3]).values()) == {1.0}


@pytest.mark.parametrize(
    ("relevance", "scores", "message"),
    [
        ([-1.0], [0.0], "a relevance is below 0"),
        ([31.0], [0.0], "above 30"),
        ([np.nan], [0.0], "not a number"),
        ([1.0], [np.inf], "1 of 1 scores are not finite"),
        ([1.0, 0.0], [0.0], "found 1 queries, 2 relevances and 1 scores"),
    ],
)
def test_values_that_have_no_rank_are_refused(relevance: list[float], scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        query_figures(["q"], np.array(relevance), np.array(scores))
