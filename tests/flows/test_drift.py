"""Drift of new texts against the champion's recorded metrics, and the coverage of its interval."""

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.drift import measure_drift, new_rows, perplexity_ratio, read_rows
from pipeline import params, paths
from pipeline.command import UserError
from pipeline.evaluation.perplexity import metrics
from pipeline.evaluation.scores import Scores
from pipeline.intake.quarantine import Quarantine
from pipeline.registry.versions import Version
from tests.conftest import LINES, Workspace

FIGURES = ("perplexity", "perplexity_low", "perplexity_high")

pytestmark = pytest.mark.integration

SEEN = [f"{line} {number}" for number in range(40) for line in LINES]
ODD = ["".join(chr(97 + (7 * i + 11 * j * j) % 26) for j in range(30)) + f" {i}" for i in range(100)]


@pytest.fixture(scope="module")
def trained(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model that has learned LINES."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    shutil.copytree(tiny_gpt2, folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    ids = [torch.tensor([[0, *tokenizer(line)["input_ids"]]]) for line in LINES]
    torch.manual_seed(0)
    for step in range(120):
        batch = ids[step % len(ids)]
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def perplexity_of(folder: Path, texts: list[str]) -> float:
    """Return the perplexity by its definition, one text at a time, without the optimisations of `score`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    loss, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([[0, *tokenizer(text)["input_ids"]]])
        with torch.inference_mode():
            chances = model(ids).logits[0, :-1].double().log_softmax(-1)
        loss -= chances.gather(1, ids[0, 1:, None]).sum().item()
        tokens += ids.shape[1] - 1
    return math.exp(loss / tokens)


def rows_of(texts: list[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


@pytest.fixture
def champion(trained: Path) -> Version:
    """Return a champion with the metrics that a promotion records."""
    reference = perplexity_of(trained, SEEN[:80])
    recorded = {"perplexity": reference, "perplexity_low": reference / 1.02, "perplexity_high": reference * 1.02}
    return Version("text-generator:0123456789ab", "0123456789ab", trained, "", {}, {"figures": recorded})


@pytest.fixture
def config(workspace: Workspace) -> params.Params:
    workspace.set(watch__drift_rows=50)
    return params.load()


def test_unfamiliar_texts_drift_and_familiar_ones_do_not(champion: Version, config: params.Params) -> None:
    same = measure_drift(rows_of(SEEN[80:]), config, champion)
    assert same is not None
    assert not same.drifted
    assert 0.8 < same.ratio < 1.2
    assert same.sentence.endswith(" not beyond noise above 1.20")
    other = measure_drift(rows_of(ODD), config, champion)
    assert other is not None
    assert other.drifted
    assert other.low < other.ratio < other.high
    assert other.ratio == pytest.approx(
        perplexity_of(champion.folder, ODD) / champion.metadata["figures"]["perplexity"], rel=1e-4
    )
    assert other.sentence == f"drift {other.ratio:.2f} > 1.20"
    assert "# Drift in the new rows" in other.markdown("the new rows")


def test_a_ratio_within_noise_of_the_bound_is_no_drift(champion: Version, config: params.Params) -> None:
    mixed = SEEN[80:140] + ODD[:1]
    result = measure_drift(rows_of(mixed), config, champion)
    assert result is not None
    bound = (result.low + result.ratio) / 2
    close = config.model_copy(update={"watch": config.watch.model_copy(update={"drift": bound})})
    again = measure_drift(rows_of(mixed), close, champion)
    assert again is not None
    assert again.ratio > bound
    assert not again.drifted


def test_too_few_texts_are_not_judged(champion: Version, config: params.Params) -> None:
    assert measure_drift(rows_of(ODD[:49]), config, champion) is None


def test_a_champion_without_metrics_is_an_error(champion: Version, config: params.Params) -> None:
    with pytest.raises(UserError, match="was registered without perplexity, perplexity_low"):
        measure_drift(rows_of(ODD), config, replace(champion, metadata={}))


def test_the_interval_of_the_ratio_has_its_nominal_coverage() -> None:
    draw = np.random.default_rng(1)
    truth = math.exp(0.3)
    held = 0
    for seed in range(300):
        sides = []
        for mean, rows in ((3.3, 60), (3.0, 40)):
            tokens = draw.integers(10, 40, rows)
            loss = tokens * mean + draw.normal(0, 8, rows)
            sides.append(metrics(Scores(loss, tokens, tokens * 4), resamples=200, confidence=0.95, seed=seed))
        _, low, high = perplexity_ratio(*sides)
        held += low <= truth <= high
    assert 0.90 < held / 300 < 0.99


def test_a_huge_ratio_stays_finite() -> None:
    ruined, recorded = ({name: math.exp(nats) for name in FIGURES} for nats in (700.0, -5.0))
    assert perplexity_ratio(ruined, recorded) == (math.exp(700),) * 3


def test_new_texts_are_unseen_and_pass_the_rules(workspace: Workspace) -> None:
    seen, refused = SEEN[:20], ["", "write to a@example.org", "A near-copy of another row."]
    new = [*ODD[:10], "or to b@example.org", SEEN[1].upper()]
    with workspace.write_corpus("").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in [*seen, *refused, *new, ODD[0]] if text)])
    pd.DataFrame({"text": seen}).to_parquet(workspace.folder / paths.CLEAN)
    paths.QUARANTINE.parent.mkdir(parents=True)
    with Quarantine(paths.QUARANTINE, ["text"]) as file:
        for row, text in enumerate(refused, 22):
            file.add(row, "email", "", [text])
    assert sorted(row["text"] for row in new_rows(Path(), params.load())) == sorted(ODD[:10])


def test_a_file_of_texts_is_sampled_deterministically(workspace: Workspace) -> None:
    corpus = workspace.write_corpus(
        "text\n" + "".join(f"A text that says number {number}.\n" for number in range(5000))
    )
    result = read_rows(corpus, params.load())
    numbers = [int(row["text"].split()[-1][:-1]) for row in result]
    assert len(set(numbers)) == 1000
    assert 2000 < np.mean(numbers) < 3000  # as good as drawn at random
    assert result == read_rows(corpus, params.load())
    workspace.set(validate__column="other")
    with pytest.raises(UserError, match="there is no column 'other'"):
        read_rows(corpus, params.load())
