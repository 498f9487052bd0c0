"""Rewriting through the stages: a target for each source, copies of a source in one split, the same bytes each time."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import DatasetDict
from transformers import AutoModelForSeq2SeqLM

from pipeline import evaluate, finetune, params, paths, promote, tokenize, validate
from pipeline.command import UserError
from pipeline.evaluation.suite import get_suite
from pipeline.registry.store import Registry
from tests.conftest import LINES, Workspace
from tests.pipeline.tasks.stages import SETTINGS, killed_at_step, outputs, run_stages
from tests.tiny_seq2seq import make_bart, make_t5

pytestmark = pytest.mark.integration

ROWS = [(f"{number}: {line[:30]}", f"{line.split()[number % 3]}!") for number in range(15) for line in LINES]
OF_TASK = {
    "validate__test_share": 0.3,
    "tokenize__max_length": 40,
    "tasks__seq2seq__max_target_length": 12,
    "tasks__seq2seq__prefix": "shorten: ",
    "finetune__epochs": 2,
    "finetune__learning_rate": 1e-2,
}


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("t5"))


def write_corpus(workspace: Workspace, rows: list[tuple[str, str]]) -> None:
    workspace.write_corpus(pd.DataFrame(rows, columns=["source", "target"]).to_csv(index=False))


@pytest.fixture
def project(workspace: Workspace, tiny_t5: Path) -> Workspace:
    """Return a workspace of this task with a corpus and a base."""
    paths.BASE.parent.mkdir()
    paths.BASE.symlink_to(tiny_t5)
    workspace.set(task="seq2seq", **{**SETTINGS, **OF_TASK})
    write_corpus(workspace, ROWS)
    return workspace


def metrics(model: str = "candidate") -> dict[str, Any]:
    result: dict[str, dict[str, Any]] = json.loads(paths.EVALUATE_METRICS.read_text())
    return result[model]


def test_it_learns_a_run_gives_the_same_bytes_again_and_a_killed_one_too(project: Workspace) -> None:
    run_stages()
    first = outputs()
    assert metrics()["perplexity"] < metrics("base")["perplexity"] / 5
    assert json.loads(paths.TASK_SETTINGS.read_text()) == {
        "task": "seq2seq",
        "prefix": "shorten: ",
        "max_source_tokens": 40,
        "max_target_tokens": 12,
    }
    model, loading = AutoModelForSeq2SeqLM.from_pretrained(paths.CANDIDATE, output_loading_info=True)
    assert type(model).__name__ == "T5ForConditionalGeneration"
    assert not any(loading.values())
    assert model.generation_config.use_cache is True

    scores = pd.read_parquet(paths.SCORES)
    assert scores[scores["part"] == "test"]["candidate_copied"].notna().sum() == 4  # evaluate.generations
    samples = json.loads(paths.SAMPLES.read_text())
    assert {(sample["prompt"], sample["expected"]) for sample in samples} < set(ROWS)

    decision = promote.decide(params.load(), Registry(Path()))
    gates = {gate.name: gate for gate in decision.verdict.gates}
    assert {"source_copied", "empty", "repetition", "membership", "size", "latency"} <= set(gates)
    assert all(gate.value is not None for gate in gates.values())
    assert "target perplexity" in decision.verdict.comparison
    assert "Target perplexity" in paths.REPORT.read_text()
    promote.carry_out(decision)
    assert Registry(Path()).history()[-1].figures["perplexity"] == metrics()["perplexity"]

    first = outputs()
    project.set(finetune__checkpoint_seconds=1e-6)
    with killed_at_step(17), pytest.raises(KeyboardInterrupt):
        finetune.main()
    assert list(paths.CHECKPOINTS.glob("*/checkpoint-*"))
    project.set(finetune__checkpoint_seconds=300)
    finetune.main()
    evaluate.main()
    assert outputs() == first


def test_a_champion_is_measured_on_what_the_stage_measured(project: Workspace) -> None:
    project.set(finetune__epochs=1)
    run_stages()
    config = params.load()
    suite = get_suite(config.task, config.task_config)
    champion = suite.evaluate(paths.CANDIDATE, suite.load_data(config.evaluate), config.evaluate)
    assert json.loads(json.dumps(champion.metrics)) == metrics()


def test_a_bart_is_trained_with_adapters_and_without_much_memory(project: Workspace, tmp_path: Path) -> None:
    paths.BASE.unlink()
    paths.BASE.symlink_to(make_bart(tmp_path / "bart"))
    project.set(finetune__lora_rank=4, finetune__activation_checkpointing=True, finetune__epochs=1)
    run_stages()
    assert metrics()["perplexity"] < metrics("base")["perplexity"]


def test_copies_of_a_source_stay_in_one_split_and_blank_cells_are_refused(project: Workspace) -> None:
    copies = [(f"What  IS {number}?", f"an answer, the {kind} one") for number in range(12) for kind in "abc"]
    hostile = [
        ('a "source"\nof two lines, \N{GRINNING FACE}', "\u4f60\u597d,\tworld\n<b>&amp;</b>"),
        (" ", "no source"),
        ("no target", ""),
    ]
    write_corpus(project, [*ROWS, *copies, *hostile])
    validate.main()
    clean = pd.read_parquet(paths.CLEAN)
    assert clean[clean["source"].str.startswith("What")].groupby("source")["split"].nunique().eq(1).all()
    assert clean["split"].nunique() == 3
    kept = clean.iloc[-1]
    assert (kept["source"], kept["target"]) == hostile[0]
    assert kept["text"] == "\n".join(hostile[0])
    counted = json.loads(paths.VALIDATE_METRICS.read_text())
    assert counted["rows_in"] == counted["rows_clean"] + counted["rows_quarantined"] == len(ROWS) + 36 + 3
    assert pd.read_csv(paths.QUARANTINE)["reasons"].tolist() == ["empty", "empty"]
    tokenize.main()
    assert len(DatasetDict.load_from_disk(paths.TOKENS)["train"]) == (clean["split"] == "train").sum()


def test_targets_that_are_cut_are_counted_and_warned_of(project: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    project.set(tasks__seq2seq__max_target_length=3, tokenize__max_length=16)
    validate.main()
    tokenize.main()
    budget = json.loads(paths.TOKEN_BUDGET.read_text())["splits"]["train"]
    assert budget["labels_kept"] == 3 * budget["rows"]
    assert budget["labels_truncated"] > budget["rows"]
    reported = capsys.readouterr().err
    assert "warning: tasks.seq2seq.max_target_length (3) cuts off" in reported
    assert "warning: tokenize.max_length (16) cuts off" in reported
    assert "pack" not in reported


def test_a_column_that_is_not_there_is_said_by_its_key(project: Workspace) -> None:
    project.set(tasks__seq2seq__target="summary")
    with pytest.raises(UserError, match=r"there is no column 'summary' \(tasks.seq2seq.target\)"):
        validate.main()
