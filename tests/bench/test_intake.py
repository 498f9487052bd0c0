"""The benchmark of intake runs; its figures are for a quiet machine and not for tests."""

import csv
import json
from pathlib import Path

import pytest

from bench import harness, intake
from bench.faults import FAULTS, GOOD, OURS, Fault, judge
from bench.readers import READERS


def test_the_corpus_is_the_same_every_time_and_a_valid_csv_of_rows_of_about_500_bytes(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        intake.make_corpus(tmp_path / name, 300_000)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    with (tmp_path / "one.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row["id"] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    assert 400 < 300_000 / len(rows) < 600
    assert any('"' in row["text"] for row in rows)
    assert any("\n" in row["text"] for row in rows)


def test_rows_lost_changed_and_invented_count_as_wrong_and_rows_set_aside_do_not() -> None:
    fault = Fault(b"", ["one", "two", "three"], broken=1)
    assert judge(fault, ["one", "two", "three"], set_aside=1).in_words() == "1 set aside"
    assert judge(fault, ["one", "two", "three"]).wrong == 1
    assert judge(fault, ["one", "TWO", "three", None]).wrong == 2
    assert judge(Fault(b"", GOOD), GOOD).in_words() == "right"
    assert judge(Fault(b"", GOOD), [*GOOD, "extra"]).wrong == 1


@pytest.mark.slow
def test_a_quick_run_tells_speed_memory_and_faults_of_every_variant() -> None:
    done = harness.run(harness.Variant("bench", ["-m", "bench.intake", "--quick"]))
    *_, last = done.output.splitlines()
    told = json.loads(last)
    ours = {OURS, f"{OURS}, {intake.NEAR}"}
    large = {name for name, reader in READERS.items() if reader.large}
    assert told["name"] == "intake"
    for metric, variants in (
        ("speed", ours | large),
        ("peak memory", ours | large),
        ("faults silent", ours | {*READERS}),
    ):
        assert {row["variant"] for row in told["rows"] if row["metric"] == metric} == variants
    assert all(row["peer"] == intake.PEER for row in told["rows"])
    assert set(told["faults"]) == set(FAULTS)
    assert "| fault | pandas |" in done.output


@pytest.mark.integration
def test_no_fault_passes_our_stage_silently(tmp_path: Path) -> None:
    done = harness.run(harness.Variant(OURS, ["-m", "bench.faults", OURS, str(tmp_path / "faults")]))
    verdicts = json.loads(done.output.splitlines()[-1])
    assert {fault for fault, verdict in verdicts.items() if verdict["wrong"]} == set()
