"""The cost of a token besides the model is measured for each route, streamed and not."""

import json
import sys

import pytest

from bench import front


@pytest.mark.integration
def test_a_quick_run_has_figures_for_each_way_to_read_a_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["front", "--quick"])
    front.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    ways = {f"{route}{how}" for route in front.ROUTES for how in ("", ", streamed")}
    assert {(row["variant"], row["metric"]) for row in rows} == {
        (way, metric) for way in ways for metric in ("event loop", "engine's thread", "throughput")
    }
    assert all(row["figure"] > 0 for row in rows)
