"""The benchmark of training compares its variants with the recipe and the machine's limit."""

import json
import subprocess
import sys

import pytest

from bench import harness, train
from bench.trainers import LIMITS, VARIANTS


def test_each_figure_is_compared_with_the_recipe_and_the_machines_limit() -> None:
    def run(seconds: float, **printed: float) -> harness.Run:
        return harness.Run(seconds, 2_000_000, "a line before\n" + json.dumps(printed))

    runs = {name: [run(1, operations_a_second=1e12)] for name in LIMITS}
    runs |= {name: [run(1, tokens=100, loss=2.0, operations=1e9)] for name in VARIANTS}
    runs["fresh"] = [run(1, tokens=tokens, loss=2.1, operations=1e9) for tokens in (200, 300, 900)]
    rows = {(row.variant, row.metric): row for row in train.rows_of(runs)}
    assert (rows["fresh", "speed"].figure, rows["fresh", "speed"].ratio) == (300, 3)
    assert rows["fresh", "share of the fp32 limit"].figure == pytest.approx(0.3)
    assert rows["fresh", "validation loss"].ratio == pytest.approx(1.05)
    assert rows["fresh", "peak memory"].figure == 2


@pytest.mark.slow
def test_a_quick_run_ends_in_a_json_line_with_rows_for_every_variant() -> None:
    command = [sys.executable, "-m", "bench.train", "--quick"]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["name"] == "train"
    assert {row["variant"] for row in result["rows"]} == {f"starter: {name}" for name in [*LIMITS, *VARIANTS]}
    assert "| fresh |" in done.stdout
