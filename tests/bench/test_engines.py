"""The comparison of engines runs each in a process of its own and publishes a figure for each number of texts."""

import json
import sys
from pathlib import Path

import pytest

from bench import engines


@pytest.mark.integration
def test_a_quick_run_has_a_figure_for_each_engine_and_number_of_texts(
    tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--base", str(tiny_gpt2), "--engines", "transformers", "--clients", "1,2"]
    monkeypatch.setattr(sys, "argv", ["engines", *arguments])
    engines.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [(row["variant"], row["metric"]) for row in rows] == [
        ("transformers", "1 at a time"),
        ("transformers", "2 at a time"),
    ]
    assert all(row["figure"] > 0 for row in rows)
