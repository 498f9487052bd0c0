"""Sources and targets become token rows as transformers' own recipe has them, and the loss is that of the targets."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq, PreTrainedModel

from pipeline import params
from pipeline.command import UserError
from pipeline.modeling.batches import Batch, collate_pairs
from pipeline.tasks.padding import padded_row
from pipeline.tasks.seq2seq import TASK, Seq2Seq, Seq2SeqConfig
from pipeline.training import precision
from tests.conftest import LINES, Workspace
from tests.tiny_seq2seq import make_bart, make_t5

LENGTH = 40
WITH_PREFIX = Seq2Seq(Seq2SeqConfig(prefix="shorten: ", max_target_length=12))
ROWS = [
    {"source": line[: 14 * number], "target": line[: 7 * number]} for number in range(1, 5) for line in LINES[:number]
]


@pytest.fixture(scope="module", params=[make_t5, make_bart], ids=["t5", "bart"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny T5, and of a tiny BART."""
    made: Path = request.param(tmp_path_factory.mktemp("base"))
    return made


def load(folder: Path) -> PreTrainedModel:
    """Return the model without dropout, whose training can be compared."""
    return TASK.load_for_training(folder, 0.0, {})


def token_rows(folder: Path, task: Seq2Seq = WITH_PREFIX, rows: Any = ROWS) -> list[dict[str, Any]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    columns = task.token_columns(tokenizer, LENGTH, {})
    return [padded_row(document, columns) for document in task.documents(rows, tokenizer, LENGTH, {})]


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def reference_batch(folder: Path, model: PreTrainedModel) -> Batch:
    """Return the batch of the recipe in transformers' documentation."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    features = [
        {
            "input_ids": tokenizer("shorten: " + row["source"], truncation=True, max_length=LENGTH)["input_ids"],
            "labels": tokenizer(text_target=row["target"])["input_ids"][:12],
        }
        for row in ROWS
    ]
    return dict(DataCollatorForSeq2Seq(tokenizer, model)(features))


def test_batches_are_those_of_transformers_collator(base: Path) -> None:
    model = load(base)
    batch, expected = collate_pairs(token_rows(base)), reference_batch(base, model)
    shifted = expected.pop("decoder_input_ids")
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in batch)
    assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels=batch["labels"]), shifted)
    assert (batch["labels"] == -100).any()
    assert batch["input_ids"].shape[1] <= LENGTH


def test_the_scores_of_rows_are_the_models_own_losses(base: Path) -> None:
    plain = load(base).eval()
    model = TASK.loss_model(copy.deepcopy(plain), {}).eval()
    rows = token_rows(base)
    with torch.inference_mode():
        scores = model(**model.collate(rows))["scores"]
        alone = [float(plain(**collate_pairs([row])).loss) for row in rows]
    assert (scores[:, 0] / scores[:, 1]).tolist() == pytest.approx(alone, rel=1e-5)
    assert scores[:, 1].tolist() == [sum(label != -100 for label in row["labels"]) for row in rows]


def test_accumulated_steps_add_up_to_the_models_own_gradients(base: Path) -> None:
    plain, rows = load(base).train(), token_rows(base)
    parts = TASK.loss_model(copy.deepcopy(plain), {}).train()
    plain(**collate_pairs(rows)).loss.backward()
    count = torch.tensor(sum(label != -100 for row in rows for label in row["labels"]))
    for some in (rows[:3], rows[3:]):
        parts(**parts.collate(some), num_items_in_batch=count)["loss"].backward()
    for actual, expected in zip(parts.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("way", ["products", "autocast"])
def test_bf16_trains_and_scores_like_float32_to_its_rounding(base: Path, way: str) -> None:
    """On CPUs bf16 is torch's switch for products, on GPUs autocast."""
    exact, mixed = (TASK.loss_model(load(base), {}).train() for _ in range(2))
    batch = exact.collate(token_rows(base))
    expected = exact(**batch)["loss"]
    expected.backward()
    if way == "products":
        precision.use("bf16")
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        loss = mixed(**batch)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    gradient, expected_gradient = flat_gradient(mixed), flat_gradient(exact)
    assert gradient.dtype == torch.float32
    assert (gradient - expected_gradient).norm() < 0.05 * expected_gradient.norm()


def test_a_source_that_is_cut_keeps_its_end_and_a_target_loses_it(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    long = {"source": " ".join(LINES), "target": LINES[0]}
    [document] = WITH_PREFIX.documents([long], tokenizer, 16, {})
    source, target = document.columns["input_ids"], document.columns["labels"]
    assert len(source) == 16
    assert source[-1] == target[-1] == tokenizer.eos_token_id
    assert document.truncated == len(tokenizer("shorten: " + long["source"])["input_ids"]) - 16
    row = padded_row(document, WITH_PREFIX.token_columns(tokenizer, 16, {}))
    assert len(target) > 12
    assert row["labels"] == target[:12]
    assert tokenizer.eos_token_id not in row["labels"]


def test_special_tokens_in_a_text_are_characters(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_bart(tmp_path))
    [document] = WITH_PREFIX.documents([{"source": "a </s> b", "target": "c <pad> d"}], tokenizer, LENGTH, {})
    assert document.columns["input_ids"].count(tokenizer.eos_token_id) == 1
    assert tokenizer.pad_token_id not in document.columns["labels"]


def test_a_tokenizer_that_ends_no_text_gets_an_end_for_targets(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_t5(tmp_path))
    tokenizer.backend_tokenizer.post_processor = None
    [document] = WITH_PREFIX.documents(ROWS[:1], tokenizer, LENGTH, {})
    assert document.columns["labels"][-1] == tokenizer.eos_token_id


def test_only_bart_limits_the_length_of_sources(tmp_path: Path) -> None:
    contexts = [
        TASK.context(AutoConfig.from_pretrained(make(tmp_path / make.__name__))) for make in (make_t5, make_bart)
    ]
    assert contexts[0] > 10**9
    assert contexts[1] == 64


def test_a_target_longer_than_the_bases_context_is_refused_before_training(tmp_path: Path) -> None:
    task = Seq2Seq(Seq2SeqConfig(max_target_length=65))
    with pytest.raises(UserError, match=r"max_target_length: found 65, but the base's context is 64 tokens; set it to"):
        task.load_for_training(make_bart(tmp_path), 0.1, {})


def test_dropout_comes_from_the_params(base: Path) -> None:
    config = TASK.load_for_training(base, 0.3, {}).config
    assert {getattr(config, name, 0.3) for name in ("dropout", "dropout_rate", "attention_dropout")} == {0.3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_token_id": None}, "has no padding token; take another base"),
        ({"eos_token_id": None}, "has no end token; take another base"),
        ({"decoder_start_token_id": None}, "decoder starts"),
        ({"vocab_size": 7}, "tokens for a model of 7"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_base_without_what_it_needs_is_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = make_t5(tmp_path)
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    TASK.check_base("mine", config, tokenizer)
    for name, value in change.items():
        setattr(tokenizer if name in ("pad_token_id", "eos_token_id") else config, name, value)
    with pytest.raises(UserError, match=message):
        TASK.check_base("mine", config, tokenizer)


def test_a_decoder_alone_is_refused(tiny_gpt2: Path) -> None:
    config, tokenizer = AutoConfig.from_pretrained(tiny_gpt2), AutoTokenizer.from_pretrained(tiny_gpt2)
    with pytest.raises(UserError, match="mine is of type gpt2; expected a model with an encoder and a decoder"):
        TASK.check_base("mine", config, tokenizer)


def test_one_column_for_both_is_refused(workspace: Workspace) -> None:
    workspace.set(task="seq2seq", tasks__seq2seq__source="text", tasks__seq2seq__target="text")
    with pytest.raises(UserError, match="source and target: found 'text' for both"):
        params.load()


def test_a_saved_model_loads_as_its_class(base: Path) -> None:
    assert type(AutoModelForSeq2SeqLM.from_pretrained(base)) is type(TASK.load(base)[0])
