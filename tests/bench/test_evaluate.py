"""The benchmark of scoring runs each way of scoring, which all find the same perplexity, and compares them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import evaluate, harness
from bench.scorers import VARIANTS, one_at_a_time
from tests.conftest import LINES


def test_each_figure_stands_beside_the_stock_ones() -> None:
    def run(tokens: float, error: float, memory: int) -> harness.Run:
        return harness.Run(1, memory, "a line before\n" + json.dumps({"tokens": tokens, "error": error}))

    runs = {name: [run(100, 2e-6, 2_000_000)] for name in VARIANTS}
    runs["ours"] = [run(tokens, 1e-6, 1_000_000) for tokens in (200, 300, 900)]
    found = {(row.variant, row.metric): row for row in evaluate.rows_of(runs)}
    assert (found["ours", "speed"].figure, found["ours", "speed"].ratio) == (300, 3)
    assert (found["ours", "peak memory"].figure, found["ours", "peak memory"].ratio) == (1, 0.5)
    assert (found["ours", "error of the perplexity"].figure, found["ours", "error of the perplexity"].ratio) == (1, 0.5)


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"padded to 256"}))  # the tiny model's context is 64
def test_every_way_finds_the_perplexity_of_one_text_at_a_time_in_float64(tiny_gpt2: Path, name: str) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval(), AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.pad_token = tokenizer.eos_token
    some = [line[: 3 * number] for number, line in enumerate(LINES * 5, start=1)]  # two batches
    assert VARIANTS[name](model, tokenizer, some) == pytest.approx(one_at_a_time(model, tokenizer, some), rel=1e-6)


@pytest.mark.slow
def test_a_quick_run_ends_in_one_json_line_with_a_row_for_every_way() -> None:
    command = [sys.executable, "-m", "bench.evaluate", "--quick"]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["name"] == "evaluate"
    assert {row["variant"] for row in result["rows"]} == {f"starter: {name}" for name in VARIANTS}
    assert "| ours |" in done.stdout
