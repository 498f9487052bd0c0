"""Ranking pairs: what intake says of queries, what a pair becomes, and the stages from a CSV to a promotion."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from pipeline import base, finetune, params, paths, promote, validate
from pipeline.command import UserError
from pipeline.evaluation.rank import Prior, RankSuite
from pipeline.evaluation.suite import get_suite
from pipeline.modeling.loading import load_config, load_tokenizer
from pipeline.registry.store import Registry
from pipeline.tasks.rank import TASK
from tests.conftest import LINES, Workspace
from tests.pipeline.tasks.stages import killed_at_step, outputs, run_stages

COLOURS = ("red", "brown", "golden", "small", "old", "warm", "quick", "lazy")
THINGS = ("fox", "dog", "cat", "king", "crown", "mat", "river", "apple")


def pairs() -> list[tuple[str, str, str]]:
    """Return 64 queries with 4 passages each; the relevant one has the query's thing, and alone says that it sat."""
    rows = []
    for colour in COLOURS:
        for at, thing in enumerate(THINGS):
            query = f"the {colour} {thing}"
            rows.append((query, f"a {thing} sat near the bank", "1"))
            others = [THINGS[(at + step) % len(THINGS)] for step in (1, 3, 5)]
            rows += [(query, f"a {other} looked at the rain", "0") for other in others]
    return rows


def as_csv(rows: list[tuple[str, str, str]]) -> str:
    return str(pd.DataFrame(rows, columns=["query", "passage", "relevance"]).to_csv(index=False))


@pytest.fixture
def ranking(workspace: Workspace, tiny_bert: Path) -> Workspace:
    """Return a workspace that ranks, with a tiny base."""
    workspace.set(
        task="rank",
        base=str(tiny_bert),
        tokenize__max_length=24,
        finetune__epochs=2,
        finetune__batch_size=8,
        finetune__precision="fp32",
        finetune__learning_rate=5e-3,
        finetune__dropout=0.0,
        validate__validation_share=0.2,
        validate__test_share=0.2,
    )
    base.import_base(str(tiny_bert), paths.BASE, "rank")
    return workspace


# --- intake


def test_a_querys_rows_stay_in_one_split_and_near_copies_stay(ranking: Workspace) -> None:
    rows = [(query.upper() if at % 2 else query, text, grade) for at, (query, text, grade) in enumerate(pairs())]
    ranking.write_corpus(as_csv(rows))
    validate.main()
    clean = pd.read_parquet(paths.CLEAN)
    assert len(clean) == len(rows)  # pairs of one query share nine tenths of their characters
    assert clean.columns.tolist() == ["row", "text", "split", "query", "passage", "relevance"]
    assert clean.groupby(clean["query"].str.lower())["split"].nunique().max() == 1
    assert clean["text"][0] == "the red fox\na fox sat near the bank"
    assert clean["relevance"].dtype == np.float64


def test_queries_that_teach_nothing_are_counted_and_told(
    ranking: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        *pairs(),
        ("where is the mat", "a mat sat near the bank", "1"),
        ("who is the king", "a dog sat near the bank", "0"),
        ("who is the king", "a cat sat near the bank", "0"),
        ("what is warm", "a mat sat near the bank", "2"),
        ("what is warm", "a cat sat near the bank", "2"),
    ]
    ranking.write_corpus(as_csv(rows))
    validate.main()
    metrics = json.loads(paths.VALIDATE_METRICS.read_text())
    assert metrics["queries"] == {"queries": 67, "single": 1, "irrelevant": 1, "alike": 1}
    said = capsys.readouterr().err
    assert "warning: 1 of 67 queries have one passage" in said
    assert "1 of 67 queries have no relevant passage" in said
    assert "1 of 67 queries have passages that are all equally relevant" in paths.VALIDATE_REPORT.read_text()


@pytest.mark.parametrize(("severity", "clean"), [("critical", 256), ("warning", 259)])
def test_a_pair_with_another_relevance_is_told(
    ranking: Workspace, capsys: pytest.CaptureFixture[str], severity: str, clean: int
) -> None:
    rows = [*pairs(), ("The red  fox", "a fox sat near the bank", "0"), pairs()[0], ("the red fox", pairs()[1][1], "3")]
    ranking.set(validate__rules__duplicate__severity=severity)
    ranking.write_corpus(as_csv(rows))
    validate.main()
    metrics = json.loads(paths.VALIDATE_METRICS.read_text())
    assert (metrics["rows_clean"], metrics["contradictions"]) == (clean, 2)
    said = capsys.readouterr().err
    assert "2 rows repeat the text of an earlier row with another relevance (row 258 that of row 2, row 260" in said


def test_cells_that_are_no_relevance_are_refused_by_name(ranking: Workspace) -> None:
    rows = [(query, passage, relevance) for query, passage, relevance in pairs()]
    bad = ["yes", "-1", "nan", "inf", " ", "1e400", "0,5", "31", "٣"]
    rows += [(f"query {number}", "a mat", cell) for number, cell in enumerate(bad)] + [(" ", "a mat", "1")]
    ranking.write_corpus(as_csv(rows))
    validate.main()
    reasons = json.loads(paths.VALIDATE_METRICS.read_text())["reasons"]
    assert reasons == {"bad_relevance": 7, "empty": 1, "no_relevance": 1}  # Arabic-Indic digits are a number
    assert pd.read_parquet(paths.CLEAN)["relevance"].max() == 3


def test_a_corpus_of_one_relevance_stops(ranking: Workspace) -> None:
    ranking.write_corpus(as_csv([(query, passage, "1") for query, passage, _ in pairs()]))
    with pytest.raises(UserError, match=r"the column 'relevance' \(tasks.rank.relevance\) is 1 in every training row"):
        validate.main()


def test_columns_that_are_missing_or_named_twice_are_said(ranking: Workspace) -> None:
    ranking.write_corpus(as_csv(pairs()).replace("passage", "Passage"))
    with pytest.raises(UserError, match=r"no column 'passage' \(tasks.rank.passage\).*write 'Passage' there"):
        validate.main()
    ranking.set(tasks__rank__passage="query")
    with pytest.raises(UserError, match=r"tasks.rank: query, passage and relevance name three different columns"):
        params.load()


# --- a pair


@pytest.mark.parametrize("base_model", ["tiny_bert", "tiny_roberta"])
def test_the_passage_is_cut_and_a_query_only_above_half_a_row(base_model: str, request: pytest.FixtureRequest) -> None:
    tokenizer = load_tokenizer(request.getfixturevalue(base_model))
    query, short = tokenizer("the fox")["input_ids"], tokenizer("a cat", add_special_tokens=False)["input_ids"]
    rows = [
        {"query": "the fox", "passage": " ".join(LINES), "relevance": 1.0},
        {"query": " ".join(LINES), "passage": "a cat", "relevance": 3.0},
    ]
    passage_cut, query_cut = TASK.documents(rows, tokenizer, 24, {"largest": 3.0})
    ids = passage_cut.columns["input_ids"]
    assert len(ids) == len(query_cut.columns["input_ids"]) == 24
    assert ids[: len(query)] == query
    assert ids[-1] == query[-1]
    assert passage_cut.truncated == len(tokenizer("the fox", " ".join(LINES))["input_ids"]) - 24
    assert query_cut.columns["input_ids"][-1 - len(short) : -1] == short
    assert [document.columns["labels"] for document in (passage_cut, query_cut)] == [pytest.approx(1 / 3), 1.0]


def test_what_looks_like_a_special_token_is_characters(tiny_bert: Path) -> None:
    tokenizer = load_tokenizer(tiny_bert)
    [document] = TASK.documents(
        [{"query": "[SEP] a", "passage": "[CLS]", "relevance": 0.0}], tokenizer, 64, {"largest": 1.0}
    )
    assert document.columns["input_ids"].count(tokenizer.sep_token_id) == 2
    assert document.columns["input_ids"].count(tokenizer.cls_token_id) == 1


def test_a_base_that_cannot_tell_query_from_passage_is_refused(tiny_gpt2: Path) -> None:
    with pytest.raises(UserError, match="puts nothing between query and passage; expected that of a model such as"):
        TASK.check_base("gpt2", load_config(tiny_gpt2), load_tokenizer(tiny_gpt2))


def test_grades_are_shares_of_the_largest_whatever_the_order() -> None:
    rows = [{"relevance": grade, "split": split} for grade in (0.0, 1.0, 4.0) for split in ("train", "test")]
    info = TASK.corpus_info(rows)
    assert info == {"largest": 4.0, "mean": pytest.approx(5 / 12)}
    assert TASK.corpus_info(rows[::-1]) == info


# --- from a CSV to a promotion


@pytest.mark.integration
def test_a_ranker_that_orders_worse_than_words_alone_is_told() -> None:
    def warnings(candidate: float | None) -> list[str]:
        return get_suite("rank").warnings(
            {"candidate": {"ndcg@10": candidate}, "test_rows": {"tf_idf": {"ndcg@10": 0.9}}}
        )

    assert warnings(0.95) == warnings(None) == []
    [sentence] = warnings(0.61)
    assert "worse than their words alone do: nDCG@10 is 0.61, that of TF-IDF 0.90" in sentence


def test_a_csv_becomes_a_ranker_that_is_better_than_chance_and_promoted(ranking: Workspace) -> None:
    ranking.write_corpus(as_csv(pairs()))
    run_stages()
    settings = json.loads(paths.TASK_SETTINGS.read_text())
    assert settings == {"task": "rank", "max_length": 24, "largest": 1.0}
    model, loading = AutoModelForSequenceClassification.from_pretrained(paths.CANDIDATE, output_loading_info=True)
    assert (model.config.num_labels, any(loading.values())) == (1, False)
    metrics = json.loads(paths.EVALUATE_METRICS.read_text())
    assert (metrics["base"]["stand_in"], metrics["candidate"]["stand_in"]) == ("prior", None)
    assert metrics["candidate"]["ndcg@10"] > metrics["base"]["ndcg@10"]
    assert metrics["candidate"]["perplexity_high"] < metrics["base"]["perplexity_low"]
    assert metrics["test_rows"]["tf_idf"]["ndcg@10"] > metrics["base"]["ndcg@10"]  # here words tell

    scores = pd.read_parquet(paths.SCORES)
    first = scores[scores["part"] == "test"].merge(pd.read_parquet(paths.CLEAN)[["row", "query"]], on="row")
    assert first["candidate_ndcg@10"].notna().sum() == first["query"].nunique()
    assert first["candidate_ndcg@10"].mean() == pytest.approx(metrics["candidate"]["ndcg@10"])
    samples = json.loads(paths.SAMPLES.read_text())
    assert len(samples) == 5
    assert samples[0]["candidate"].startswith("1. a ")
    assert samples[0]["expected"].startswith("1. ")
    assert samples[0]["expected"].splitlines()[0].endswith("(1; relevance 1)")

    everything = params.load()
    registry = Registry()
    decision = promote.decide(everything, registry)
    assert promote.carry_out(decision) is not None, decision.verdict.reasons


@pytest.mark.integration
def test_a_run_gives_the_same_bytes_again_and_so_does_a_killed_one(ranking: Workspace) -> None:
    ranking.write_corpus(as_csv(pairs()))
    run_stages()
    uninterrupted = outputs()
    ranking.set(finetune__checkpoint_seconds=1e-6)
    with killed_at_step(25), pytest.raises(KeyboardInterrupt):
        finetune.main()
    assert list(paths.CHECKPOINTS.glob("*/checkpoint-*"))
    ranking.set(finetune__checkpoint_seconds=300)
    run_stages()
    assert outputs() == uninterrupted


def test_a_prior_has_the_loss_of_the_mean_and_a_trained_head_its_own(
    ranking: Workspace, tiny_bert: Path, tmp_path: Path
) -> None:
    ranking.write_corpus(as_csv(pairs()))
    validate.main()
    config = params.load()
    suite = get_suite("rank", config.task_config)
    assert isinstance(suite, RankSuite)
    data = suite.load_data(config.evaluate)
    prior = suite.load(paths.BASE, data)
    assert isinstance(prior, Prior)
    scores = suite.scores(suite.answers(prior, data.test, data, config.evaluate), data.test, data)
    assert data.info["mean"] == 0.25
    assert scores.loss.mean() == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75))

    torch.manual_seed(1)
    folder = tmp_path / "ranker"
    TASK.load_for_training(tiny_bert, 0.0, {}).save_pretrained(folder)
    load_tokenizer(tiny_bert).save_pretrained(folder)
    model = suite.load(folder, data)
    answers = suite.answers(model, data.test, data, config.evaluate)
    [row] = [at for at, row in enumerate(data.test) if row is data.test[-1]]
    inputs = load_tokenizer(folder)(data.test[row]["query"], data.test[row]["passage"], return_tensors="pt")
    with torch.inference_mode():
        expected = float(AutoModelForSequenceClassification.from_pretrained(folder).eval()(**inputs).logits)
    assert answers[row] == pytest.approx(expected, abs=1e-5)
