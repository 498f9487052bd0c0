"""Batches without padding give each architecture the losses and gradients of its padded ones."""

import copy
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from pipeline.modeling import loss_model, masked_loss, row_loss, seq2seq_loss
from pipeline.modeling.packed_attention import is_varlen
from pipeline.training import precision

VOCABULARY, PAD, MASK = 60, 1, 2
# What the sizes are called differs between architectures; each takes the names that it has.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **{"vocab_size": VOCABULARY, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8, "max_position_embeddings": 64},
}
TOKENS = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": PAD, "use_cache": False}
LENGTHS = torch.tensor([12, 3, 7, 1])
KEPT = (torch.arange(12) < LENGTHS[:, None]).long()  # (rows, tokens), the attention mask
IDS = torch.where(KEPT == 1, torch.randint(3, VOCABULARY, KEPT.shape, generator=torch.Generator().manual_seed(0)), PAD)


def make(auto_class: Any, architecture: str, **settings: Any) -> PreTrainedModel:
    """Return a tiny model with weights large enough that positions and masks matter, without dropout."""
    known = AutoConfig.for_model(architecture)
    config = AutoConfig.for_model(
        architecture, **{name: value for name, value in SIZES.items() if hasattr(known, name)}, **TOKENS, **settings
    )
    torch.manual_seed(0)
    model = auto_class.from_config(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    for name in vars(model.config):
        if "drop" in name and isinstance(getattr(model.config, name), float):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # of an attention
            module.dropout = 0.0
    return model


def assert_same(expected: torch.Tensor, actual: torch.Tensor, plain: PreTrainedModel, fast: PreTrainedModel) -> None:
    """Check that both losses are equal, and so are all gradients."""
    assert actual.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    actual.backward()
    compared = 0
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None and theirs.grad.norm() > 1e-6:
            error = (ours.grad.to_dense() - theirs.grad).norm() / theirs.grad.norm()
            assert error < 3e-5, (name, error)
            compared += 1
    assert compared > 10


@pytest.mark.parametrize(
    "architecture",
    ["gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text", "phi3", "olmo2", "cohere", "granite", "opt"],
)
def test_a_decoder_reads_texts_without_padding(architecture: str) -> None:
    plain = make(AutoModelForCausalLM, architecture)
    fast = loss_model.prepare(copy.deepcopy(plain))
    assert is_varlen(fast.model)
    rows = [{"input_ids": ids, "attention_mask": kept} for ids, kept in zip(IDS.tolist(), KEPT.tolist(), strict=True)]
    batch = fast.collate(rows)
    assert batch["input_ids"].shape == (1, 12 + 3 + 7)  # the text of one token has no label
    labels = IDS.masked_fill(KEPT == 0, -100)
    expected = plain(input_ids=IDS, attention_mask=KEPT, labels=labels).loss
    assert_same(expected, fast(**batch)["loss"], plain, fast.model)


@pytest.mark.parametrize("architecture", ["gemma2", "bloom", "phi"])
def test_a_decoder_whose_attention_or_positions_are_of_another_kind_gets_padded_batches(architecture: str) -> None:
    plain = make(AutoModelForCausalLM, architecture)
    fast = loss_model.prepare(copy.deepcopy(plain))
    rows = [{"input_ids": ids, "attention_mask": kept} for ids, kept in zip(IDS.tolist(), KEPT.tolist(), strict=True)]
    expected = plain(input_ids=IDS, attention_mask=KEPT, labels=IDS.masked_fill(KEPT == 0, -100)).loss
    assert not is_varlen(fast.model)
    assert_same(expected, fast(**fast.collate(rows))["loss"], plain, fast.model)


def test_a_text_longer_than_the_sliding_window_sees_the_window_alone() -> None:
    plain = make(AutoModelForCausalLM, "mistral", sliding_window=4)
    fast = loss_model.prepare(copy.deepcopy(plain))
    rows = [{"input_ids": ids, "attention_mask": kept} for ids, kept in zip(IDS.tolist(), KEPT.tolist(), strict=True)]
    expected = plain(input_ids=IDS, attention_mask=KEPT, labels=IDS.masked_fill(KEPT == 0, -100)).loss
    assert is_varlen(fast.model)
    assert_same(expected, fast(**fast.collate(rows))["loss"], plain, fast.model)


def test_whether_texts_can_be_packed_is_the_same_for_every_precision_of_products() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        precision.use("bf16")
        model = make(AutoModelForCausalLM, "llama")
        seen: list[str] = []
        model.register_forward_pre_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
        fast = loss_model.prepare(model)
        assert set(seen) == {"highest"}  # rounded ones would make two ways of the same sum differ
        assert is_varlen(fast.model)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


ENCODERS = {
    **dict.fromkeys(("bert", "roberta", "roberta-prelayernorm", "xlm-roberta", "distilbert", "electra"), True),
    **dict.fromkeys(("modernbert", "albert", "deberta-v2"), False),
}


@pytest.mark.parametrize(("architecture", "packs"), ENCODERS.items())
def test_the_layers_of_a_classifier_compute_no_padding(architecture: str, packs: bool) -> None:
    plain = make(AutoModelForSequenceClassification, architecture)
    fast = row_loss.RowLossModel(copy.deepcopy(plain), row_loss.log_losses)
    assert is_varlen(fast.model) == packs
    labels = torch.tensor([0, 1, 1, 0])
    expected = torch.nn.functional.cross_entropy(plain(input_ids=IDS, attention_mask=KEPT).logits, labels)
    loss = fast(input_ids=IDS, attention_mask=KEPT, labels=labels)["loss"]
    assert_same(expected, loss, plain, fast.model)


@pytest.mark.parametrize(("architecture", "packs"), ENCODERS.items())
def test_the_head_of_a_masked_model_reads_masked_tokens_alone(architecture: str, packs: bool) -> None:
    plain = make(AutoModelForMaskedLM, architecture).eval()
    fast = masked_loss.MaskedLossModel(copy.deepcopy(plain))
    assert is_varlen(fast.model) == packs
    chosen = (torch.arange(12) % 3 == 1) & (KEPT == 1)
    labels = IDS.masked_fill(~chosen, -100)
    expected = plain(input_ids=IDS.masked_fill(chosen, MASK), attention_mask=KEPT, labels=labels).loss
    loss = fast(IDS, labels, attention_mask=KEPT, can_mask=KEPT, mask_token=torch.full((4,), MASK))["loss"]
    assert_same(expected, loss, plain, fast.model)


def test_a_packed_encoder_can_be_called_without_a_mask_and_prepared_twice() -> None:
    plain = make(AutoModelForSequenceClassification, "bert").eval()
    fast = copy.deepcopy(plain)
    for _ in range(2):
        fast = row_loss.RowLossModel(fast, row_loss.log_losses).model
    torch.testing.assert_close(fast(IDS[:1]).logits, plain(IDS[:1]).logits)


@pytest.mark.parametrize(("architecture", "packs"), [("t5", True), ("mt5", True), ("umt5", True), ("bart", False)])
def test_sources_and_targets_are_read_without_padding(architecture: str, packs: bool) -> None:
    plain = make(AutoModelForSeq2SeqLM, architecture)
    fast = seq2seq_loss.Seq2SeqLossModel(copy.deepcopy(plain))
    assert is_varlen(fast.model) == packs
    targets = IDS.flip(1)[:, :9].flip(0)  # of other lengths than their sources
    kept = torch.arange(9) < torch.tensor([2, 9, 1, 5])[:, None]
    labels = torch.where(kept, targets.clamp(min=3), -100)
    expected = plain(input_ids=IDS, attention_mask=KEPT, labels=labels).loss
    assert_same(expected, fast(IDS, labels, attention_mask=KEPT)["loss"], plain, fast.model)


def test_a_t5_in_evaluation_scores_and_writes_as_the_plain_one() -> None:
    plain = make(AutoModelForSeq2SeqLM, "t5").eval()
    fast = seq2seq_loss.Seq2SeqLossModel(copy.deepcopy(plain).train()).eval()
    labels = IDS[:, :5].masked_fill(KEPT[:, :5] == 0, -100)
    expected = plain(input_ids=IDS, attention_mask=KEPT, labels=labels).loss
    assert fast(IDS, labels, attention_mask=KEPT)["loss"].item() == pytest.approx(expected.item(), abs=1e-5)

    def write(model: PreTrainedModel) -> list[list[int]]:
        tokens: torch.Tensor = model.generate(IDS, attention_mask=KEPT, max_new_tokens=6, do_sample=False)
        return tokens.tolist()

    assert write(fast.model) == write(plain)


@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_a_step_with_dropout_depends_on_the_seed_alone(architecture: str) -> None:
    def loss(seed: int) -> float:
        if architecture == "t5":
            model = make(AutoModelForSeq2SeqLM, architecture)
            fast: loss_model.LossModel = seq2seq_loss.Seq2SeqLossModel(model)
            labels = IDS.masked_fill(KEPT == 0, -100)
        else:
            model = make(AutoModelForSequenceClassification, architecture)
            fast, labels = row_loss.RowLossModel(model, row_loss.log_losses), torch.tensor([0, 1, 1, 0])
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        torch.manual_seed(seed)
        return fast(IDS, labels, attention_mask=KEPT)["loss"].item()

    assert loss(1) == loss(1) != loss(2)
