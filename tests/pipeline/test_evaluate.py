"""Base and candidate are scored on the same texts and sampled from the same prompts at the same seed."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline import evaluate, params, paths
from tests.conftest import LINES, Workspace


@pytest.fixture
def stage(workspace: Workspace, tiny_gpt2: Path) -> Workspace:
    """Return a workspace in which the stages before this one have run."""
    shutil.copytree(tiny_gpt2, paths.BASE)
    shutil.copytree(tiny_gpt2, paths.CANDIDATE)
    paths.CLEAN.parent.mkdir()
    splits = ["train", "test", "test", "validation"]
    pd.DataFrame({"row": range(2, 6), "text": LINES, "split": splits}).to_parquet(paths.CLEAN)
    workspace.set(evaluate__max_new_tokens=12, evaluate__test_prompts=2, evaluate__test_prompt_words=3)
    return workspace


def test_the_same_model_twice_has_the_same_figures_and_samples(stage: Workspace) -> None:
    evaluate.main()
    metrics = json.loads(paths.EVALUATE_METRICS.read_text())
    assert metrics["base"] == metrics["candidate"]
    assert set(metrics["base"]) == {"perplexity", "perplexity_low", "perplexity_high", "bits_per_byte", "tokens"}
    samples = json.loads(paths.SAMPLES.read_text())
    assert [sample["prompt"] for sample in samples] == [
        "Once upon a time in a distant land",
        "In the heart of a bustling city",
        "The scientist worked tirelessly in the lab",
        "A small cat",  # of the test split
        "My neighbour bought",
    ]
    assert all(sample["base"] == sample["candidate"] for sample in samples)
    assert samples[0]["base"] in paths.SAMPLES_PAGE.read_text()
    plotted = pd.read_csv(paths.PERPLEXITY_PLOT)
    assert plotted["model"].tolist() == ["base", "candidate"]
    assert plotted["perplexity"].tolist() == pytest.approx([metrics["base"]["perplexity"]] * 2)


def test_the_same_inputs_give_the_same_bytes(stage: Workspace) -> None:
    outputs = (paths.EVALUATE_METRICS, paths.SAMPLES, paths.SAMPLES_PAGE, paths.PERPLEXITY_PLOT)
    evaluate.main()
    first = [path.read_bytes() for path in outputs]
    evaluate.main()
    assert [path.read_bytes() for path in outputs] == first


def test_a_sample_follows_its_seed_and_stays_within_the_context(stage: Workspace) -> None:
    model, tokenizer = evaluate.load_model(paths.BASE)

    def sample(**changes: int) -> str:
        for key, value in changes.items():
            stage.set(**{f"evaluate__{key}": value})
        return evaluate.generate(model, tokenizer, "The cat", params.load().evaluate)

    assert sample(seed=1) == sample(seed=1) != sample(seed=2)
    assert len(sample(max_new_tokens=1000)) > len(sample(max_new_tokens=12))  # and no error past the context of 64
