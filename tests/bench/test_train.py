"""The benchmark of training compares its variants with a peer and the machine's limit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import harness, train, trainers
from bench.train_models import MODELS, Training, prepare
from bench.trainers import LIMITS, VARIANTS
from pipeline.command import UserError


def run_of(seconds: float, **printed: float) -> harness.Run:
    return harness.Run(seconds, 2_000_000, "a line before\n" + json.dumps(printed))


def tiny(name: str, tmp_path: Path) -> Training:
    MODELS[name].write_base(tmp_path / "base", tiny=True)
    return prepare(name, tmp_path / "base", 3 * MODELS[name].batch, 1)


def test_each_figure_is_compared_with_the_peer_and_the_machines_limit() -> None:
    runs = {name: [run_of(1, tokens=100, loss=2.0, operations=1e9)] for name in MODELS["gpt2"].variants}
    runs["fresh"] = [run_of(1, tokens=tokens, loss=2.1, operations=1e9) for tokens in (200, 300, 900)]
    limit = train.limit_of({name: [run_of(1, operations_a_second=rate) for rate in (1e11, 1e12)] for name in LIMITS})
    rows = {(row.variant, row.metric): row for row in train.rows_of(runs, limit)}
    assert (rows["fresh", "speed"].figure, rows["fresh", "speed"].ratio) == (300, 3)
    assert rows["fresh", "share of the fp32 limit"].figure == pytest.approx(0.3)
    assert rows["fresh", "validation loss"].ratio == pytest.approx(1.05)
    assert rows["fresh", "peak memory"].figure == 2
    assert rows["fresh", "speed"].peer == "recipe, padded to 128"


def test_a_model_that_there_is_not_is_named() -> None:
    with pytest.raises(UserError, match="--models: found 'gpt3'; expected some of gpt2,starter,smollm2,minilm,t5"):
        train.chosen("t5,gpt3")


# The starter takes the way of gpt2, and is not made smaller.
@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one == "starter")) for one in MODELS])
def test_the_stage_and_the_peer_reach_the_same_loss(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = tiny(name, tmp_path)
    monkeypatch.setattr(trainers, "DROPOUT", 0.0)  # its masks differ
    monkeypatch.setattr("bench.train_models.DROPOUT", 0.0)
    before, _ = trainers.validate(training, training.load())
    peer, stage = (trainers.figures(training, VARIANTS[way]) for way in (MODELS[name].variants[0], "fresh, fp32"))
    learned = abs(peer["loss"] - before)
    assert learned > 1e-4
    assert stage["loss"] == pytest.approx(peer["loss"], abs=0.02 * learned + 1e-6)
    assert min(peer["tokens"], stage["tokens"]) > 0


def weights(module: torch.nn.Module) -> int:
    """Return the number of weights in the matrix products of `module`: not of what looks up, adds or scales."""
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, torch.nn.Linear))


def test_each_part_of_a_t5_counts_the_tokens_that_pass_it(tmp_path: Path) -> None:
    training = tiny("t5", tmp_path)
    model = training.load()
    config = model.config
    crossed = [module for name, module in model.named_modules() if name.endswith("EncDecAttention")]
    keys_values = sum(one.k.weight.numel() + one.v.weight.numel() for one in crossed)  # of the source's states
    expected = 0
    for row in training.validation:
        source, target = len(row["input_ids"]), len(row["labels"])
        pairs = source * source + target * target + source * target  # (query, key) in a layer of either side
        expected += 6 * (
            source * (weights(model.encoder) + keys_values)
            + target * (weights(model.decoder) - keys_values + weights(model.lm_head))
            + 2 * pairs * config.num_heads * config.d_kv * config.num_layers
        )
    tokens = sum(len(row["input_ids"]) + len(row["labels"]) for row in training.validation)
    _, operations = trainers.validate(training, model)
    assert operations == pytest.approx(expected / tokens)


def test_an_embedding_and_a_head_count_only_where_they_multiply(tmp_path: Path) -> None:
    training = tiny("minilm", tmp_path)
    model = training.load()
    config, rows = model.config, training.validation
    expected = 0
    for row in rows:
        length = len(row["input_ids"])
        attention = 2 * length * length * config.hidden_size * config.num_hidden_layers
        head = weights(model.bert.pooler) + weights(model.classifier)  # they read the first token
        expected += 6 * (length * weights(model.bert.encoder) + attention + head)
    _, operations = trainers.validate(training, model)
    assert operations == pytest.approx(expected / sum(len(row["input_ids"]) for row in rows))


def test_texts_to_classify_are_short_and_of_77_labels(tmp_path: Path) -> None:
    training = tiny("minilm", tmp_path)
    assert len(training.info["labels"]) == 77
    assert min(training.info["counts"]) > 5


@pytest.mark.slow
def test_a_quick_run_ends_in_a_json_line_with_rows_for_every_variant() -> None:
    command = [sys.executable, "-m", "bench.train", "--quick", "--models", "starter,minilm"]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["name"] == "train"
    ways = {f"{name}: {way}" for name in ("starter", "minilm") for way in MODELS[name].variants}
    assert {row["variant"] for row in result["rows"]} == {*LIMITS, *ways}
    assert result["bases"] == {"starter": "starter", "minilm": "random weights"}
    assert "| fresh |" in done.stdout
