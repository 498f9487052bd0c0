"""Variants run in turn in fresh processes; time, memory and figures are reported correctly."""

import json
from pathlib import Path

import pytest

from bench import harness
from bench.harness import Variant

HOLD = "import time; held = bytearray(b'x' * {megabytes} * 1_000_000); time.sleep(0.5)"


def test_a_run_reports_its_time_memory_and_output() -> None:
    done = harness.run(Variant("sleeper", ["-c", "import time; time.sleep(0.5); print('awake')"]))
    assert done.output == "awake\n"
    assert done.seconds > 0.5
    assert 1e6 < done.peak_memory < 100e6


def test_the_memory_of_worker_processes_counts() -> None:
    worker = HOLD.format(megabytes=100)
    two = f"import subprocess, sys; w = [subprocess.Popen([sys.executable, '-c', {worker!r}]) for _ in range(2)]"
    done = harness.run(Variant("two workers", ["-c", f"{two}; [p.wait() for p in w]"]))
    assert done.peak_memory > 200e6


def test_a_failing_variant_stops_the_benchmark_with_its_message() -> None:
    with pytest.raises(RuntimeError, match="broken ended with 3"):
        harness.run(Variant("broken", ["-c", "import sys; sys.exit(3)"]))


def test_variants_take_turns_and_each_round_starts_with_another_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import pathlib, sys; pathlib.Path('log').open('a').write(sys.argv[1])"
    runs = harness.in_turns([Variant(name, ["-c", code, name], tmp_path) for name in "abc"], rounds=2)
    assert log.read_text() == "abcbca"
    assert {name: len(of_one) for name, of_one in runs.items()} == {"a": 2, "b": 2, "c": 2}


def test_figures_are_medians_with_their_spread_and_a_ratio_to_the_peer() -> None:
    peer, fresh = harness.compare({"peer": [10.0, 30.0, 20.0], "fresh": [5.0, 4.0, 60.0]}, "speed", "MB/s", "peer")
    assert (peer.figure, peer.low, peer.high, peer.ratio) == (20, 10, 30, 1)
    assert (fresh.figure, fresh.low, fresh.high, fresh.ratio) == (5, 4, 60, 0.25)


def test_the_last_line_is_json_with_the_machine_and_the_commit(capsys: pytest.CaptureFixture[str]) -> None:
    rows = harness.compare({"peer": [1.0]}, "speed", "MB/s", "peer")
    harness.publish("demo", harness.table(["", "MB/s"], [["peer", "1"]]), rows, ["numpy"], json_only=False)
    *text, last = capsys.readouterr().out.splitlines()
    assert text[:3] == ["|  | MB/s |", "| --- | ---: |", "| peer | 1 |"]
    content = json.loads(last)
    assert content["name"] == "demo"
    assert content["rows"][0]["variant"] == "peer"
    assert set(content["machine"]) == {"processor", "cores", "memory_gb", "system", "python", "libraries"}
    assert content["commit"] == harness.commit()
