"""On a GPU the layers of encoders compute no padding in training; a stand-in for the kernel runs that on a CPU."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from pipeline.modeling import masked_loss, row_loss
from pipeline.modeling.batches import Batch, with_token_index
from pipeline.modeling.loss_model import LossModel
from pipeline.modeling.packed_attention import is_varlen
from tests.pipeline.modeling.test_packed_architectures import IDS, KEPT, MASK, assert_same, make
from tests.pipeline.modeling.test_varlen import ROWS, train_on_fake_tensors
from tests.pipeline.modeling.varlen_stand_in import like_a_gpu

PACKED = ("bert", "roberta", "distilbert", "electra")
CHOSEN = (torch.arange(12) % 3 == 1) & (KEPT == 1)
LABELS = {"classify": torch.tensor([0, 1, 1, 0]), "masked_lm": IDS.masked_fill(~CHOSEN, -100)}


def classifier(architecture: str) -> LossModel:
    with like_a_gpu():
        model = make(AutoModelForSequenceClassification, architecture)
        return row_loss.RowLossModel(model, row_loss.log_losses, class_weights=[1.0, 2.0])


def masked(architecture: str) -> LossModel:
    with like_a_gpu():
        return masked_loss.MaskedLossModel(make(AutoModelForMaskedLM, architecture))


def batch_of(task: str) -> Batch:
    batch = {"input_ids": IDS, "attention_mask": KEPT, "labels": LABELS[task]}
    if task == "masked_lm":
        batch |= {"can_mask": KEPT, "mask_token": torch.full((4,), MASK)}
    return with_token_index(lambda _: batch, [])


@pytest.mark.parametrize("architecture", PACKED)
def test_the_loss_and_gradients_of_a_classifier_are_those_of_padded_rows(architecture: str) -> None:
    fast = classifier(architecture)
    plain = make(AutoModelForSequenceClassification, architecture)
    logits = plain(input_ids=IDS, attention_mask=KEPT).logits
    weights = torch.tensor([1.0, 2.0])
    expected = torch.nn.functional.cross_entropy(logits, LABELS["classify"], weights, reduction="sum") / 4
    assert_same(expected, fast(**batch_of("classify"))["loss"], plain, fast.model)
    assert is_varlen(fast.model)

    with torch.inference_mode():  # validation is padded, and in float32 here, which the kernels have not
        scores = fast.eval()(**batch_of("classify"))["scores"]
        alone = plain.eval()(input_ids=IDS, attention_mask=KEPT).logits.log_softmax(-1)
    assert not is_varlen(fast.model)
    torch.testing.assert_close(scores[:, 0], -alone[range(4), LABELS["classify"]])


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_the_loss_and_gradients_of_a_masked_model_are_those_of_padded_rows(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, plain = masked(architecture), make(AutoModelForMaskedLM, architecture)
    read = IDS.masked_fill(CHOSEN, MASK)
    monkeypatch.setattr(fast, "drawn", lambda *_: (read, LABELS["masked_lm"]))
    expected = plain(input_ids=read, attention_mask=KEPT, labels=LABELS["masked_lm"]).loss
    assert_same(expected, fast(**batch_of("masked_lm"))["loss"], plain, fast.model)
    assert is_varlen(fast.model)


def test_the_collator_knows_the_tokens_and_the_number_of_labels() -> None:
    batch = classifier("bert").collate([{**row, "labels": 1} for row in ROWS])
    assert batch["cu_seq_lens_q"].tolist() == [0, 12, 15, 22, 23]
    assert torch.equal(batch["input_ids"].flatten()[batch["token_at"]], IDS[KEPT == 1])
    assert (batch["max_length_q"], batch["label_count"]) == (12, 4)


def test_an_encoder_with_another_kind_of_layers_is_padded_and_one_prepared_twice_is_packed() -> None:
    assert "token_at" not in classifier("albert").collate([{**row, "labels": 1} for row in ROWS])
    fast = classifier("bert")
    with like_a_gpu():
        again = row_loss.RowLossModel(fast.model, row_loss.log_losses)
    again(**batch_of("classify"))
    assert is_varlen(again.model)


@pytest.mark.parametrize(("task", "build"), [("classify", classifier), ("masked_lm", masked)])
def test_in_a_step_the_host_never_waits_for_the_gpu(task: str, build: Any) -> None:
    train_on_fake_tensors(build("bert"), {**batch_of(task), "num_items_in_batch": torch.tensor(20)})
