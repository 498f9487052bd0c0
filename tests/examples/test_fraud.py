"""The example of fraud: the same table each time, with frauds that are rare and can be found."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from sklearn.metrics import average_precision_score

from examples.fraud import make_transactions
from examples.fraud.make_transactions import payments
from pipeline import params
from tests.conftest import ROOT, Workspace


def test_the_table_is_the_same_each_time_and_two_in_a_hundred_are_frauds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_transactions", "--rows", "5000", "--to", str(tmp_path / "payments.csv")])
    make_transactions.main()
    with (tmp_path / "payments.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == list(payments(5000))
    share = np.mean([row["label"] == "fraud" for row in rows])
    assert 0.015 < share < 0.025


def test_frauds_follow_a_rule_that_noise_hides_in_part() -> None:
    rows = list(payments(20_000))
    truth = np.array([row["label"] == "fraud" for row in rows])
    suspicious = np.array(
        [
            2.2 * (row["merchant"] in ("gift cards", "money transfer"))
            + 2.0 * (row["country"] == "abroad")
            + 1.8 * (row["hour"] < "06:00")
            + 1.6 * (float(row["amount"]) > 80)
            for row in rows
        ]
    )
    assert 0.1 < average_precision_score(truth, suspicious) < 0.9


def test_its_page_names_settings_that_exist(workspace: Workspace) -> None:
    page = (ROOT / "examples" / "fraud" / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    changes = YAML(typ="safe").load(block)

    def put(content: dict[str, object], changed: dict[str, object]) -> None:
        for key, value in changed.items():
            known = content[key]
            if isinstance(value, dict) and isinstance(known, dict) and known:
                put(known, value)
            else:
                content[key] = value

    yaml = YAML()
    file = workspace.folder / "params.yaml"
    content = yaml.load(file)
    put(content, changes)
    yaml.dump(content, file)
    assert params.load().task == "classify"
