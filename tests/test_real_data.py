"""Real texts that no one here wrote run through the whole loop with only params.yaml changed: the README's table."""

import csv
import json
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import real
from tests.test_loop import Clone

pytestmark = pytest.mark.slow


def bank_customers_questions(corpus: Path) -> None:
    shutil.copy(real("banking77-customer-support/train.csv"), corpus)


def shakespeares_speeches(corpus: Path) -> None:
    speeches = real("tinyshakespeare/input.txt").read_text(encoding="utf-8").strip().split("\n\n")
    with corpus.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([speech] for speech in speeches)


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (bank_customers_questions, {"tokenize__max_length": 48}),  # short questions: less padding
        (shakespeares_speeches, {"tokenize__strategy": "pack"}),  # some speeches are longer than a row
    ],
)
def test_the_tuned_model_halves_the_perplexity_of_the_base(write, changes, tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    corpus = tmp_path / "data" / "mine.csv"
    write(corpus)
    clone.run("dvc", "add", "data/mine.csv")
    clone.set(data__path="data/mine.csv", **changes)
    started = time.monotonic()
    clone.run("dvc", "repro")
    minutes = (time.monotonic() - started) / 60

    def report(name: str) -> dict[str, dict[str, float]]:
        content: dict[str, dict[str, float]] = json.loads((tmp_path / "reports" / name).read_text())
        return content

    intake, scores = report("validate/metrics.json"), report("evaluate/metrics.json")
    tokens = json.loads((tmp_path / "reports/tokenize/token_budget.json").read_text())["splits"]["train"]["kept"]
    print(
        f"| {write.__name__} | {intake['rows_in']:,} ({intake['rows_clean']:,}) | {tokens:,} | {minutes:.1f} min | "
        f"{scores['base']['perplexity']:,.1f} → {scores['candidate']['perplexity']:.1f} |"
    )
    assert scores["candidate"]["perplexity_high"] < scores["base"]["perplexity_low"] / 2
