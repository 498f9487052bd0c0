"""Rows that end in a label are distinguished from prose; no model is needed."""

import csv
import random

from pipeline.evaluation.endings import LabelEndings, label_endings
from tests.conftest import ROOT


def test_rare_frauds_at_the_end_of_transactions_are_labels() -> None:
    draws = random.Random(1)
    rows = [f"amount {draws.random():.2f} at shop {draws.randrange(900)} fraud: {int(i < 13)}" for i in range(600)]
    assert label_endings(rows) == LabelEndings(2, 1.0)
    assert label_endings([*rows, "amount 3 at shop 4"]) is not None  # a label that is missing hides nothing


def test_many_intents_are_labels_where_one_word_stands_before_them() -> None:
    rows = [f"question {number} about nothing\nIntent: intent_{number % 77}" for number in range(1000)]
    assert label_endings(rows) == LabelEndings(77, 1.0)
    assert label_endings([row.replace("Intent:", f"Intent{number}:") for number, row in enumerate(rows)]) is None


def test_prose_one_refrain_and_few_rows_are_no_labels() -> None:
    with (ROOT / "data" / "tales.csv").open(newline="", encoding="utf-8") as tales:
        texts = [row["text"] for row in csv.DictReader(tales)]
    assert label_endings(texts) is None
    assert label_endings([f"tale {number}, shipmate." for number in range(100)]) is None
    assert label_endings(["it is good: yes", "it is bad: no"] * 9) is None
    assert label_endings(["yes", "no"] * 50) is None  # the whole text, not its ending
    assert label_endings([]) is None
