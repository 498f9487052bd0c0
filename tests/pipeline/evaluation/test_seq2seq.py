"""Targets are scored as they are under every model, and what a model writes is greedy, as `generate` does by itself."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from pipeline import params, paths
from pipeline.evaluation import seq2seq
from pipeline.evaluation.seq2seq import Seq2SeqSuite
from pipeline.tasks.seq2seq import Seq2Seq, Seq2SeqConfig
from tests.conftest import LINES, Workspace
from tests.tiny_seq2seq import make_bart, make_t5

CONFIG = Seq2SeqConfig(prefix="shorten: ", max_target_length=10)
ROWS = [
    {"source": f"{line} {number}", "target": line[:20], "text": f"{line} {number}\n{line[:20]}"}
    for number in range(3)
    for line in LINES
]


@pytest.fixture(params=[make_t5, make_bart], ids=["t5", "bart"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the folder of a tiny T5, and of a tiny BART, whose random weights write something."""
    make: Callable[[Path], Path] = request.param
    made = make(tmp_path / "model")
    model = AutoModelForSeq2SeqLM.from_pretrained(made)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)
    model.save_pretrained(made)
    return made


@pytest.fixture
def suite() -> Seq2SeqSuite:
    """Return the suite with a prefix."""
    return Seq2SeqSuite(Seq2Seq(CONFIG))


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


def test_targets_are_written_together_as_one_by_one(folder: Path, suite: Seq2SeqSuite) -> None:
    written = suite.write(suite.loaded(folder), ROWS)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for row, generation in zip(ROWS, written, strict=True):
        ids = tokenizer("shorten: " + row["source"], return_tensors="pt")["input_ids"]
        [expected] = model.generate(ids, do_sample=False, max_new_tokens=10, forced_eos_token_id=None)
        assert generation.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert generation.prompt == row["source"]
    assert len({generation.text for generation in written}) > 1
    assert all(generation.tokens <= 10 for generation in written)


def test_beams_and_penalties_of_a_base_do_not_count(folder: Path, suite: Seq2SeqSuite) -> None:
    plain = suite.write(suite.loaded(folder), ROWS)
    change(folder, "generation_config.json", num_beams=3, no_repeat_ngram_size=1, repetition_penalty=3.0, min_length=9)
    assert suite.write(suite.loaded(folder), ROWS) == plain


def test_a_trained_model_reads_with_its_own_prefix_and_writes_to_its_own_limit(
    folder: Path, suite: Seq2SeqSuite
) -> None:
    settings = {"task": "seq2seq", "prefix": "The king: ", "max_source_tokens": 9, "max_target_tokens": 3}
    change(folder, "task.json", **settings)
    trained = suite.loaded(folder)
    assert trained.max_length == 9
    assert max(generation.tokens for generation in suite.write(trained, ROWS)) <= 3
    config = CONFIG.model_copy(update={"prefix": "The king: "})
    other = Seq2SeqSuite(Seq2Seq(config))
    evaluate = params.load(Path(__file__).parents[3] / "params.yaml").evaluate
    as_trained, as_other = (some.answers(some.loaded(folder), ROWS, None, evaluate) for some in (suite, other))
    assert np.array_equal(as_trained.loss, as_other.loss)


def test_the_targets_of_params_are_scored_whatever_the_model_was_trained_on(folder: Path, suite: Seq2SeqSuite) -> None:
    evaluate = params.load(Path(__file__).parents[3] / "params.yaml").evaluate
    before = suite.answers(suite.loaded(folder), ROWS, None, evaluate)
    change(folder, "task.json", prefix="shorten: ", max_source_tokens=512, max_target_tokens=3)
    after = suite.answers(suite.loaded(folder), ROWS, None, evaluate)
    assert np.array_equal(before.loss, after.loss)
    assert before.tokens.max() > 3
    assert before.bytes.tolist() == [20] * len(ROWS)


@pytest.fixture
def stage(workspace: Workspace) -> Workspace:
    """Return a workspace with clean rows."""
    paths.CLEAN.parent.mkdir()
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 6
    pd.DataFrame(ROWS).assign(split=splits, row=range(2, 14)).to_parquet(paths.CLEAN)
    workspace.set(task="seq2seq", evaluate__generations=3, evaluate__test_prompts=2, evaluate__membership_rows=3)
    return workspace


def test_every_figure_of_a_model_is_there_and_the_same_each_time(
    stage: Workspace, folder: Path, suite: Seq2SeqSuite
) -> None:
    evaluate = params.load().evaluate
    data = suite.load_data(evaluate)
    assert (data.generations, len(data.written), len(data.shown)) == (3, 3, 2)
    assert data.sample_prompts == [row["source"] for row in data.shown]
    assert data.expected == [row["target"] for row in data.shown]
    evaluation = suite.evaluate(folder, data, evaluate)
    mean = evaluation.scores.loss.sum() / evaluation.scores.tokens.sum()
    assert evaluation.metrics["perplexity"] == pytest.approx(math.exp(mean))
    assert evaluation.metrics["tokens"] == evaluation.scores.tokens.sum()
    assert [len(probe.loss) for probe in evaluation.probes] == [0, 3, 2]
    again = suite.evaluate(folder, data, evaluate)
    assert again.metrics == evaluation.metrics
    assert again.generations == evaluation.generations
    texts = {generation.prompt: generation.text for generation in evaluation.generations}
    assert evaluation.samples == [texts[prompt] for prompt in data.sample_prompts]
    assert list(suite.details(data, {"base": evaluation})) == ["prompts", "real", "base", "worst"]
    for values in evaluation.row_figures.values():
        assert np.flatnonzero(~np.isnan(values)).tolist() == data.written
    assert set(evaluation.row_figures) == {"copied", "empty", "repetition"}
    real = suite.reference_metrics(data, evaluate)["text"]
    assert real["exact_match"] == real["rouge_l"] == 1
    assert real.keys() == evaluation.metrics["text"].keys()
    assert json.loads(json.dumps(evaluation.metrics, allow_nan=False)) == evaluation.metrics


def test_a_row_for_which_a_model_writes_nothing_copies_nothing(
    stage: Workspace, folder: Path, suite: Seq2SeqSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = params.load().evaluate
    data = suite.load_data(evaluate)

    def silent(model: Any, sources: list[list[int]], _limit: int) -> list[list[int]]:
        return [[model.tokenizer.eos_token_id]] * len(sources)

    monkeypatch.setattr(seq2seq, "greedy", silent)
    evaluation = suite.evaluate(folder, data, evaluate)
    assert evaluation.row_figures["copied"][data.written].tolist() == [0, 0, 0]
    assert evaluation.row_figures["empty"][data.written].tolist() == [1, 1, 1]
    assert evaluation.metrics["text"]["copied"] is None


def test_speed_is_measured_a_token(folder: Path, suite: Seq2SeqSuite) -> None:
    [footprint] = suite.footprints([folder])
    assert footprint.unit == "token"
    assert footprint.bytes > 0
