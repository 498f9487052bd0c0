"""The last run in ten lines, with what to do next."""

import json
from typing import Any

import pytest

import cli
from pipeline import paths
from pipeline.command import UserError
from pipeline.reporting import summary
from tests.conftest import Workspace

METRICS: dict[str, Any] = {
    paths.VALIDATE_METRICS: {"corpus": "data/tales.csv", "rows_in": 2226, "rows_clean": 2200, "rows_quarantined": 26},
    paths.FINETUNE_METRICS: {"steps": 2607, "epochs": 3, "best_epoch": 2},
    paths.EVALUATE_METRICS: {
        "base": {"perplexity": 5191.2, "perplexity_low": 4793, "perplexity_high": 5665, "bits_per_byte": 3.1419},
        "candidate": {"perplexity": 9.43, "perplexity_low": 8.88, "perplexity_high": 10.04, "bits_per_byte": 0.824},
    },
}


def test_the_summary_has_the_corpus_the_improvement_and_the_next_step(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, content in METRICS.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    cli.show()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert max(map(len, lines)) <= 100
    assert "corpus         data/tales.csv: 2,226 rows, 2,200 clean" in lines
    assert "perplexity     5,191 (4,793 to 5,665) -> 9.43 (8.88 to 10), on the test rows" in lines
    assert str(paths.SAMPLES_PAGE) in lines[7]
    assert "fresh promote" in lines[9]


def test_the_summary_repeats_what_tokenize_warned_of(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    warned = {"warnings": {"language": "warning: the base starter does not know texts like this corpus"}}
    for path, content in {**METRICS, paths.BASE_FIT: warned}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    cli.show(as_json=True)
    assert json.loads(capsys.readouterr().out)["language"] == warned["warnings"]["language"]


def test_before_the_first_run_it_names_the_command_to_run(workspace: Workspace) -> None:
    with pytest.raises(UserError, match=r"reports/validate/metrics.json does not exist.*run `dvc repro`"):
        summary.summary()
