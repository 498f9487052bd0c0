"""Masked language models through the stages: fixed masks where models are compared, new ones where they learn."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertModel

from pipeline import base, finetune, params, paths, promote
from pipeline.command import UserError
from pipeline.evaluation.masked_lm import MaskedLMSuite, pseudo_scores
from pipeline.modeling.batches import IGNORED_LABEL
from pipeline.modeling.loading import load_config, load_tokenizer
from pipeline.modeling.masked_loss import MaskedLossModel, collate_masked
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from pipeline.tasks.masked_lm import TASK, MaskedLM, MaskedLMConfig
from pipeline.tasks.padding import padded_row
from pipeline.tasks.registry import get_task
from tests.conftest import LINES, Workspace
from tests.pipeline.tasks.stages import SETTINGS, killed_at_step, outputs, run_stages

ANIMALS = ("fox", "dog", "cat", "king", "old man", "small boy", "neighbour", "rat")
PLACES = ("river", "bank", "mat", "crown", "apple", "rain")


def corpus() -> str:
    texts = [f"The {animal} sat near the {place} for an hour." for animal in ANIMALS for place in PLACES]
    return str(pd.DataFrame({"text": texts}).to_csv(index=False))


@pytest.fixture
def project(workspace: Workspace, tiny_roberta: Path) -> Workspace:
    """Return a workspace of this task with a corpus and a base."""
    workspace.set(task="masked_lm", base=str(tiny_roberta), **SETTINGS)
    workspace.set(tokenize__max_length=48, finetune__epochs=3, validate__test_share=0.3, evaluate__membership_rows=20)
    workspace.write_corpus(corpus())
    base.import_base(str(tiny_roberta), paths.BASE, "masked_lm")
    return workspace


# --- masks


def token_rows(folder: Path, texts: list[str], length: int = 64) -> list[dict[str, Any]]:
    tokenizer = load_tokenizer(folder)
    columns = TASK.token_columns(tokenizer, length, {})
    documents = TASK.documents([{"text": text} for text in texts], tokenizer, length, {})
    return [padded_row(document, columns) for document in documents]


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta"])
def test_a_texts_masks_are_fixed_and_never_hide_a_special_token(model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    rows = token_rows(folder, LINES)
    assert token_rows(folder, LINES[::-1])[::-1] == rows
    special = set(load_tokenizer(folder).all_special_ids)
    for row in rows:
        labels = [label for label in row["labels"] if label != IGNORED_LABEL]
        assert len(labels) == max(1, round(0.15 * sum(row["can_mask"])))
        assert not special & set(labels)
        assert sum(row["can_mask"]) == sum(row["attention_mask"]) - 2


def test_characters_that_the_tokenizer_does_not_know_and_names_of_masks_are_no_targets(tiny_bert: Path) -> None:
    unknown, named = token_rows(tiny_bert, ["мышь 猫 🦊", "A [MASK] sat [SEP] on the mat."])
    assert set(unknown["labels"]) == {IGNORED_LABEL}  # all tokens are the unknown one
    tokenizer = load_tokenizer(tiny_bert)
    assert tokenizer.mask_token_id not in named["input_ids"]
    assert named["input_ids"].count(tokenizer.sep_token_id) == 1


def test_training_draws_as_many_masks_of_each_row_anew_and_evaluation_none(tiny_roberta: Path) -> None:
    batch = collate_masked(token_rows(tiny_roberta, [*LINES, "a"]))
    loss_model = MaskedLossModel(TASK.load_for_training(tiny_roberta, 0.0, {}))
    torch.manual_seed(0)
    columns = [batch[name] for name in ("input_ids", "labels", "can_mask", "mask_token")]
    first, second = (loss_model.drawn(*columns)[1] != IGNORED_LABEL for _ in range(2))
    fixed = batch["labels"] != IGNORED_LABEL
    assert first.sum(1).tolist() == second.sum(1).tolist() == fixed.sum(1).tolist()
    assert not torch.equal(first, second)
    assert not (first & (batch["can_mask"] == 0)).any()
    loss_model.eval()
    with torch.inference_mode():
        assert torch.equal(loss_model(**batch)["scores"], loss_model(**batch)["scores"])


def test_of_the_drawn_tokens_most_are_masked_some_replaced_and_some_left(tiny_roberta: Path) -> None:
    task = MaskedLM(MaskedLMConfig(mask_share=0.5))
    tokenizer = load_tokenizer(tiny_roberta)
    documents = task.documents([{"text": " ".join(LINES) * 40}], tokenizer, 10_000, {})
    batch = collate_masked([padded_row(documents[0], task.token_columns(tokenizer, 10_000, {}))])
    loss_model = MaskedLossModel(task.load_for_training(tiny_roberta, 0.0, {}))
    torch.manual_seed(0)
    ids = batch["input_ids"]
    read, labels = loss_model.drawn(ids, batch["labels"], batch["can_mask"], batch["mask_token"])
    drawn = labels != IGNORED_LABEL
    assert torch.equal(read[~drawn], ids[~drawn])
    shares = [(read[drawn] == tokenizer.mask_token_id).float().mean(), (read[drawn] == ids[drawn]).float().mean()]
    assert shares[0] == pytest.approx(0.8, abs=0.03)
    assert shares[1] == pytest.approx(0.1, abs=0.03)


def test_the_loss_is_that_of_the_plain_model_and_pseudo_perplexity_that_of_its_definition(tiny_bert: Path) -> None:
    [row] = token_rows(tiny_bert, [LINES[0]])
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)
    ids = tokenizer(LINES[0], return_tensors="pt")["input_ids"]

    def loss_of(places: list[int]) -> float:
        masked = ids.clone()
        masked[0, places] = tokenizer.mask_token_id
        with torch.inference_mode():
            logits = model(input_ids=masked).logits[0, places]
        return float(torch.nn.functional.cross_entropy(logits, ids[0, places], reduction="sum"))

    loss_model = TASK.loss_model(*TASK.load(tiny_bert)[:1], {}).eval()
    with torch.inference_mode():
        loss, count = loss_model(**collate_masked([row]))["scores"][0].tolist()
    places = [at for at, label in enumerate(row["labels"]) if label != IGNORED_LABEL]
    assert (loss, count) == (pytest.approx(loss_of(places), rel=1e-4), len(places))

    suite = MaskedLMSuite(TASK)
    scores = pseudo_scores(suite, suite.loaded(tiny_bert), [{"text": LINES[0]}], 256)
    inner = range(1, ids.shape[1] - 1)
    assert scores.loss[0] == pytest.approx(sum(loss_of([place]) for place in inner), rel=1e-4)
    assert scores.tokens[0] == len(inner)


def test_bases_without_a_head_or_a_token_for_masks_are_refused(
    tiny_bert: Path, tiny_gpt2: Path, tmp_path: Path
) -> None:
    BertModel.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a BertModel, whose head for masked tokens is not among its weights"):
        TASK.check_base("sentences", load_config(tmp_path), load_tokenizer(tiny_bert))
    tokenizer = load_tokenizer(tiny_bert)
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="has no token for masks"):
        TASK.check_base("maskless", load_config(tiny_bert), tokenizer)
    with pytest.raises(UserError, match="transformers has no ForMaskedLM for it"):
        TASK.check_base("gpt2", load_config(tiny_gpt2), load_tokenizer(tiny_gpt2))


# --- from a CSV to a champion, and on to the base of another task


@pytest.mark.integration
def test_a_csv_becomes_a_champion_that_other_tasks_start_from(project: Workspace) -> None:
    run_stages()
    metrics = json.loads(paths.EVALUATE_METRICS.read_text())
    for figure in ("perplexity", "pseudo_perplexity"):
        assert metrics["candidate"][f"{figure}_high"] < metrics["base"][f"{figure}_low"]
    assert json.loads(paths.TASK_SETTINGS.read_text()) == {"task": "masked_lm", "max_length": 48}
    [sample, *_] = json.loads(paths.SAMPLES.read_text())
    assert sample["prompt"].count("<mask>") >= 1
    assert sample["candidate"].endswith("right)")
    _, loading = AutoModelForMaskedLM.from_pretrained(paths.CANDIDATE, output_loading_info=True)
    assert not any(loading.values())

    registry = Registry()
    decision = promote.decide(params.load(), registry)
    champion = promote.carry_out(decision)
    assert champion is not None, decision.verdict.reasons
    trained = AutoModelForMaskedLM.from_pretrained(champion.folder).roberta.state_dict()
    for name in (str(champion.folder), f"registry:{champion.tag}", f"registry:{short(champion.tag)}"):
        for task_name in ("rank", "classify"):
            base.import_base(name, paths.BASE, task_name)
            assert not (paths.BASE / "task.json").exists()  # it says how to use another task's model
            torch.manual_seed(0)
            info = {"labels": ["a", "b", "c"], "counts": [1, 1, 1], "rows": 3, "largest": 1.0, "mean": 0.5}
            model = get_task(task_name).load_for_training(paths.BASE, 0.1, info)
            taken = model.roberta.state_dict()
            assert taken.keys() == trained.keys()
            assert all(torch.equal(taken[key], trained[key]) for key in trained)
            assert model.classifier.out_proj.weight.shape[0] == (1 if task_name == "rank" else 3)


@pytest.mark.integration
def test_a_run_gives_the_same_bytes_again_and_so_does_a_killed_one(project: Workspace) -> None:
    project.set(finetune__epochs=2, finetune__dropout=0.1)
    run_stages()
    uninterrupted = outputs()
    project.set(finetune__checkpoint_seconds=1e-6)
    with killed_at_step(14), pytest.raises(KeyboardInterrupt):
        finetune.main()
    assert list(paths.CHECKPOINTS.glob("*/checkpoint-*"))
    project.set(finetune__checkpoint_seconds=300)
    run_stages()
    assert outputs() == uninterrupted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("registry:champion", "expected registry:NAME:VERSION with at least 12 digits"),
        ("registry:text-generator:0123456789ab", "no version begins with 0123456789ab"),
        ("registry:../../etc:0123456789ab", "expected registry:NAME:VERSION"),
    ],
)
def test_a_version_that_is_not_there_is_said(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        base.import_base(name, tmp_path / "base", "classify")


def test_a_share_of_masks_out_of_range_is_refused(project: Workspace) -> None:
    project.set(tasks__masked_lm__mask_share=0.9)
    with pytest.raises(UserError, match=r"tasks.masked_lm.mask_share: found 0.9"):
        params.load()
