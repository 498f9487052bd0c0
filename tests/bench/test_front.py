"""The cost of a token besides the model is measured for each route, streamed and not."""

import json
import subprocess
import sys

import pytest

from bench import front, harness


@pytest.mark.integration
def test_a_quick_run_has_figures_for_each_way_to_read_a_text() -> None:
    command = [sys.executable, "-m", "bench.front", "--quick"]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    ways = {f"{route}{how}" for route in front.ROUTES for how in ("", ", streamed")}
    assert {(row["variant"], row["metric"]) for row in rows} == {
        (way, metric) for way in ways for metric in ("event loop", "engine's thread", "throughput")
    }
    assert all(row["figure"] > 0 for row in rows)
