"""A loss model computes what the plain model does: the same losses, gradients and updates, in less time."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.activations import NewGELUActivation

from pipeline import params, tokenize
from pipeline.modeling import batches, fast_layers, fused_loss, loss_model
from pipeline.tasks.causal_lm import TASK
from pipeline.training import optimizer, precision
from tests.conftest import LINES

pytestmark = pytest.mark.integration

TEXTS = [line[: 6 * number] for number in range(1, 6) for line in LINES]


def load(folder: Path, dropout: float = 0.0) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(
        folder, use_cache=False, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout
    )
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)


def rows_of(folder: Path, strategy: str, scratch: Path) -> list[dict[str, list[int]]]:
    config = params.Tokenize(strategy=strategy, max_length=64, canaries=0, canary_repeats=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows, _ = tokenize.TokenWriter(TASK, tokenizer, config, {}).dataset(({"text": text} for text in TEXTS), scratch)
    return rows.to_list()


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return the batch of the plain recipe."""
    ids, mask = (torch.tensor([row[column] for row in rows]) for column in ("input_ids", "attention_mask"))
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0] = -100  # nothing predicts the start token
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("strategy", ["pad", "pack"])
def test_the_loss_and_all_gradients_are_those_of_padded_batches(tiny_gpt2: Path, tmp_path: Path, strategy: str) -> None:
    plain = load(tiny_gpt2).train()
    fast = loss_model.prepare(copy.deepcopy(plain))
    expected = plain(**padded(rows_of(tiny_gpt2, "pad", tmp_path))).loss
    loss = fast(**batches.collate_packed(rows_of(tiny_gpt2, strategy, tmp_path)))["loss"]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)

    expected.backward()
    loss.backward()
    for (name, actual), weight in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, weight.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_each_documents_loss_is_the_same_as_alone_and_padded(tiny_gpt2: Path, tmp_path: Path) -> None:
    plain = load(tiny_gpt2).eval()
    fast = loss_model.prepare(copy.deepcopy(plain)).eval()
    rows = rows_of(tiny_gpt2, "pad", tmp_path)
    with torch.inference_mode():
        scores = fast(**batches.collate_packed(rows))["scores"]
        alone = [plain(**padded([row])).loss.item() for row in rows]
    assert (scores[:, 0] / scores[:, 1]).tolist() == pytest.approx(alone, abs=1e-5)
    assert scores[:, 1].tolist() == [sum(row["attention_mask"]) - 1 for row in rows]


def test_scores_are_those_of_rows_when_documents_are_packed(tiny_gpt2: Path, tmp_path: Path) -> None:
    fast = loss_model.prepare(load(tiny_gpt2)).eval()
    rows = rows_of(tiny_gpt2, "pack", tmp_path)
    with torch.inference_mode():
        together = fast(**batches.collate_packed(rows))["scores"]
        one_by_one = torch.cat([fast(**batches.collate_packed([row]))["scores"] for row in rows])
    assert len(together) == len(rows)
    torch.testing.assert_close(together, one_by_one, atol=1e-4, rtol=1e-5)


def test_accumulated_steps_add_up_to_one(tiny_gpt2: Path, tmp_path: Path) -> None:
    rows = rows_of(tiny_gpt2, "pad", tmp_path)
    whole, parts = (loss_model.prepare(load(tiny_gpt2).train()) for _ in range(2))
    whole(**batches.collate_packed(rows))["loss"].backward()
    count = sum(sum(row["attention_mask"]) - 1 for row in rows)
    for some in (rows[:7], rows[7:]):
        parts(**batches.collate_packed(some), num_items_in_batch=torch.tensor(count))["loss"].backward()
    for actual, weight in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, weight.grad, atol=1e-6, rtol=1e-4)


def test_logits_computed_in_chunks_give_the_same_gradients(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batches.collate_packed(rows_of(tiny_gpt2, "pad", tmp_path))
    whole, parts = (loss_model.prepare(load(tiny_gpt2).train()) for _ in range(2))
    whole(**batch)["loss"].backward()
    monkeypatch.setattr(fused_loss, "_MAX_LOGITS", 320 * 50)  # 50 tokens of the tiny vocabulary
    parts(**batch)["loss"].backward()
    for actual, weight in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, weight.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("collator", ["collate_packed", "collate_padded"])
@pytest.mark.parametrize("tokens_per_chunk", [10_000, 50])
def test_autocast_to_bf16_trains_and_scores_like_float32_to_its_rounding(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collator: str, tokens_per_chunk: int
) -> None:
    """GPUs train under autocast; what its choice of types breaks there, it breaks on a CPU as well."""
    monkeypatch.setattr(fused_loss, "_MAX_LOGITS", 320 * tokens_per_chunk)
    rows = rows_of(tiny_gpt2, "pad", tmp_path)
    exact, mixed = (loss_model.prepare(load(tiny_gpt2).train()) for _ in range(2))
    if collator == "collate_padded":  # the padded batches of GPUs, which take torch's own attention
        for model in (exact, mixed):
            model.model.set_attn_implementation("sdpa")
    batch = getattr(batches, collator)(rows)
    expected = exact(**batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed(**batch)["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)

    expected.backward()
    loss.backward()
    for (name, actual), weight in zip(mixed.named_parameters(), exact.parameters(), strict=True):
        assert actual.grad.dtype == torch.float32, name
        error = (actual.grad.to_dense() - weight.grad.to_dense()).norm() / weight.grad.to_dense().norm()
        assert error < 0.05, (name, error)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = mixed.eval()(**batch)["scores"]
    assert (scores[:, 0].sum() / scores[:, 1].sum()).item() == pytest.approx(expected.item(), rel=5e-3)


def test_a_packed_model_refuses_padded_batches(tiny_gpt2: Path, tmp_path: Path) -> None:
    fast = loss_model.prepare(load(tiny_gpt2))
    with pytest.raises(ValueError, match="expected a batch of `collate_packed`"):
        fast(**padded(rows_of(tiny_gpt2, "pad", tmp_path)))


def test_torchs_tanh_gelu_equals_gelu_new_to_1e_6() -> None:
    values = torch.linspace(-12, 12, 100_001)
    assert (torch.nn.GELU(approximate="tanh")(values) - NewGELUActivation()(values)).abs().max() < 1e-6


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    kept = fast_layers.fast_dropout(torch.ones(1001, 999), 0.1)
    assert (kept == 0).float().mean().item() == pytest.approx(0.1, abs=1e-3)
    assert kept.mean().item() == pytest.approx(1, abs=1e-3)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.9], rel=1e-4)


def test_dropout_depends_on_torchs_seed_alone() -> None:
    torch.manual_seed(1)
    first = fast_layers.fast_dropout(torch.ones(100), 0.5)
    torch.manual_seed(1)
    assert torch.equal(fast_layers.fast_dropout(torch.ones(100), 0.5), first)
    assert not torch.equal(fast_layers.fast_dropout(torch.ones(100), 0.5), first)


def test_evaluation_has_no_dropout(tiny_gpt2: Path, tmp_path: Path) -> None:
    batch = batches.collate_packed(rows_of(tiny_gpt2, "pad", tmp_path))
    with_dropout, without = (loss_model.prepare(load(tiny_gpt2, p)) for p in (0.5, 0.0))
    assert with_dropout(**batch)["loss"] == without(**batch)["loss"]  # their models are loaded for evaluation
    assert with_dropout.train()(**batch)["loss"] != without.train()(**batch)["loss"]
    assert with_dropout.eval()(**batch)["loss"] == without.eval()(**batch)["loss"]


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_steps_are_reproducible(tiny_gpt2: Path, tmp_path: Path, chosen: precision.Precision) -> None:
    batch = batches.collate_packed(rows_of(tiny_gpt2, "pad", tmp_path))

    def trained() -> list[torch.Tensor]:
        torch.manual_seed(3)
        precision.use(chosen)
        model = loss_model.prepare(load(tiny_gpt2, dropout=0.1)).train()
        optimizer_class, settings = optimizer.class_and_settings(1e-3)
        steps = optimizer_class(model.parameters(), **settings)
        for _ in range(3):
            model(**batch)["loss"].backward()
            steps.step()
            steps.zero_grad()
        return [parameter.detach().clone() for parameter in model.parameters()]

    assert all(map(torch.equal, trained(), trained()))


def test_bf16_products_change_the_loss_little(tiny_gpt2: Path, tmp_path: Path) -> None:
    batch = batches.collate_packed(rows_of(tiny_gpt2, "pad", tmp_path))
    model = loss_model.prepare(load(tiny_gpt2)).eval()
    losses = []
    for chosen in ("fp32", "bf16"):
        precision.use(chosen)
        with torch.inference_mode():
            losses.append(model(**batch)["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
