"""Training is the recipe, ends the same every time, and a killed run goes on where it was."""

import json
import math
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer

from pipeline import finetune, params, paths, tokenize
from pipeline.command import UserError
from pipeline.modeling import batches
from pipeline.tasks.causal_lm import TASK, CausalLM
from tests.conftest import LINES, Workspace

pytestmark = pytest.mark.integration

# What the tiny configuration reaches; another value means that the recipe has changed.
VALIDATION_LOSS = [5.744577, 5.722298, 5.706780]
LAST_LOSSES = [5.053536, 4.970729, 5.017687, 4.977497, 4.902145]


@pytest.fixture
def stage(workspace: Workspace, tiny_gpt2: Path) -> Workspace:
    """Return a workspace in which the stages before this one have run."""
    workspace.start_from(tiny_gpt2)
    workspace.set(tokenize__max_length=48, finetune__epochs=2, finetune__precision="fp32", finetune__learning_rate=1e-3)
    tokenize.main()
    return workspace


def candidate() -> dict[str, bytes]:
    files = (path for path in sorted(paths.CANDIDATE.rglob("*")) if path.is_file())
    return {path.relative_to(paths.CANDIDATE).as_posix(): path.read_bytes() for path in files}


def test_the_candidate_is_whole_better_than_the_base_and_says_what_made_it(stage: Workspace) -> None:
    finetune.main()
    assert list(candidate()) == [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    # Training goes without the cache of keys and values; writing without it takes many times as long.
    assert json.loads((paths.CANDIDATE / "generation_config.json").read_text())["use_cache"] is True
    manifest = json.loads(paths.MANIFEST.read_text())
    assert manifest["data"] == json.loads(paths.TOKEN_BUDGET.read_text())["data"]
    assert manifest["params"]["finetune"]["learning_rate"] == 1e-3
    assert manifest["git_revision"] is None  # the workspace is no git repository
    curve = pd.read_csv(paths.VALIDATION_LOSS)
    assert curve["epoch"].tolist() == [0, 1, 2]
    assert curve["loss"].is_monotonic_decreasing
    assert curve["loss"].tolist() == pytest.approx(VALIDATION_LOSS, rel=1e-4)
    assert len(pd.read_csv(paths.TRAINING_LOSS)) == 20  # 20 rows, 2 a step, 2 epochs: a loss each step
    assert not paths.CHECKPOINTS.exists()


@pytest.mark.parametrize("rank", [0, 4])
def test_the_same_inputs_give_the_same_bytes(stage: Workspace, rank: int) -> None:
    stage.set(finetune__lora_rank=rank)
    finetune.main()
    first = candidate()
    assert ("adapter/adapter_model.safetensors" in first) == (rank > 0)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in paths.CANDIDATE.rglob("*"))
    finetune.main()
    assert candidate() == first


@contextmanager
def killed(method: str, call: int) -> Iterator[None]:
    """End training in the given call of a method of Trainer, as a signal would."""
    calls = 0
    original = getattr(Trainer, method)

    def counting(self: Trainer, *args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, method, counting)
        yield


def outputs() -> dict[str, bytes]:
    reports = set(paths.FINETUNE_METRICS.parent.iterdir()) - {paths.TRAINING_PROGRESS}
    return candidate() | {path.name: path.read_bytes() for path in reports}


def test_a_run_killed_within_an_epoch_has_the_same_losses_and_ends_in_the_same_bytes(stage: Workspace) -> None:
    finetune.main()
    uninterrupted = outputs()
    assert pd.read_csv(paths.TRAINING_LOSS)["loss"].tail(5).tolist() == pytest.approx(LAST_LOSSES, rel=1e-4)

    stage.set(finetune__checkpoint_seconds=1e-6)  # a checkpoint after each step
    with killed("training_step", call=17), pytest.raises(KeyboardInterrupt):
        finetune.main()
    names = sorted(path.name for path in paths.CHECKPOINTS.glob("*/*"))
    assert names == ["checkpoint-15", "checkpoint-16"]
    stage.set(finetune__checkpoint_seconds=300)
    finetune.main()
    assert outputs() == uninterrupted


def test_steps_in_parts_are_the_undivided_ones_and_resume_to_the_same_bytes(stage: Workspace) -> None:
    stage.set(finetune__batch_size=6, finetune__dropout=0.0)  # 20 texts of different lengths: the last step has 2
    finetune.main()
    expected = [pd.read_csv(path)["loss"] for path in (paths.TRAINING_LOSS, paths.VALIDATION_LOSS)]
    weights = load_file(paths.CANDIDATE / "model.safetensors")
    assert "rows_at_once" not in json.loads(paths.MANIFEST.read_text())["params"]["finetune"]

    stage.set(finetune__rows_at_once=2)
    finetune.main()
    for path, losses in zip((paths.TRAINING_LOSS, paths.VALIDATION_LOSS), expected, strict=True):
        assert pd.read_csv(path)["loss"].tolist() == pytest.approx(losses.tolist(), rel=1e-5)
    for name, weight in load_file(paths.CANDIDATE / "model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], atol=1e-4, rtol=1e-4)
    assert json.loads(paths.MANIFEST.read_text())["params"]["finetune"]["rows_at_once"] == 2
    uninterrupted = outputs()

    stage.set(finetune__checkpoint_seconds=1e-6)  # a checkpoint after each step
    with killed("training_step", call=15), pytest.raises(KeyboardInterrupt):  # 3 + 3 + 3 + 1 an epoch: within step 6
        finetune.main()
    assert sorted(path.name for path in paths.CHECKPOINTS.glob("*/*")) == ["checkpoint-4", "checkpoint-5"]
    stage.set(finetune__checkpoint_seconds=300)
    finetune.main()
    assert outputs() == uninterrupted


def test_a_damaged_checkpoint_is_said_and_costs_only_its_steps(
    stage: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    stage.set(finetune__checkpoint_seconds=1e-6)
    finetune.main()
    uninterrupted = outputs()
    with killed("training_step", call=17), pytest.raises(KeyboardInterrupt):
        finetune.main()
    [last] = paths.CHECKPOINTS.glob("*/checkpoint-16")
    os.truncate(last / "optimizer.safetensors", 1000)
    finetune.main()
    assert outputs() == uninterrupted
    said = "the checkpoint of step 16 is damaged (optimizer.safetensors has changed); the one of step 15 is used"
    assert said in capfd.readouterr().err


def test_early_stopping_goes_on_counting_after_a_resume(stage: Workspace) -> None:
    stage.set(finetune__epochs=6, finetune__learning_rate=0.2, finetune__early_stopping_patience=2)
    finetune.main()
    uninterrupted = outputs()
    metrics = json.loads(paths.FINETUNE_METRICS.read_text())
    assert metrics["epochs"] == metrics["best_epoch"] + 2 < 6

    # Killed after one epoch without a lower loss.
    with killed("training_step", call=10 * (metrics["best_epoch"] + 1) + 5), pytest.raises(KeyboardInterrupt):
        finetune.main()
    finetune.main()
    assert outputs() == uninterrupted


def test_a_run_killed_while_it_writes_its_results_only_writes_them_again(
    stage: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.set(finetune__epochs=6, finetune__learning_rate=0.5)  # it stops early, which a resumed run must not forget
    finetune.main()
    uninterrupted = outputs()

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    save = finetune._save_candidate
    monkeypatch.setattr(finetune, "_save_candidate", kill)
    with pytest.raises(KeyboardInterrupt):
        finetune.main()
    monkeypatch.setattr(finetune, "_save_candidate", save)
    monkeypatch.setattr(Trainer, "training_step", kill)
    finetune.main()
    assert outputs() == uninterrupted


def test_a_checkpoint_of_other_params_is_not_taken_up(stage: Workspace) -> None:
    def key() -> str:
        return finetune.run_key(params.load())

    before = key()
    stage.set(evaluate__seed=7)
    assert key() == before
    stage.set(finetune__checkpoint_seconds=7)  # the moment of a checkpoint has no part in the result
    assert key() == before
    stage.set(finetune__learning_rate=2e-3)
    assert key() != before


def test_training_stops_early_keeps_the_best_epoch_and_says_when_the_loss_turned(
    stage: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.set(finetune__epochs=6, finetune__learning_rate=0.5)  # so high that it gets worse
    paths.BASE_FIT.write_text('{"warnings": {"language": "warning: the base does not know such texts"}}')
    finetune.main()
    metrics = json.loads(paths.FINETUNE_METRICS.read_text())
    curve = pd.read_csv(paths.VALIDATION_LOSS).set_index("epoch")["loss"]
    assert metrics["epochs"] < 6
    assert metrics["epochs"] == metrics["best_epoch"] + 1  # patience of one epoch
    assert metrics["validation_loss"] == pytest.approx(curve.loc[1:].min())

    said = capsys.readouterr().err
    assert "\ntraining in fp32 on the CPU: " in said
    assert f"warning: the validation loss rose after epoch {metrics['best_epoch']}" in said
    assert said.splitlines()[0] == "warning: the base does not know such texts"  # before hours of training

    model = AutoModelForCausalLM.from_pretrained(paths.CANDIDATE).eval()
    rows = DatasetDict.load_from_disk(paths.TOKENS)["validation"].to_list()
    assert token_loss(model, batches.collate_padded(rows)) == pytest.approx(metrics["validation_loss"], rel=1e-5)


def test_the_loss_curves_are_drawn(stage: Workspace) -> None:
    finetune.main()
    picture = ElementTree.parse(paths.LOSS_CURVE).getroot()  # noqa: S314 - our own file
    lines = [element.get("points").split() for element in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [20, 3]  # a point a step, and one an epoch with the base before
    words = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"epoch", "training", "validation", "best epoch: 2"} < words


def test_a_checkpoint_that_finds_no_room_is_said_in_one_sentence(stage: Workspace) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    weights = (paths.BASE / "model.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (weights + 1000, before[1]))  # too little for the optimizer's state
    try:
        with pytest.raises(UserError, match="the checkpoint of step 10 could not be written: File too large"):
            finetune.main()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("weight", "loss"), [(math.nan, "nan"), (1e6, r"\d")], ids=["no number", "too large"])
def test_training_that_diverges_says_so_in_one_sentence(
    stage: Workspace, monkeypatch: pytest.MonkeyPatch, weight: float, loss: str
) -> None:
    def broken(_task: CausalLM, folder: Path, dropout: float, info: dict[str, object]):
        model = load(TASK, folder, dropout, info)
        model.transformer.ln_f.weight.data.fill_(weight)
        return model

    load = CausalLM.load_for_training
    monkeypatch.setattr(CausalLM, "load_for_training", broken)
    with pytest.raises(UserError, match=rf"finetune.learning_rate: training diverged, the validation loss is {loss}"):
        finetune.main()


def token_loss(model, batch: dict[str, torch.Tensor]) -> float:
    with torch.inference_mode():
        return float(model(**batch).loss)


@pytest.mark.parametrize(
    "setting",
    [
        {"finetune__lora_rank": 4, "finetune__learning_rate": 1e-2},
        {"finetune__frozen_weights": "nf4", "finetune__lora_rank": 4, "finetune__learning_rate": 1e-2},
        {"finetune__activation_checkpointing": True},
        {"finetune__batch_size": "auto"},
        {"finetune__precision": "bf16"},
        {"tokenize__strategy": "pack"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_each_way_to_train_learns_and_ends_in_a_plain_model(stage: Workspace, setting: dict[str, object]) -> None:
    stage.set(**setting)
    tokenize.main()
    finetune.main()
    losses = pd.read_csv(paths.TRAINING_LOSS)["loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    model, loading = AutoModelForCausalLM.from_pretrained(paths.CANDIDATE, output_loading_info=True)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert not any(loading.values())  # no weight is missing, none is left over


def test_dropout_comes_from_the_params(tiny_gpt2: Path) -> None:
    model = TASK.load_for_training(tiny_gpt2, 0.3, {})
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}


@pytest.mark.slow
def test_a_full_size_gpt2_with_gpt2s_own_tokenizer_trains(workspace: Workspace) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.conftest import real

    folder = workspace.folder / "gpt2"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    shutil.copy(real("gpt2-tokenizer/encoder.json"), folder / "vocab.json")
    shutil.copy(real("gpt2-tokenizer/vocab.bpe"), folder / "merges.txt")
    workspace.set(base="gpt2", tokenize__max_length=32, finetune__epochs=1, finetune__learning_rate=1e-3)
    workspace.set(finetune__dropout=0.0)  # in three steps, chance would decide by how much the loss falls
    from pipeline import base

    base.import_base("gpt2", paths.BASE, "causal_lm")
    paths.CLEAN.parent.mkdir()
    splits = ["train"] * 6 + ["validation", "test"]
    pd.DataFrame({"row": range(8), "text": LINES * 2, "split": splits}).to_parquet(paths.CLEAN)
    tokenize.main()
    finetune.main()
    metrics = json.loads(paths.FINETUNE_METRICS.read_text())
    assert metrics["steps"] == 3
    assert metrics["validation_loss_base"] == pytest.approx(math.log(50257), rel=0.05)  # random weights know nothing
    assert metrics["validation_loss"] < metrics["validation_loss_base"] - 1
