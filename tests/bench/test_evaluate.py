"""The benchmark of scoring compares variants that all compute the same perplexity."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import evaluate, harness
from bench.scorers import VARIANTS, one_at_a_time
from tests.conftest import LINES


def test_each_figure_is_compared_with_stock_evaluate() -> None:
    def run(tokens: float, error: float, memory: int) -> harness.Run:
        return harness.Run(1, memory, "a line before\n" + json.dumps({"tokens": tokens, "error": error}))

    runs = {name: [run(100, 2e-6, 2_000_000)] for name in VARIANTS}
    runs["fresh"] = [run(tokens, 1e-6, 1_000_000) for tokens in (200, 300, 900)]
    rows = {(row.variant, row.metric): row for row in evaluate.rows_of(runs)}
    assert (rows["fresh", "speed"].figure, rows["fresh", "speed"].ratio) == (300, 3)
    assert (rows["fresh", "peak memory"].figure, rows["fresh", "peak memory"].ratio) == (1, 0.5)
    assert (rows["fresh", "error of the perplexity"].figure, rows["fresh", "error of the perplexity"].ratio) == (1, 0.5)


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"padded to 256"}))  # the tiny model's context is 64
def test_every_variant_computes_the_perplexity_of_one_text_at_a_time_in_float64(tiny_gpt2: Path, name: str) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval(), AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.pad_token = tokenizer.eos_token
    texts = [line[: 3 * number] for number, line in enumerate(LINES * 5, start=1)]  # two batches
    assert VARIANTS[name](model, tokenizer, texts) == pytest.approx(one_at_a_time(model, tokenizer, texts), rel=1e-6)


@pytest.mark.slow
def test_a_quick_run_ends_in_a_json_line_with_rows_for_every_variant() -> None:
    command = [sys.executable, "-m", "bench.evaluate", "--quick"]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["name"] == "evaluate"
    assert {row["variant"] for row in result["rows"]} == {f"starter: {name}" for name in VARIANTS}
    assert "| fresh |" in done.stdout
