"""The simulations of each task tell equal models from better ones, and publish what they find."""

import json
import sys

import numpy as np
import pytest

from bench import verdict_tasks
from bench.simulated_tasks import INTENTS, ClassifyRows, RankRows, masked_rows, seq2seq_rows
from bench.verdict_tasks import CASES, Case
from pipeline import params
from tests.conftest import ROOT


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.table)
def test_a_model_that_is_far_better_is_promoted_and_an_equal_one_seldom(case: Case) -> None:
    config = params.load(ROOT / "params.yaml").promote.model_copy(update={"resamples": 100})
    assert verdict_tasks.share(case, config, 4 * case.better, 3).hits == 3
    assert verdict_tasks.share(case, config, 0.0, 6).hits <= 2


def test_better_models_have_a_lower_loss_on_any_rows() -> None:
    random = np.random.default_rng(1)
    for rows in (
        ClassifyRows(3000, INTENTS, random),
        RankRows(300, random),
        seq2seq_rows(3000, random),
        masked_rows(3000, random),
    ):
        assert rows.outcome(0.3).scores.loss.mean() < rows.outcome().scores.loss.mean()


def test_the_command_ends_in_a_line_of_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["verdict_tasks", "--quick", "--json"])
    monkeypatch.setattr(verdict_tasks, "QUICK", verdict_tasks.Sizes(1, 1, (10, 10)))
    monkeypatch.setattr(verdict_tasks, "CASES", CASES[-1:])
    verdict_tasks.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["name"] == "verdict_tasks"
    assert {row["variant"] for row in result["rows"]} == {"fresh", verdict_tasks.ROWS_ALONE}
