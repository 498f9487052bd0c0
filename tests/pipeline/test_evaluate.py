"""Base and candidate are measured on the same texts, from the same prompts and at the same seed."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline import escape, evaluate, params, paths
from pipeline.evaluation import causal_lm, scores
from pipeline.evaluation.generation import Generation
from pipeline.evaluation.suite import get_suite
from pipeline.registry.model_version import content_version
from tests.conftest import LINES, Workspace

pytestmark = pytest.mark.integration

SAMPLED = ["A small cat", "My neighbour bought"]  # the beginnings of the test split
SIZES = {"generations": 4, "prompt_tokens": 3, "membership_rows": 2, "test_prompts": 2, "test_prompt_words": 3}


@pytest.fixture
def stage(workspace: Workspace, tiny_gpt2: Path) -> Workspace:
    """Return a workspace in which the stages before this one have run."""
    shutil.copytree(tiny_gpt2, paths.BASE)
    shutil.copytree(tiny_gpt2, paths.CANDIDATE)
    write_clean({"split": ["train", "test", "test", "validation"]})
    workspace.set(evaluate__max_new_tokens=12, **{f"evaluate__{key}": value for key, value in SIZES.items()})
    return workspace


def write_clean(columns: dict[str, list[str]]) -> None:
    """Write the clean rows of `LINES`."""
    paths.CLEAN.parent.mkdir(exist_ok=True)
    pd.DataFrame({"row": range(2, 6), "text": LINES} | columns).to_parquet(paths.CLEAN)


def metrics() -> dict[str, dict[str, object]]:
    """Run the stage and return its metrics."""
    evaluate.main()
    result: dict[str, dict[str, object]] = json.loads(paths.EVALUATE_METRICS.read_text())
    return result


def test_the_same_model_twice_has_the_same_figures_and_samples(stage: Workspace) -> None:
    result = metrics()
    assert result["base"] == result["candidate"]
    assert result["base"]["version"] == content_version(paths.BASE)
    relied_upon = {"perplexity", "perplexity_low", "perplexity_high", "bits_per_byte", "tokens"}
    assert set(result["base"]) == relied_upon | {"version", "general", "text", "memorisation", "real", "likeness"}
    assert result["base"]["real"]["texts"] == 2  # as many as there are test rows
    assert set(result["test_rows"]["text"]) == set(result["base"]["text"])
    samples = json.loads(paths.SAMPLES.read_text())
    assert [sample["prompt"] for sample in samples] == [
        "Once upon a time in a distant land",
        "In the heart of a bustling city",
        "The scientist worked tirelessly in the lab",
        *SAMPLED,
    ]
    assert all(sample["base"] == sample["candidate"] for sample in samples)
    assert escape.markdown(samples[0]["base"]) in paths.SAMPLES_PAGE.read_text()
    plotted = pd.read_csv(paths.PERPLEXITY_PLOT)
    assert plotted["model"].tolist() == ["base", "candidate"]
    assert plotted["perplexity"].tolist() == pytest.approx([result["base"]["perplexity"]] * 2)


def test_samples_of_another_corpus_begin_as_its_test_rows_do(stage: Workspace) -> None:
    stage.set(data__path="data/mine.csv")
    evaluate.main()
    assert [sample["prompt"] for sample in json.loads(paths.SAMPLES.read_text())] == SAMPLED


def test_a_blank_text_is_shown_as_such_and_counted(stage: Workspace, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def blank(_model, _tokenizer, prompts, _config):
        return [Generation(prompt, " \n", 1, ended=True) for prompt in prompts]

    monkeypatch.setattr(causal_lm, "generate", blank)
    result = metrics()
    assert (result["candidate"]["text"]["blank"], result["test_rows"]["text"]["blank"]) == (1.0, 0.0)
    assert "candidate: 100.0 % of its 2 texts are blank" in capsys.readouterr().err
    assert paths.SAMPLES_PAGE.read_text().count("(blank)") == 2 * 5


def test_a_prompt_from_a_test_row_does_not_count_as_copied(stage: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlike(_model, _tokenizer, prompts, _config):
        return [Generation(prompt, " zzz", 1, ended=True) for prompt in prompts]

    monkeypatch.setattr(causal_lm, "generate", unlike)
    write_clean({"split": ["train", "test", "test", "train"], "text": [LINES[1], LINES[1], LINES[2], LINES[2]]})
    assert metrics()["candidate"]["memorisation"]["longest"] < 3  # the prompts have 3 tokens of a training row


def test_the_scores_of_each_row_add_up_to_the_perplexity(stage: Workspace) -> None:
    result = metrics()
    table = pd.read_parquet(paths.SCORES)
    assert table.loc[table["part"] == "test", "row"].tolist() == [3, 4]
    assert table["part"].value_counts().to_dict() == {"general": 90, "test": 2, "train": 1, "validation": 1}
    probes = scores.probes_from_table(table, "candidate")
    assert probes.general.loss.sum() / probes.general.tokens.sum() == pytest.approx(
        math.log(result["candidate"]["general"]["perplexity"])
    )
    candidate = scores.from_table(table, "candidate")
    assert candidate.tokens.sum() == result["candidate"]["tokens"]
    bits = candidate.loss.sum() / candidate.bytes.sum() / 0.6931471805599453
    assert bits == pytest.approx(result["candidate"]["bits_per_byte"])


def test_every_group_of_the_corpus_has_its_figures(stage: Workspace) -> None:
    write_clean({"split": ["train", "test", "test", "test"], "group": ["a", "a", "b", "b"]})
    groups = metrics()["candidate"]["groups"]
    assert {name: group["rows"] for name, group in groups.items()} == {"a": 1, "b": 2}


def test_the_same_inputs_give_the_same_bytes(stage: Workspace) -> None:
    outputs = (
        paths.EVALUATE_METRICS, paths.SAMPLES, paths.SAMPLES_PAGE, paths.PERPLEXITY_PLOT, paths.SCORES,
        paths.GENERATIONS,
    )  # fmt: skip
    evaluate.main()
    first = [path.read_bytes() for path in outputs]
    evaluate.main()
    assert [path.read_bytes() for path in outputs] == first


def test_a_champion_is_measured_on_what_the_stage_measured(stage: Workspace) -> None:
    result = metrics()
    config, suite = params.load().evaluate, get_suite("causal_lm")
    champion = suite.evaluate(paths.BASE, suite.load_data(config), config)
    assert json.loads(json.dumps(champion.metrics)) == result["base"]
    assert [sample["base"] for sample in json.loads(paths.SAMPLES.read_text())] == champion.samples


@pytest.mark.parametrize(
    "texts", [["cat", "dog", "rain", "king"], ["".join(map(chr, range(0x4E00, 0x4E00 + 40)))] * 4], ids=["words", "Han"]
)
def test_texts_without_spaces_or_of_one_word_are_evaluated_to_the_end(stage: Workspace, texts: list[str]) -> None:
    stage.set(evaluate__prompt_tokens=30, evaluate__test_prompt_words=40)
    write_clean({"split": ["train", "test", "test", "validation"], "text": texts})
    result = metrics()
    assert result["test_rows"]["prompts"]["texts"] == 2
    prompts = [sample["prompt"] for sample in json.loads(paths.SAMPLES.read_text())][3:]
    assert all(text.startswith(prompt) for text, prompt in zip(sorted(texts[1:3]), sorted(prompts), strict=False))
    assert len(set(prompts)) == len(prompts) >= 1
