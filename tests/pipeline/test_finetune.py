"""Training is the recipe, ends the same every time, and a killed run goes on where it was."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from pipeline import finetune, params, paths, tokenize
from pipeline.command import UserError
from tests.conftest import LINES, Workspace

# What the tiny configuration reaches; another value means that the recipe has changed.
VALIDATION_LOSS = [5.744577, 5.722753, 5.694772]


@pytest.fixture
def stage(workspace: Workspace, tiny_gpt2: Path) -> Workspace:
    """Return a workspace in which the stages before this one have run."""
    workspace.start_from(tiny_gpt2)
    workspace.set(tokenize__max_length=48, finetune__epochs=2, finetune__learning_rate=1e-3)
    tokenize.main()
    return workspace


def candidate() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(paths.CANDIDATE.iterdir())}


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


def test_the_same_inputs_give_the_same_bytes(stage: Workspace) -> None:
    finetune.main()
    first = candidate()
    finetune.main()
    assert candidate() == first


def test_a_run_killed_after_an_epoch_ends_in_the_same_bytes(stage: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune.main()
    uninterrupted = candidate()

    evaluations = 0
    evaluate = Trainer.evaluate

    def killed_in_the_second_epoch(self: Trainer, *args: object, **kwargs: object) -> dict[str, float]:
        nonlocal evaluations
        evaluations += 1
        if evaluations == 3:  # before training, after epoch 1, after epoch 2
            raise KeyboardInterrupt
        return evaluate(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", killed_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            finetune.main()
    assert list(paths.CHECKPOINTS.rglob("checkpoint-10"))
    finetune.main()
    assert candidate() == uninterrupted


def test_a_checkpoint_of_other_params_is_not_taken_up(stage: Workspace) -> None:
    def key() -> str:
        return finetune._key(params.load())

    before = key()
    stage.set(evaluate__seed=7)
    assert key() == before
    stage.set(finetune__learning_rate=2e-3)
    assert key() != before


def test_training_stops_early_and_keeps_the_best_epoch(stage: Workspace) -> None:
    stage.set(finetune__epochs=6, finetune__learning_rate=0.5)  # so high that it gets worse
    finetune.main()
    metrics = json.loads(paths.FINETUNE_METRICS.read_text())
    curve = pd.read_csv(paths.VALIDATION_LOSS).set_index("epoch")["loss"]
    assert metrics["epochs"] < 6
    assert metrics["epochs"] == metrics["best_epoch"] + 1  # patience of one epoch
    assert metrics["validation_loss"] == pytest.approx(curve.loc[1:].min())

    model = AutoModelForCausalLM.from_pretrained(paths.CANDIDATE).eval()
    rows = DatasetDict.load_from_disk(paths.TOKENS)["validation"].to_list()
    assert token_loss(model, finetune.collate(rows)) == pytest.approx(metrics["validation_loss"], rel=1e-5)


def test_training_that_diverges_says_so_in_one_sentence(stage: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path, dropout: float):
        model = load(folder, dropout)
        model.transformer.wpe.weight.data.fill_(math.nan)
        return model

    load = finetune.load_base
    monkeypatch.setattr(finetune, "load_base", broken)
    with pytest.raises(UserError, match=r"finetune.learning_rate: training diverged, the validation loss is nan"):
        finetune.main()


def token_loss(model, batch: dict[str, torch.Tensor]) -> float:
    with torch.inference_mode():
        return float(model(**batch).loss)


def test_labels_are_every_token_but_start_and_padding(tiny_gpt2: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    ids = tokenizer("The cat")["input_ids"]
    for strategy in ("pad", "pack"):
        wanted = params.Tokenize(strategy=strategy, max_length=12)
        rows, _ = tokenize.token_rows(["The cat"], tokenizer, wanted, str(tmp_path / strategy))
        [labels] = finetune.collate(rows.to_list())["labels"].tolist()
        assert labels == [-100, *ids, 0] + [-100] * (12 - len(ids) - 2)


def test_packed_rows_have_the_loss_of_padded_ones(tiny_gpt2: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    model = finetune.load_base(tiny_gpt2, dropout=0.0).eval()
    texts = [line[: 6 * number] for number in range(1, 6) for line in LINES]
    losses = {}
    for strategy in ("pad", "pack"):
        wanted = params.Tokenize(strategy=strategy, max_length=64)
        rows, _ = tokenize.token_rows(texts, tokenizer, wanted, str(tmp_path / strategy))
        losses[strategy] = token_loss(model, finetune.collate(rows.to_list()))
    assert len(rows) < len(texts) / 2
    assert losses["pack"] == pytest.approx(losses["pad"], abs=1e-5)


def test_dropout_comes_from_the_params(tiny_gpt2: Path) -> None:
    model = finetune.load_base(tiny_gpt2, dropout=0.3)
    found = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {0.3}


def test_a_full_size_gpt2_with_gpt2s_own_tokenizer_trains(workspace: Workspace) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.conftest import real

    folder = workspace.folder / "gpt2"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    shutil.copy(real("gpt2-tokenizer/encoder.json"), folder / "vocab.json")
    shutil.copy(real("gpt2-tokenizer/vocab.bpe"), folder / "merges.txt")
    workspace.set(base="gpt2", tokenize__max_length=32, finetune__epochs=1, finetune__learning_rate=1e-3)
    from pipeline import base

    base.main()
    paths.CLEAN.parent.mkdir()
    splits = ["train"] * 6 + ["validation", "test"]
    pd.DataFrame({"row": range(8), "text": LINES * 2, "split": splits}).to_parquet(paths.CLEAN)
    tokenize.main()
    finetune.main()
    metrics = json.loads(paths.FINETUNE_METRICS.read_text())
    assert metrics["steps"] == 3
    assert metrics["validation_loss_base"] == pytest.approx(math.log(50257), rel=0.05)  # random weights know nothing
    assert metrics["validation_loss"] < metrics["validation_loss_base"] - 1
