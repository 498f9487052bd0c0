"""For each task better models are promoted, and lucky, memorised, one-sided, overconfident and lazy ones are not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.simulated_tasks import ClassifyRows, Outcome, RankRows, TaskRows, TextRows, masked_rows, seq2seq_rows
from pipeline.evaluation.scores import Scores
from pipeline.verdict.challenges import Challenge
from pipeline.verdict.records import Verdict
from pipeline.verdict.tables import load_table
from tests.pipeline.verdict.task_comparisons import NONE, broken, compared, judged

SHARES = {"ok": 0.9, "fraud": 0.06, "chargeback": 0.04}
FRAUD = {"ok": 0.95, "fraud": 0.05}


def random(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


# task -> its test rows, and by how much a better model is better
ROWS: Mapping[str, tuple[Callable[[], TaskRows], float]] = {
    "classify": (lambda: ClassifyRows(1200, SHARES, random()), 0.5),
    "rank": (lambda: RankRows(150, random()), 0.4),
    "seq2seq": (lambda: seq2seq_rows(300, random()), 0.06),
    "masked_lm": (lambda: masked_rows(300, random()), 0.08),
}
NAMES = {
    "classify": "label perplexity falls by",
    "rank": "label perplexity falls by",
    "seq2seq": "target perplexity falls by",
    "masked_lm": "masked perplexity falls by",
}


def pair(task: str, better: float | None = None) -> tuple[TaskRows, Outcome, Outcome]:
    make, usual = ROWS[task]
    rows = make()
    return rows, rows.outcome(usual if better is None else better), rows.outcome()


@pytest.mark.parametrize("task", ROWS)
def test_a_better_model_is_promoted_in_the_words_of_its_task(task: str) -> None:
    verdict = judged(task, compared(*pair(task)))
    assert verdict.promoted, verdict.reasons
    assert verdict.reasons[0].startswith(f"Better than the champion: {NAMES[task]} ")
    assert ("test queries)" if task == "rank" else "test rows)") in verdict.reasons[0]
    sentences = " ".join([*verdict.reasons, *(gate.sentence for gate in verdict.gates)])
    assert ": a row takes 2.00 ms" in sentences
    assert "forgetting" not in [gate.name for gate in verdict.gates]  # no general text was scored


@pytest.mark.parametrize("task", ROWS)
def test_an_equal_model_is_not_promoted(task: str) -> None:
    verdict = judged(task, compared(*pair(task, better=0.0)))
    assert not verdict.promoted
    assert broken(verdict) == []


@pytest.mark.parametrize("task", ROWS)
def test_a_model_that_memorised_its_training_rows_is_not_promoted(task: str) -> None:
    verdict = judged(task, compared(*pair(task), gap=2.0))
    assert broken(verdict) == ["membership"]
    unit = load_table(f"{task}_gates").quantity.unit
    assert f"nats per {unit} likelier" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("task", "figures"),
    [
        ("classify", {"recall", "calibration", "cost"}),
        ("rank", {"ndcg"}),
        ("seq2seq", {"source_copied", "empty", "repetition"}),
    ],
)
def test_figures_that_are_missing_never_pass(task: str, figures: set[str]) -> None:
    rows, candidate, baseline = pair(task)
    verdict = judged(task, compared(rows, replace(candidate, row_figures={}), baseline))
    assert set(broken(verdict)) == figures
    assert all(reason.startswith("Not measured: ") for reason in verdict.reasons)


# classify


def sacrificed() -> tuple[ClassifyRows, Outcome, Outcome]:
    """Return a candidate that is better at most rows, and no longer finds chargebacks."""
    rows = ClassifyRows(1200, SHARES, random())
    logits = rows.logits(0.6)
    logits[:, 2] -= 6 * (rows.label == 2)
    logits[rows.label == 0, 0] += 3
    return rows, rows.decided(logits), rows.outcome()


def test_a_model_that_gave_up_a_class_is_not_promoted_and_the_class_is_named() -> None:
    rows, candidate, baseline = sacrificed()
    losses = candidate.scores.loss.copy()
    losses[rows.label == 2] = baseline.scores.loss[rows.label == 2]  # so that the mean loss shows nothing of it
    scores = candidate.scores._replace(loss=losses)
    verdict = judged("classify", compared(rows, replace(candidate, scores=scores), baseline))
    assert verdict.comparison.startswith("Better than the champion: ")
    assert "recall" in broken(verdict)
    assert verdict.reasons[0].startswith("It finds less of 1 of 3 classes (`chargeback`: recall from ")
    assert verdict.reasons[0].endswith("; promote.gates.recall allows 0.0 points.")


def test_an_overconfident_model_is_not_promoted() -> None:
    rows = ClassifyRows(1200, {"no": 0.5, "yes": 0.5}, random(), signal=2)
    baseline = rows.outcome()
    sure = rows.decided(6 * rows.logits())
    better = baseline.scores._replace(loss=0.8 * baseline.scores.loss)  # whatever made its losses good
    verdict = judged("classify", compared(rows, replace(sure, scores=better), baseline))
    assert broken(verdict) == ["calibration"]
    assert verdict.reasons[0].startswith("It is calibrated worse: its confidence is ")
    first = judged("classify", compared(rows, replace(sure, scores=better), baseline, against="base"))
    assert first.promoted
    assert first.warnings[0].endswith("A first model is not refused for that.")


def test_decisions_that_cost_more_are_not_promoted() -> None:
    rows, candidate, baseline = pair("classify")
    dear = np.where(candidate.row_figures["correct"] == 0, 50.0, 0.0)  # misses a fraud where it is wrong
    dear[:40] = 50.0
    candidate = replace(candidate, row_figures={**candidate.row_figures, "cost": dear})
    verdict = judged("classify", compared(rows, candidate, baseline))
    assert broken(verdict) == ["cost"]
    assert verdict.reasons[0].startswith("Its decisions cost more: a decision's cost (tasks.classify.costs; 1 for a ")


def few_frauds(frauds: int, better: float = 0.6) -> tuple[ClassifyRows, Outcome, Outcome]:
    rows = ClassifyRows(250, FRAUD, random())
    rows.label = np.r_[np.ones(frauds), np.zeros(250 - frauds)].astype(np.int64)
    rows.classes = [rows.names[label] for label in rows.label]
    return rows, rows.outcome(better), rows.outcome()


def test_below_enough_rows_of_the_rarer_class_there_is_no_verdict_but_the_number_that_would_do() -> None:
    verdict = judged("classify", compared(*few_frauds(5)))
    assert not verdict.promoted
    assert verdict.reasons == [
        "5 test rows are `fraud`: at least 17 are needed to tell a better model from a worse one for it with 97.5 %"
        " confidence. About 8,500 rows of the corpus give that."
    ]
    assert verdict.counterfactuals == ["At least 17 test rows of `fraud`: more data, or a larger validate.test_share."]
    assert "are needed" not in judged("classify", compared(*few_frauds(17))).comparison


def test_a_nightly_challenge_asks_for_more_rows_and_one_without_them_spends_nothing() -> None:
    challenge = Challenge(7, 0.05 / 120, spent=0.01, budget=0.05)
    verdict = judged("classify", compared(*few_frauds(20), test_share=None), challenge=challenge)
    assert verdict.reasons == [
        "20 test rows are `fraud`: at least 28 are needed to tell a better model from a worse one for it with 99.958 %"
        " confidence (challenge 7 in 90 days). About 350 test rows give that."
    ]
    assert verdict.challenge is None


def test_a_test_split_without_any_fraud_is_refused_with_its_name() -> None:
    assert judged("classify", compared(*few_frauds(0))).reasons[0].startswith("No test row is `fraud`: at least 17 ")


def test_of_more_classes_small_ones_are_counted_and_named_but_stop_nothing_by_themselves() -> None:
    rows = ClassifyRows(1200, SHARES | {"dispute": 0.003}, random())
    verdict = judged("classify", compared(rows, rows.outcome(0.5), rows.outcome()))
    assert verdict.promoted
    (sentence,) = [gate.sentence for gate in verdict.gates if gate.name == "recall"]
    count = int((rows.label == 3).sum())
    assert f"1 of fewer than 8 test rows (`dispute` {count}) is too small to tell by themselves." in sentence


def test_many_small_classes_given_up_together_are_seen() -> None:
    names = {"ok": 0.9} | {f"rare {number}": 0.005 for number in range(20)}
    rows = ClassifyRows(1200, names, random(), signal=8)
    logits = rows.logits()
    lost = logits.copy()
    lost[:, 1:] -= 20
    baseline, candidate = rows.decided(logits), rows.decided(lost)
    better = baseline.scores._replace(loss=0.7 * baseline.scores.loss)
    verdict = judged("classify", compared(rows, replace(candidate, scores=better), baseline))
    assert "small classes together: recall from " in verdict.reasons[0]


def test_a_first_model_that_never_finds_a_class_is_not_promoted() -> None:
    rows = ClassifyRows(1200, FRAUD, random())
    silent = rows.decided(rows.logits(0.5), threshold=1.1)
    verdict = judged("classify", compared(rows, silent, rows.decided(0 * rows.logits()), against="base"))
    assert not verdict.promoted
    frauds = int((rows.label == 1).sum())
    assert verdict.reasons[0] == f"It never finds 1 of 2 classes: none of {frauds} test rows that are `fraud`."
    finds = rows.decided(rows.logits(0.5), threshold=0.3)
    assert judged("classify", compared(rows, finds, rows.decided(0 * rows.logits()), against="base")).promoted


# rank


def test_a_model_with_a_better_loss_that_orders_passages_worse_is_not_promoted() -> None:
    rows = RankRows(150, random())
    logits = rows.logits(0.4)
    candidate = rows.ordered(logits, order=random(3).normal(0, 1, len(logits)))
    verdict = judged("rank", compared(rows, candidate, rows.outcome()))
    assert broken(verdict) == ["ndcg"]
    assert verdict.reasons[0].startswith("It ranks worse: a query's nDCG@10 is ")
    assert " on 150 test queries); promote.gates.ndcg allows 0.00." in verdict.reasons[0]


# seq2seq


@pytest.mark.parametrize(
    ("figure", "share", "beginning"),
    [
        ("copied", 0.95, "It copies its sources: 95.0 % of the 4-grams in its answers stand in their sources"),
        ("empty", 0.4, "It answers nothing: "),
        (
            "repetition",
            0.7,
            "It repeats itself: 70.0 % of the 4-grams in its answers occurred before in the same answer",
        ),
    ],
)
def test_a_model_that_copies_says_nothing_or_loops_is_not_promoted(figure: str, share: float, beginning: str) -> None:
    rows, candidate, baseline = pair("seq2seq")
    values = np.full(300, share) if figure != "empty" else (np.arange(300) < 300 * share).astype(np.float64)
    candidate = replace(candidate, row_figures={**candidate.row_figures, figure: values})
    verdict = judged("seq2seq", compared(rows, candidate, baseline))
    assert len(broken(verdict)) == 1
    assert verdict.reasons[0].startswith(beginning)
    as_bad = replace(baseline, row_figures={**baseline.row_figures, figure: values})
    passing = judged("seq2seq", compared(rows, candidate, as_bad))  # the champion does it just as much
    assert passing.promoted
    assert "but no more than the champion beyond chance" in passing.warnings[0]
    assert not judged("seq2seq", compared(rows, candidate, as_bad, against="base")).promoted


# masked_lm


def test_masked_perplexities_of_different_tokenizers_are_not_compared() -> None:
    rows, candidate, baseline = pair("masked_lm")
    other = replace(candidate, scores=candidate.scores._replace(tokens=candidate.scores.tokens + 1))
    verdict = judged("masked_lm", compared(rows, other, baseline))
    assert not verdict.promoted
    assert "have different tokenizers" in verdict.reasons[0]


def with_general(loss: float, comparison: Any, seed: int) -> Any:
    """Return a model of the comparison with scores of general texts, at `loss` nats per masked token."""
    tokens = np.full(90, 15)
    level = loss + np.random.default_rng([5, seed]).normal(0, 0.1, 90)
    return replace(comparison, probes=comparison.probes._replace(general=Scores(level * tokens, tokens, 500 + tokens)))


def forgetting(nats: float, against: str = "champion") -> Verdict:
    comparison = compared(*pair("masked_lm"))
    candidate, baseline = with_general(2.0 + nats, comparison.candidate, 1), with_general(2.0, comparison.baseline, 2)
    changed: Any = replace(comparison, candidate=candidate, baseline=baseline)
    return judged("masked_lm", replace(changed, against=against))


def test_a_masked_model_that_forgot_general_english_is_not_promoted_and_a_first_one_is_warned() -> None:
    assert forgetting(0.5).promoted
    verdict = forgetting(2.0)
    assert broken(verdict) == ["forgetting"]
    assert verdict.reasons[0].startswith("It has forgotten general English: a masked token of plain English takes ")
    first = forgetting(2.0, against="base")
    assert first.promoted
    assert first.warnings[0].endswith("A first model is not refused for that.")


@pytest.mark.parametrize("task", ["classify", "rank", "seq2seq"])
def test_without_general_texts_a_missing_figure_of_them_stops_nothing(task: str) -> None:
    comparison = compared(*pair(task))
    assert comparison.candidate.probes is not None
    assert comparison.candidate.probes.general is NONE
    assert "forgetting" not in [gate.name for gate in judged(task, comparison).gates]


def test_rows_of_texts_have_neither_clusters_nor_classes() -> None:
    rows: TextRows = masked_rows(10, random())
    assert rows.clusters is None
    assert rows.classes is None
