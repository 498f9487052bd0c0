"""The comparison of texts with and without guesses publishes both speeds and their ratio for each load."""

import json
import sys
from pathlib import Path

import pytest

from bench import guessing
from serving.engines.decoder import unsupported_reason

STARTER = Path(__file__).parents[2] / "starter"


@pytest.mark.integration
def test_a_quick_run_has_figures_with_and_without_guesses_for_each_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if reason := unsupported_reason(STARTER):
        pytest.skip(reason)
    monkeypatch.setattr(sys, "argv", ["guessing", "--quick", "--base", str(STARTER)])
    guessing.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert len(rows) == 2 * len(guessing.LOADS) * len(guessing.TEMPERATURES)
    assert all(row["figure"] > 0 and row["ratio"] for row in rows)
