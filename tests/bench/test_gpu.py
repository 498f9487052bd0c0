"""The benchmark for GPUs runs on a CPU with tiny models, and says what failed or was left out."""

import json
import os
import subprocess
import sys

import pytest

from bench import gpu, harness


def test_a_variant_is_compared_with_its_peer_and_a_failure_is_a_row_of_its_own() -> None:
    figures = [
        {"part": "training", "variant": "nano", "peer": "nano", "figure": 100.0, "unit": "tokens/s"},
        *(
            {"part": "training", "variant": "fresh", "peer": "nano", "figure": figure, "unit": "tokens/s", "loss": 4.5}
            for figure in (150.0, 130.0, 110.0)
        ),
        {"part": "serving", "variant": "all of it", "peer": "", "figure": None, "reason": "no package"},
    ]
    rows = {row.variant: row for row in gpu.rows_of(figures)}
    assert (rows["fresh"].figure, rows["fresh"].ratio, rows["fresh"].low) == (130, 1.3, 110)
    table = gpu.table(figures, list(rows.values()))
    assert "| training: fresh | 130 (110 to 150) tokens/s | 1.30 | nano |  | 4.500 |" in table
    assert "| serving: all of it | left out: no package |" in table


def test_failed_tests_and_a_run_without_tests_have_their_reasons() -> None:
    tests = ["test_a FAILED [ 33%]", "test_b[1] PASSED [ 66%]", "test_c PASSED [100%]"]
    failure = "FAILED tests/gpu/test_stages.py::test_a - AssertionError"
    figures = gpu.test_figures("\n".join([*tests, failure, "1 failed, 2 passed in 9.01s"]), "it ended with 1: ...")
    counted = {one["variant"]: one["figure"] for one in figures if "figure" in one}
    assert counted == {"failed": 1, "passed": 2}
    assert [one["reason"] for one in figures if "reason" in one] == [failure]
    [passed, slow] = gpu.test_figures(tests[1], "it took more than 130 s")
    assert (passed["figure"], slow["reason"]) == (1, "it took more than 130 s")
    [missing] = gpu.test_figures("No module named pytest\n", "it ended with 1: No module named pytest")
    assert missing["reason"] == "it ended with 1: No module named pytest"


def test_a_process_is_ended_at_its_bound_and_what_it_printed_is_kept() -> None:
    code = 'import time; print(\'{"part": "a"}\', flush=True); time.sleep(600)'
    output, ended = gpu._output(["-c", code], 5)
    assert list(gpu._json_lines(output)) == [{"part": "a"}]
    assert ended == "it took more than 5 s"


@pytest.mark.integration
def test_a_quick_run_on_a_cpu_has_a_figure_or_a_reason_for_everything() -> None:
    command = [sys.executable, "-m", "bench.gpu", "--quick"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=True, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    assert {row["metric"] for row in result["rows"]} == {"training", "evaluation", "generation"}
    assert all(row["figure"] > 0 for row in result["rows"] if row["variant"] != "bf16 matrix products")
    assert result["left_out"] == [
        "serving, all of it: a quick run starts no server",
        "tests, all of it: there is no CUDA device",
        "training, nanoGPT, 2 x 48, compiled: compiling takes longer than a quick run",
        "training, fresh, 2 x 48, compiled: compiling takes longer than a quick run",
        "training, fresh, batch 2, graphs: compiling takes longer than a quick run",
        "training, fresh, batch 3, compiled: compiling takes longer than a quick run",
    ]
    assert "| training: fresh, batch 3 |" in done.stdout
