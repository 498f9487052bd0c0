"""The stages on a GPU: every task learns and is evaluated, and a killed run ends in the same bytes."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pipeline import finetune, params, paths, tokenize
from pipeline.tasks import registry
from pipeline.training import estimate, optimizer, precision
from tests.conftest import LINES, Workspace
from tests.pipeline.tasks.stages import SETTINGS, killed_at_step, outputs
from tests.tiny_seq2seq import make_t5

pytestmark = pytest.mark.gpu

BASES = {
    "causal_lm": "tiny_gpt2",
    "classify": "tiny_bert",
    "rank": "tiny_bert",
    "masked_lm": "tiny_roberta",
    "seq2seq": "tiny_t5",
}
NUMBERS = range(16)
SPLITS = ("train", "train", "validation", "test")
ON_GPU = {"finetune__precision": "auto", "finetune__dropout": 0.1, "finetune__epochs": 3, "tokenize__max_length": 32}


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("t5"))


def clean_rows(task: str) -> pd.DataFrame:
    """Return 64 clean rows, with the columns of all tasks but the pairs of `rank`, whose text is query and passage."""
    rows: list[dict[str, Any]] = []
    for number in NUMBERS:
        for at, line in enumerate(LINES):
            shift = number // len(SPLITS)
            query, passage = f"{number % len(SPLITS)} {line[:20]}", LINES[(at + shift) % len(LINES)]
            text = f"{query}\n{passage}" if task == "rank" else f"{line} {number}"
            columns = {
                "classify": {"label": line.split()[1]},
                "rank": {"query": query, "passage": passage, "relevance": float(shift == 0)},
                "seq2seq": {"source": text, "target": f"{line.split()[1]}!"},
            }.get(task, {})
            rows.append({"row": len(rows) + 2, "text": text, "split": SPLITS[number % len(SPLITS)], **columns})
    return pd.DataFrame(rows)


def start(workspace: Workspace, task: str, base: Path, **settings: object) -> Workspace:
    """Make the workspace one of `task` in which the stages before `finetune` have run."""
    workspace.set(task=task, **{**SETTINGS, **ON_GPU, **settings})
    paths.BASE.parent.mkdir()
    paths.BASE.symlink_to(base)
    paths.CLEAN.parent.mkdir()
    clean_rows(task).to_parquet(paths.CLEAN)
    tokenize.main()
    return workspace


@pytest.fixture(params=BASES)
def project(request: pytest.FixtureRequest, workspace: Workspace) -> Workspace:
    """Return a workspace of each task in turn."""
    return start(workspace, request.param, request.getfixturevalue(BASES[request.param]))


@pytest.fixture
def texts(workspace: Workspace, tiny_gpt2: Path) -> Workspace:
    """Return a workspace of causal_lm."""
    return start(workspace, "causal_lm", tiny_gpt2)


def test_a_task_learns_and_is_evaluated(project: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = pytest.importorskip("pipeline.evaluate", exc_type=ImportError)
    finetune.main()
    chosen = precision.choose("auto")
    assert f"training in {chosen} on {torch.cuda.get_device_name()}" in capsys.readouterr().err
    assert json.loads(paths.MANIFEST.read_text())["params"]["finetune"]["precision"] == chosen
    losses = pd.read_csv(paths.TRAINING_LOSS)["loss"]
    assert losses.map(math.isfinite).all()
    assert losses.tail(8).mean() < losses.head(8).mean()
    validation = pd.read_csv(paths.VALIDATION_LOSS)["loss"]
    assert validation.iloc[1:].min() < validation.iloc[0]

    evaluate.main()
    metrics = json.loads(paths.EVALUATE_METRICS.read_text())
    assert math.isfinite(metrics["candidate"]["perplexity"])
    assert json.loads(paths.SAMPLES.read_text())


def resumed_outputs(project: Workspace, step: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return what a run writes, and what one writes that is killed in its step `step` and started again."""
    finetune.main()
    uninterrupted = outputs(paths.CANDIDATE)
    project.set(finetune__checkpoint_seconds=1e-6)
    with killed_at_step(step), pytest.raises(KeyboardInterrupt):
        finetune.main()
    assert list(paths.CHECKPOINTS.glob("*/checkpoint-*"))
    project.set(finetune__checkpoint_seconds=300)
    finetune.main()
    return uninterrupted, outputs(paths.CANDIDATE)


def test_a_killed_run_ends_in_the_same_bytes(project: Workspace) -> None:
    uninterrupted, resumed = resumed_outputs(project, step=11)
    assert resumed == uninterrupted


def test_a_killed_run_on_long_texts_ends_in_the_same_bytes(
    workspace: Workspace, tiny_gpt2: Path, tmp_path: Path
) -> None:
    """The backward passes of some attention kernels add up in any order, but only over long texts."""
    config = AutoConfig.from_pretrained(tiny_gpt2, n_positions=1024)
    folder = tmp_path / "long"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(folder)
    settings = {"tokenize__max_length": 1024, "tokenize__strategy": "pack", "finetune__batch_size": 1}
    start(workspace, "causal_lm", folder, **settings, finetune__epochs=2)
    texts = [{**row, "text": " ".join(LINES * 10)} for row in clean_rows("causal_lm").to_dict("records")]
    pd.DataFrame(texts).to_parquet(paths.CLEAN)
    tokenize.main()
    uninterrupted, resumed = resumed_outputs(workspace, step=3)
    assert resumed == uninterrupted


@pytest.mark.parametrize(
    "setting",
    [
        {"finetune__lora_rank": 4, "finetune__learning_rate": 1e-2},
        {"finetune__frozen_weights": "nf4", "finetune__lora_rank": 4, "finetune__learning_rate": 1e-2},
        {"finetune__activation_checkpointing": True},
        {"finetune__batch_size": "auto"},
        {"finetune__precision": "fp32"},
        {"tokenize__strategy": "pack"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_each_way_to_train_learns_and_ends_in_a_plain_model(texts: Workspace, setting: dict[str, object]) -> None:
    if setting.get("finetune__frozen_weights") == "nf4":
        pytest.importorskip("bitsandbytes")
    texts.set(**setting)
    tokenize.main()
    finetune.main()
    validation = pd.read_csv(paths.VALIDATION_LOSS)["loss"]
    assert validation.iloc[1:].min() < validation.iloc[0]
    model, loading = AutoModelForCausalLM.from_pretrained(paths.CANDIDATE, output_loading_info=True)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert not any(loading.values())


@pytest.mark.parametrize("task", ["classify", "seq2seq"])
def test_adapters_and_activation_checkpointing_train_other_tasks(
    task: str, workspace: Workspace, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(BASES[task])
    start(workspace, task, base, finetune__lora_rank=4, finetune__activation_checkpointing=True)
    finetune.main()
    validation = pd.read_csv(paths.VALIDATION_LOSS)["loss"]
    assert validation.iloc[1:].min() < validation.iloc[0]


def test_the_estimate_leaves_no_trace_and_knows_the_memory_of_the_gpu(texts: Workspace) -> None:
    config = params.load()
    task = registry.get_task(config.task, config.task_config)
    model = finetune.ModelBuilder(task, paths.BASE, config.finetune, finetune.corpus_info())("bf16").to("cuda")
    rows = DatasetDict.load_from_disk(paths.TOKENS)["train"]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.cuda.get_rng_state()
    with precision.autocast("bf16"):
        measured = estimate.measure(model, rows, optimizer.class_and_settings(1e-3), batch_size=4)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert measured.row_seconds > 0
    assert measured.row_memory > 0
    assert measured.fixed_memory < measured.available <= torch.cuda.get_device_properties(0).total_memory


def test_the_engine_reads_a_prompt_as_the_model_does_on_a_cpu(tiny_gpt2: Path) -> None:
    from serving.engines.transformers import TransformersRunner

    runner = TransformersRunner(tiny_gpt2)
    slot = runner.open(16)
    ids = list(range(1, 12))
    expected = AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.float32)(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(runner.step([slot], [ids])[0], expected.detach(), rtol=1e-3, atol=1e-3)
