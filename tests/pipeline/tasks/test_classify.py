"""Classification through the stages: labels of any strings, figures of decisions, and no test row decides anything."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import finetune, params, paths, promote, tokenize, validate
from pipeline.command import UserError
from pipeline.evaluation.suite import get_suite
from pipeline.registry.store import Registry
from pipeline.tasks.classify import Classify, ClassifyConfig
from tests.conftest import Workspace
from tests.pipeline.tasks.stages import SETTINGS, killed_at_step, outputs, run_stages
from tests.tiny_models import save_bert

pytestmark = pytest.mark.integration

WORDS = {"fruit": ["apples", "pears", "plums"], "animal": ["cats", "dogs", "owls"], "tool": ["saws", "nails", "axes"]}
LABELS = {"fruit": "obst, süß", "animal": 'a "tier"', "tool": "tool"}  # any strings
ROWS = [
    (f"We saw {number} {word} near the {place}.", LABELS[kind])
    for kind, words in WORDS.items()
    for word in words
    for place in ("old mill", "river")
    for number in range(2, 9)
]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"), [text for text, _ in ROWS])


def write_corpus(workspace: Workspace, rows: list[tuple[str, str]]) -> None:
    frame = pd.DataFrame(rows, columns=["text", "label"])
    workspace.write_corpus(frame.to_csv(index=False))


def start(workspace: Workspace, base: Path) -> None:
    """Make the workspace one of this task, with a corpus and a base."""
    paths.BASE.parent.mkdir()
    paths.BASE.symlink_to(base)
    workspace.set(task="classify", **SETTINGS)
    write_corpus(workspace, ROWS)


@pytest.fixture
def project(workspace: Workspace, tiny_bert: Path) -> Workspace:
    """Return a workspace of this task with a corpus and a base, for a short training."""
    start(workspace, tiny_bert)
    workspace.set(finetune__epochs=2)
    return workspace


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Return a project in which the stages have run, for tests that only read."""
    folder = tmp_path_factory.mktemp("classify")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        start(Workspace(folder), tiny_bert)
        run_stages()
    return folder


@pytest.fixture
def trained(run_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a copy of the project in which the stages have run."""
    folder = shutil.copytree(run_once, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(folder)
    params_file = (folder / "params.yaml").read_text()
    workspace = Workspace(folder)
    (folder / "params.yaml").write_text(params_file)
    return workspace


def metrics(model: str = "candidate") -> dict[str, object]:
    result: dict[str, dict[str, object]] = json.loads(paths.EVALUATE_METRICS.read_text())
    return result[model]


def test_it_learns_labels_of_any_strings_and_a_run_gives_the_same_bytes_again(trained: Workspace) -> None:
    first = outputs()
    config = json.loads((paths.CANDIDATE / "config.json").read_text())
    assert set(config["id2label"].values()) == set(LABELS.values())
    base, candidate = metrics("base"), metrics()
    assert candidate["accuracy"] > 0.9 > base["accuracy"]
    assert candidate["perplexity"] < base["perplexity"]
    assert base["perplexity"] == pytest.approx(3, rel=0.1)  # guessing three labels by their frequency
    run_stages()
    assert outputs() == first


def test_a_killed_run_ends_in_the_same_bytes(trained: Workspace) -> None:
    uninterrupted = outputs(paths.CANDIDATE)
    trained.set(finetune__checkpoint_seconds=1e-6)
    with killed_at_step(40), pytest.raises(KeyboardInterrupt):
        finetune.main()
    assert list(paths.CHECKPOINTS.glob("*/checkpoint-*"))
    trained.set(finetune__checkpoint_seconds=300)
    finetune.main()
    assert outputs(paths.CANDIDATE) == uninterrupted


def test_steps_in_parts_are_the_undivided_ones(project: Workspace) -> None:
    validate.main()
    tokenize.main()
    losses = []
    for rows_at_once in ("all", 1):
        project.set(finetune__rows_at_once=rows_at_once)
        finetune.main()
        losses.append(
            [loss for path in (paths.TRAINING_LOSS, paths.VALIDATION_LOSS) for loss in pd.read_csv(path)["loss"]]
        )
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_its_probabilities_and_loss_are_those_of_the_plain_model_of_transformers(trained: Workspace) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(paths.CANDIDATE).eval()
    tokenizer = AutoTokenizer.from_pretrained(paths.CANDIDATE)
    clean = pd.read_parquet(paths.CLEAN)
    test = clean[clean["split"] == "test"]
    settings = json.loads(paths.TASK_SETTINGS.read_text())
    with torch.inference_mode():
        inputs = tokenizer(test["text"].tolist(), padding=True, truncation=True, max_length=24, return_tensors="pt")
        logits = model(**inputs).logits / settings["temperature"]
    truth = torch.tensor([model.config.label2id[label] for label in test["label"]])
    expected = torch.nn.functional.cross_entropy(logits.double(), truth).item()
    assert metrics()["log_loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics()["accuracy"] == pytest.approx((logits.argmax(1) == truth).double().mean().item())


def test_rows_without_a_label_are_quarantined_and_labels_that_cannot_be_learned_are_told(
    project: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(project, [*ROWS, ("A text that nobody has labelled.", " "), ("A kind of its own altogether.", "once")])
    validate.main()
    quarantine = pd.read_csv(paths.QUARANTINE)
    assert quarantine["reasons"].tolist() == ["no_label"]
    counted = json.loads(paths.VALIDATE_METRICS.read_text())
    assert counted["rows_in"] == counted["rows_clean"] + counted["rows_quarantined"]
    assert sum(counted["labels"]["tool"].values()) == 42
    told = capsys.readouterr().err
    assert "fewer than 10 clean rows (tasks.classify.min_rows) have the label 'once' (1): add rows" in told
    assert "the label is blank" in paths.VALIDATE_REPORT.read_text()


def test_a_cell_that_is_a_list_is_said_where_one_label_is_expected(project: Workspace) -> None:
    write_corpus(project, [*ROWS, ("A text of two kinds at once.", '["fruit", "tool"]')])
    validate.main()
    assert pd.read_csv(paths.QUARANTINE)["reasons"].tolist() == ["bad_label"]


def test_a_column_without_labels_stops_the_stage(project: Workspace) -> None:
    write_corpus(project, [(text, "always the same") for text, _ in ROWS])
    with pytest.raises(UserError, match=r"'label' \(tasks.classify.label\) has fewer than two labels"):
        validate.main()
    project.set(tasks__classify__label="kind")
    with pytest.raises(UserError, match=r"there is no column 'kind' \(tasks.classify.label\)"):
        validate.main()


def test_several_labels_a_row(project: Workspace) -> None:
    both = [(text.replace(".", " and a saw."), f"{label};tool") for text, label in ROWS if label != "tool"]
    write_corpus(project, [*ROWS, *both])
    project.set(tasks__classify__separator=";", finetune__epochs=4)
    run_stages()
    settings = json.loads(paths.TASK_SETTINGS.read_text())
    assert settings["multi_label"] is True
    assert set(settings["thresholds"]) == set(LABELS.values())
    assert metrics()["classes"]["tool"]["recall"] > 0.9
    rows = DatasetDict.load_from_disk(paths.TOKENS)["train"]
    assert {sum(row["labels"]) for row in rows} == {1.0, 2.0}


def rare(workspace: Workspace, **settings: object) -> dict[str, object]:
    """Train on two labels, one of them rare, and return the task's settings of the candidate."""
    rows = [(text, "fraud" if label == "tool" else "ok") for text, label in ROWS]
    write_corpus(workspace, [row for row in rows if row[1] == "ok"] + [row for row in rows if row[1] == "fraud"][:20])
    workspace.set(**{f"tasks__classify__{key}": value for key, value in settings.items()})
    run_stages()
    result: dict[str, object] = json.loads(paths.TASK_SETTINGS.read_text())
    return result


def test_of_two_labels_the_rarer_one_gets_a_threshold_of_its_own(project: Workspace) -> None:
    settings = rare(project, class_weight="auto")
    assert settings["by"] == "f1"
    assert list(settings["thresholds"]) == ["fraud"]
    assert metrics()["decision"]["thresholds"] == settings["thresholds"]


def test_costs_decide_where_params_say_what_errors_cost(project: Workspace) -> None:
    settings = rare(project, decide="cost", costs={"fraud": {"ok": 50.0}, "ok": {"fraud": 1.0}})
    assert settings["by"] == "cost"
    assert settings["thresholds"]["fraud"] < 0.5  # a missed fraud costs fifty false alarms
    scores = pd.read_parquet(paths.SCORES)
    assert scores["candidate_cost"].dropna().isin([0, 1, 50]).all()


def test_costs_of_a_label_that_no_row_has_are_refused_before_training(project: Workspace) -> None:
    project.set(tasks__classify__decide="cost", tasks__classify__costs={"fraud": {"tool": 5.0}})
    validate.main()
    with pytest.raises(UserError, match=r"params.yaml: tasks.classify.costs: 'fraud' is no label of the corpus"):
        tokenize.main()


def test_decisions_are_chosen_without_a_look_at_the_test_rows(trained: Workspace) -> None:
    settings, weights = paths.TASK_SETTINGS.read_bytes(), (paths.CANDIDATE / "model.safetensors").read_bytes()
    clean = pd.read_parquet(paths.CLEAN)
    is_test = clean["split"] == "test"
    clean.loc[is_test, "label"] = clean.loc[is_test, "label"].to_numpy()[::-1]
    clean.to_parquet(paths.CLEAN)
    tokenize.main()
    finetune.main()
    assert (paths.TASK_SETTINGS.read_bytes(), (paths.CANDIDATE / "model.safetensors").read_bytes()) == (
        settings,
        weights,
    )


def test_a_champion_that_does_not_know_a_new_label_is_still_compared(trained: Workspace, tmp_path: Path) -> None:
    old = paths.CANDIDATE.rename(tmp_path / "champion")
    write_corpus(trained, [*ROWS, *((f"They sang song {number} at noon.", "music") for number in range(40))])
    run_stages()
    config = params.load()
    suite = get_suite(config.task, config.task_config)
    evaluation = suite.evaluate(old, suite.load_data(config.evaluate), config.evaluate)
    assert evaluation.metrics["classes"]["music"]["recall"] == 0
    assert evaluation.metrics["classes"]["tool"]["recall"] > 0.9
    assert evaluation.metrics["perplexity"] > metrics()["perplexity"]


def test_packing_and_canaries_are_refused(project: Workspace) -> None:
    project.set(tokenize__strategy="pack", tokenize__canaries=3)
    validate.main()
    with pytest.raises(UserError) as error:
        tokenize.main()
    assert str(error.value).splitlines() == [
        "params.yaml: tokenize.strategy: found pack, but a row of classify is read by itself; set it to pad",
        "params.yaml: tokenize.canaries: found 3, but classify repeats no texts; set it to 0",
    ]


def test_a_gpt2_gets_a_head_too(project: Workspace, tiny_gpt2: Path) -> None:
    paths.BASE.unlink()
    paths.BASE.symlink_to(tiny_gpt2)
    project.set(tokenize__max_length=40)
    run_stages()
    assert metrics()["accuracy"] > metrics("base")["accuracy"]


def test_settings_that_exclude_each_other_are_one_sentence_each(workspace: Workspace) -> None:
    workspace.set(task="classify", tasks__classify__decide="cost")
    with pytest.raises(UserError, match="decide: cost needs costs"):
        params.load()
    workspace.set(task="clasify")
    with pytest.raises(UserError, match=r"task: found 'clasify'; expected one of .*; did you mean classify\?"):
        params.load()


def test_class_weights_make_each_label_count_alike() -> None:
    task = Classify(ClassifyConfig(class_weight="auto"))
    assert task._class_weights({"labels": ["a", "b"], "counts": [30, 10], "rows": 40}) == [40 / 60, 40 / 20]


def test_the_verdict_and_its_page_speak_of_labels(project: Workspace) -> None:
    project.set(validate__test_share=0.3)
    run_stages()
    decision = promote.decide(params.load(), Registry(Path()))
    names = [gate.name for gate in decision.verdict.gates]
    assert {"recall", "calibration", "cost", "membership", "size", "latency", "rolled_back"} <= set(names)
    assert "label perplexity" in decision.verdict.comparison
    assert decision.verdict.promoted, decision.verdict.reasons
    page = paths.REPORT.read_text()
    assert "Label perplexity" in page
    assert "Confusion on the test split" in page
    assert "Precision and recall of each label" in page
    samples = paths.SAMPLES_PAGE.read_text()
    assert "**expected**" in samples
    assert "…" not in samples  # a label continues nothing
    promote.carry_out(decision)
    entry = Registry(Path()).history()[-1]
    assert entry.figures["accuracy"] == metrics()["accuracy"]
