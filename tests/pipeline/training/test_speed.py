"""Fast training computes what plain training does: the same losses, gradients and updates, only sooner."""

import copy
import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.activations import NewGELUActivation

from pipeline import params, tokenize
from pipeline.modeling import batches, cpu, fast_layers, loss_model
from pipeline.training import optimizer, precision
from tests.conftest import LINES

pytestmark = pytest.mark.integration

TEXTS = [line[: 6 * number] for number in range(1, 6) for line in LINES]


@pytest.fixture(autouse=True)
def plain_products() -> Iterator[None]:
    """Put torch's switch for the whole process back."""
    yield
    torch.set_float32_matmul_precision("highest")


def load(folder: Path, dropout: float = 0.0) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(
        folder, use_cache=False, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout
    )
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)


def rows_of(folder: Path, strategy: str, scratch: Path) -> list[dict[str, list[int]]]:
    wanted = params.Tokenize(strategy=strategy, max_length=64, canaries=0, canary_repeats=1)
    rows, _ = tokenize.token_rows(TEXTS, AutoTokenizer.from_pretrained(folder), wanted, str(scratch))
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
    fast = loss_model.prepare(copy.deepcopy(plain), "fp32")
    expected = plain(**padded(rows_of(tiny_gpt2, "pad", tmp_path))).loss
    loss = fast(**batches.collate_packed(rows_of(tiny_gpt2, strategy, tmp_path)))["loss"]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)

    expected.backward()
    loss.backward()
    for (name, mine), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_each_documents_loss_is_the_same_as_alone_and_padded(tiny_gpt2: Path, tmp_path: Path) -> None:
    plain = load(tiny_gpt2).eval()
    fast = loss_model.prepare(copy.deepcopy(plain), "fp32").eval()
    rows = rows_of(tiny_gpt2, "pad", tmp_path)
    with torch.inference_mode():
        scores = fast(**batches.collate_packed(rows))["scores"]
        alone = [plain(**padded([row])).loss.item() for row in rows]
    assert (scores[:, 0] / scores[:, 1]).tolist() == pytest.approx(alone, abs=1e-5)
    assert scores[:, 1].tolist() == [sum(row["attention_mask"]) - 1 for row in rows]


def test_scores_are_those_of_rows_when_documents_are_packed(tiny_gpt2: Path, tmp_path: Path) -> None:
    fast = loss_model.prepare(load(tiny_gpt2), "fp32").eval()
    rows = rows_of(tiny_gpt2, "pack", tmp_path)
    with torch.inference_mode():
        together = fast(**batches.collate_packed(rows))["scores"]
        one_by_one = torch.cat([fast(**batches.collate_packed([row]))["scores"] for row in rows])
    assert len(together) == len(rows)
    torch.testing.assert_close(together, one_by_one, atol=1e-4, rtol=1e-5)


def test_accumulated_steps_add_up_to_one(tiny_gpt2: Path, tmp_path: Path) -> None:
    rows = rows_of(tiny_gpt2, "pad", tmp_path)
    whole, parts = (loss_model.prepare(load(tiny_gpt2).train(), "fp32") for _ in range(2))
    whole(**batches.collate_packed(rows))["loss"].backward()
    count = sum(sum(row["attention_mask"]) - 1 for row in rows)
    for some in (rows[:7], rows[7:]):
        parts(**batches.collate_packed(some), num_items_in_batch=torch.tensor(count))["loss"].backward()
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_logits_made_in_parts_give_the_same_gradients(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batches.collate_packed(rows_of(tiny_gpt2, "pad", tmp_path))
    whole, parts = (loss_model.prepare(load(tiny_gpt2).train(), "fp32") for _ in range(2))
    whole(**batch)["loss"].backward()
    monkeypatch.setattr(loss_model, "_LOGITS_AT_ONCE", 320 * 50)  # 50 tokens of the tiny vocabulary
    parts(**batch)["loss"].backward()
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("collator", ["flat", "to_longest"])
@pytest.mark.parametrize("tokens_a_part", [10_000, 50])
def test_autocast_to_bf16_trains_and_scores_like_float32_to_its_rounding(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collator: str, tokens_a_part: int
) -> None:
    """GPUs train under autocast; what its choice of types breaks there, it breaks on a CPU as well."""
    monkeypatch.setattr(loss_model, "_LOGITS_AT_ONCE", 320 * tokens_a_part)
    rows = rows_of(tiny_gpt2, "pad", tmp_path)
    exact, mixed = (loss_model.prepare(load(tiny_gpt2).train(), "fp32") for _ in range(2))
    if collator == "to_longest":  # the padded batches of GPUs, which take torch's own attention
        for model in (exact, mixed):
            model.set_attn_implementation("sdpa")
    batch = getattr(loss_model, collator)(rows)
    expected = exact(**batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed(**batch)["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)

    expected.backward()
    loss.backward()
    for (name, mine), theirs in zip(mixed.named_parameters(), exact.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32, name
        error = (mine.grad.to_dense() - theirs.grad.to_dense()).norm() / theirs.grad.to_dense().norm()
        assert error < 0.05, (name, error)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = mixed.eval()(**batch)["scores"]
    assert (scores[:, 0].sum() / scores[:, 1].sum()).item() == pytest.approx(expected.item(), rel=5e-3)


def test_an_architecture_not_known_gets_padded_batches_and_the_same_loss_and_scores(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, use_cache=False
    )
    plain = LlamaForCausalLM(config).train()
    rows = [{"input_ids": [0, *range(1, n), 0, 0, 0], "attention_mask": [1] * (n + 1) + [0] * 2} for n in (6, 6)]
    expected = plain(**padded(rows)).loss.item()
    fast = loss_model.prepare(copy.deepcopy(plain), "fp32")
    batch = loss_model.collate(fast)(rows)
    assert batch["input_ids"].shape == (2, 7)  # no longer than the longest
    assert fast(**batch)["loss"].item() == pytest.approx(expected, abs=1e-6)
    scores = fast.eval()(**batch)["scores"]
    assert (scores[:, 0].sum() / scores[:, 1].sum()).item() == pytest.approx(expected, abs=1e-6)


def test_a_prepared_model_refuses_batches_that_it_would_misread(tiny_gpt2: Path, tmp_path: Path) -> None:
    fast = loss_model.prepare(load(tiny_gpt2), "fp32")
    with pytest.raises(ValueError, match="reads batches of `flat` only"):
        fast(**padded(rows_of(tiny_gpt2, "pad", tmp_path)))


def test_torchs_tanh_gelu_is_gpt2s_own_to_1e_6() -> None:
    values = torch.linspace(-12, 12, 100_001)
    mine = torch.nn.GELU(approximate="tanh")(values)
    assert (mine - NewGELUActivation()(values)).abs().max() < 1e-6


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    kept = fast_layers.dropout(torch.ones(1001, 999), 0.1)
    assert (kept == 0).float().mean().item() == pytest.approx(0.1, abs=1e-3)
    assert kept.mean().item() == pytest.approx(1, abs=1e-3)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.9], rel=1e-4)


def test_dropout_hangs_on_torchs_seed_alone() -> None:
    torch.manual_seed(1)
    first = fast_layers.dropout(torch.ones(100), 0.5)
    torch.manual_seed(1)
    assert torch.equal(fast_layers.dropout(torch.ones(100), 0.5), first)
    assert not torch.equal(fast_layers.dropout(torch.ones(100), 0.5), first)


def test_dropout_is_no_part_of_evaluation(tiny_gpt2: Path, tmp_path: Path) -> None:
    batch = batches.collate_packed(rows_of(tiny_gpt2, "pad", tmp_path))
    with_dropout, without = (loss_model.prepare(load(tiny_gpt2, p), "fp32") for p in (0.5, 0.0))
    assert with_dropout.train()(**batch)["loss"] != without.train()(**batch)["loss"]
    assert with_dropout.eval()(**batch)["loss"] == without.eval()(**batch)["loss"]


@pytest.mark.parametrize("size", [0.01, 100.0])  # below and above the norm at which gradients are clipped
def test_the_optimizer_is_adamw_after_clip_grad_norm(size: float) -> None:
    torch.manual_seed(0)
    start = [torch.randn(30, 7), torch.randn(11)]
    mine, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    kind, settings = optimizer.optimizer(1e-2)
    clipping = kind(mine, **settings, weight_decay=0.1)
    plain = torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1, fused=True)
    for _ in range(3):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = size * torch.randn_like(one)
            other.grad = one.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        clipping.step()
        plain.step()
        assert clipping.norm.item() == pytest.approx(norm.item(), rel=1e-5)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_steps_give_the_same_weights_again(tiny_gpt2: Path, tmp_path: Path, chosen: precision.Precision) -> None:
    batch = batches.collate_packed(rows_of(tiny_gpt2, "pad", tmp_path))

    def trained() -> list[torch.Tensor]:
        torch.manual_seed(3)
        model = loss_model.prepare(load(tiny_gpt2, dropout=0.1), chosen).train()
        kind, settings = optimizer.optimizer(1e-3)
        steps = kind(model.parameters(), **settings)
        for _ in range(3):
            model(**batch)["loss"].backward()
            steps.step()
            steps.zero_grad()
        return [parameter.detach().clone() for parameter in model.parameters()]

    assert all(map(torch.equal, trained(), trained()))


def test_bf16_products_change_the_loss_by_little(tiny_gpt2: Path, tmp_path: Path) -> None:
    batch = batches.collate_packed(rows_of(tiny_gpt2, "pad", tmp_path))
    with torch.inference_mode():
        losses = [
            loss_model.prepare(load(tiny_gpt2), chosen).eval()(**batch)["loss"].item() for chosen in ("fp32", "bf16")
        ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_precision_measured_is_the_same_every_time() -> None:
    assert len({precision.choose("auto") for _ in range(3)}) == 1
    assert precision.choose("fp32") == "fp32"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the process through /proc")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    code = """
import torch
from pipeline.training import speed
speed.keep_freed_memory()
def faults():
    return int(open('/proc/self/stat').read().rsplit(')')[-1].split()[7])
for _ in range(20):
    torch.ones(2**22)
before = faults()
for _ in range(10):
    torch.ones(2**22)
print(faults() - before)
"""
    faults = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert faults < 1000  # of 4 KB pages; given back each time it would be 40,000


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
def test_an_installed_allocator_is_preloaded_once_and_said(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from pipeline.training import speed\n"
        "speed.preload_allocator()\n"
        "print(sys.argv[1:], os.environ.get('LD_PRELOAD', 'none') in open('/proc/self/maps').read() + 'none')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", cpu._PRELOADED)}
    environment["PYTHONPATH"] = str(Path.cwd())
    command = [sys.executable, str(script), "one", "two words"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "['one', 'two words'] True\n"
    installed = any(map(ctypes.util.find_library, ("tcmalloc_minimal", "tcmalloc", "jemalloc")))
    assert done.stderr.count("allocator: ") == (1 if installed and not torch.cuda.is_available() else 0)
