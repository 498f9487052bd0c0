"""The benchmark of intake: its corpus, how outcomes are judged, and the figures of a quick run."""

import csv
from pathlib import Path

import pytest

from bench import harness, intake
from bench.faults import FAULTS, GOOD, STAGE, Fault, judge
from bench.readers import READERS


def test_the_corpus_is_reproducible_and_a_valid_csv_of_rows_of_about_500_bytes(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        intake.make_corpus(tmp_path / name, 300_000)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    with (tmp_path / "one.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row["id"] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    assert 400 < 300_000 / len(rows) < 600
    assert any('"' in row["text"] for row in rows)
    assert any("\n" in row["text"] for row in rows)


def test_rows_lost_changed_and_invented_count_as_wrong_and_quarantined_rows_do_not() -> None:
    fault = Fault(b"", ["one", "two", "three"], broken=1)
    assert judge(fault, ["one", "two", "three"], quarantined=1).in_words() == "1 quarantined"
    assert judge(fault, ["one", "two", "three"]).wrong == 1
    assert judge(fault, ["one", "TWO", "three", None]).wrong == 2
    assert judge(Fault(b"", GOOD), GOOD).in_words() == "right"
    assert judge(Fault(b"", GOOD), [*GOOD, "extra"]).wrong == 1


@pytest.mark.slow
def test_a_quick_run_reports_speed_memory_and_faults_of_every_variant() -> None:
    done = harness.run(harness.Variant("bench", ["-m", "bench.intake", "--quick"]))
    stage = {STAGE, f"{STAGE}, {intake.NEAR}"}
    large = {name for name, reader in READERS.items() if reader.large}
    assert done.result["name"] == "intake"
    for metric, variants in (
        ("speed", stage | large),
        ("peak memory", stage | large),
        ("faults silent", stage | {*READERS}),
    ):
        assert {row["variant"] for row in done.result["rows"] if row["metric"] == metric} == variants
    assert all(row["peer"] == intake.PEER for row in done.result["rows"])
    assert set(done.result["faults"]) == set(FAULTS)
    assert "| fault | pandas |" in done.output


@pytest.mark.integration
def test_no_fault_passes_the_stage_silently(tmp_path: Path) -> None:
    done = harness.run(harness.Variant(STAGE, ["-m", "bench.faults", STAGE, str(tmp_path / "faults")]))
    assert {fault for fault, outcome in done.result.items() if outcome["wrong"]} == set()
