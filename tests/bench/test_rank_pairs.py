"""Pairs made of labelled texts: each text's own label once, and others, the same each time."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from bench import rank_pairs
from pipeline.command import UserError


def make(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> pd.DataFrame:
    labels = ["card_arrival", "top_up", "refund"] * 5
    source, target = folder / "texts.csv", folder / "pairs.csv"
    pd.DataFrame({"text": [f"text {at}" for at in range(15)], "category": labels}).to_csv(source, index=False)
    monkeypatch.setattr(sys, "argv", ["rank_pairs", str(source), str(target), *options])
    rank_pairs.main()
    return pd.read_csv(target)


def test_each_query_has_its_own_label_and_some_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, monkeypatch, "--queries", "6", "--others", "1")
    assert made.groupby("query")["relevance"].agg(["sum", "size"]).to_numpy().tolist() == [[1, 2]] * 6
    assert {"Help with: card arrival", "Help with: top up", "Help with: refund"} >= set(made["passage"])
    assert made.equals(make(tmp_path, monkeypatch, "--queries", "6", "--others", "1"))


def test_a_column_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no column intent"):
        make(tmp_path, monkeypatch, "--label", "intent")
