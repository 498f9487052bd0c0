"""The simulations of the verdict tell a rule that errs from one that does not, and publish what they find."""

import json
import sys

import numpy as np
import pytest

from bench import verdict, verdict_simulations
from bench.simulated_scores import NOISE, SimulatedRows, nats
from bench.verdict_likeness import likeness_table
from bench.verdict_simulations import Judge, Nightly
from pipeline import params
from pipeline.verdict.challenges import DAYS
from tests.conftest import ROOT

BUDGET = 0.05


@pytest.fixture
def judge() -> Judge:
    return Judge(params.load(ROOT / "params.yaml").promote.model_copy(update={"resamples": 100}))


def test_two_models_differ_by_the_measured_noise_and_by_what_they_truly_gain() -> None:
    test = SimulatedRows(20_000, np.random.default_rng(1))
    difference = (test.scores(nats(0.02)).loss - test.scores(0).loss) / test.tokens
    assert 1 - np.exp(difference.mean()) == pytest.approx(0.02, abs=0.002)
    assert (difference * np.sqrt(test.tokens)).std() == pytest.approx(NOISE, rel=0.03)


def test_every_rule_but_the_one_of_before_keeps_a_quarter_within_the_budget() -> None:
    nightly = Nightly(BUDGET)
    assert sum(nightly(night).alpha for night in range(DAYS)) <= BUDGET
    for rule in (verdict_simulations.lord(BUDGET), verdict_simulations.e_value(BUDGET)):
        challenges = [rule(night) for night in range(DAYS)]
        assert sum(one.alpha for one in challenges if one) <= BUDGET
    assert verdict_simulations.alone()(3) is None


def test_a_rule_that_errs_is_seen_to_err(judge: Judge) -> None:
    assert verdict_simulations.false_promotions(judge, verdict_simulations.alone(), 60, 12).hits >= 2
    assert verdict_simulations.false_promotions(judge, Nightly(BUDGET), 60, 12).hits <= 2


def test_a_large_gain_is_found_and_none_is_not(judge: Judge) -> None:
    assert verdict_simulations.found(judge, Nightly(BUDGET), 100, 0.2, 5).value == 1
    assert verdict_simulations.found(judge, Nightly(BUDGET), 100, -0.2, 5).value == 0
    assert [share.hits for share in verdict_simulations.growing(judge, (0.3, 0.2), 60, 3)] == [3, 3]


def test_the_command_ends_in_a_line_of_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["verdict", "--quick", "--json"])
    small = verdict.Sizes(4, 2, 1, (20, 20), (60,), (12,))
    monkeypatch.setattr(verdict, "QUICK", small)
    verdict.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["name"] == "verdict"
    assert set(result["rows"][0]) == {"variant", "metric", "figure", "unit", "low", "high", "peer", "ratio"}
    assert {row["variant"] for row in result["rows"]} >= {"prose (the sample): chain of bytes by 3"}


def test_real_texts_keep_to_the_bound_on_texts_and_nonsense_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, rows = likeness_table(quick=True)
    low = {row.variant.partition(": ")[2]: row.low for row in rows if row.variant.startswith("prose")}
    assert max(low["1 word in 20 missing"], low["1 letter in 100 wrong"], low["new texts of a chain of words"]) < 0.3
    assert min(low[kind] for kind in ("chain of bytes by 3", "by 2", "by 1", "shuffled letters", "random bytes")) > 0.6
