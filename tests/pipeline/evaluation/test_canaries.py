"""What a model learned by heart can be drawn out of it, and what it never saw cannot."""

import math
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.canaries import canaries, made_up_secret, texts_to_plant
from pipeline.command import UserError
from pipeline.evaluation.canaries import exposure, extracted, extraction_metrics
from tests.conftest import LINES

PLANTED = canaries(6)


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_gpt2)


@pytest.fixture(scope="module")
def untrained(tiny_gpt2: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()


@pytest.fixture(scope="module")
def trained(tiny_gpt2: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return a model that has read the first four of the six canaries, again and again, among other texts."""
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    texts = [canary.prompt + canary.secret for canary in PLANTED[:4]] + LINES
    start = tokenizer.bos_token_id
    rows = [[start, *tokenizer(text)["input_ids"], start] for text in texts]
    length = max(map(len, rows))
    ids = torch.tensor([row + [start] * (length - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (length - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    for _ in range(250):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def written_greedily(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]])
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64 - ids.shape[1], pad_token_id=0
    )
    return tokenizer.decode(written[0, ids.shape[1] :])


def test_canaries_differ_and_are_the_same_in_every_run() -> None:
    many = canaries(200)
    assert many[:6] == PLANTED == canaries(6)
    assert len({canary.prompt for canary in many}) == len({canary.secret for canary in many}) == 200
    assert "".join(PLANTED[0]) == "The access code of Fenora Quistgard is 0 7 2 9 6 4 0 4 7."
    assert canaries(0) == []


def test_a_secret_is_one_of_a_thousand_million_all_alike() -> None:
    digits = [canary.secret.removesuffix(".").split() for canary in canaries(600)]
    assert all(len(secret) == 9 for secret in digits)
    counts = [sum(secret.count(str(digit)) for secret in digits) for digit in range(10)]
    assert all(abs(count - 540) < 4 * math.sqrt(540) for count in counts)


def test_more_canaries_than_there_are_names_are_refused() -> None:
    assert len(canaries(650)) == 650
    with pytest.raises(UserError, match=r"tokenize.canaries: found 651, expected at most 650"):
        canaries(651)


def test_each_canary_is_planted_as_often_as_asked_for() -> None:
    texts = texts_to_plant(3, 4)
    assert len(texts) == 12
    assert {text: texts.count(text) for text in texts} == {canary.prompt + canary.secret: 4 for canary in canaries(3)}


def test_an_untrained_model_gives_none_away(untrained: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    result = extraction_metrics(untrained, tokenizer, canaries(8))
    assert result["extracted"] == 0
    assert result["exposure"] == pytest.approx(1 / math.log(2), abs=1.2)  # what ranks by chance give


@pytest.mark.integration
def test_a_model_that_learned_them_by_heart_gives_them_away_and_no_others(
    trained: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert extraction_metrics(trained, tokenizer, PLANTED[:4]) == {"extracted": 1.0, "exposure": 7.0}
    assert extracted(trained, tokenizer, PLANTED[4:]) == 0
    assert exposure(trained, tokenizer, PLANTED[4:], 2048) < 6
    assert extracted(trained, tokenizer, PLANTED) == pytest.approx(4 / 6)


@pytest.mark.integration
def test_what_counts_as_extracted_is_what_the_model_writes_greedily(
    trained: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    for canary in PLANTED:
        written = written_greedily(trained, tokenizer, canary.prompt).startswith(canary.secret)
        assert extracted(trained, tokenizer, [canary]) == written


@pytest.mark.integration
def test_batches_change_nothing(
    trained: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extracted(trained, tokenizer, PLANTED)
    monkeypatch.setattr("pipeline.evaluation.canaries._BATCH_SIZE", 4)
    assert extracted(trained, tokenizer, PLANTED) == whole


def test_exposure_is_the_rank_among_other_secrets(
    untrained: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    def loss_of(text: str) -> float:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.inference_mode():
            return untrained(ids, labels=ids).loss.item() * (ids.shape[1] - 1)

    canary = PLANTED[0]
    generator = random.Random(canary.prompt)
    others = [made_up_secret(generator) for _ in range(127)]
    assert len({canary.secret, *others}) == 128
    rank = 1 + sum(loss_of(canary.prompt + other) < loss_of(canary.prompt + canary.secret) for other in others)
    assert exposure(untrained, tokenizer, [canary], 512) == pytest.approx(math.log2(128 / rank), abs=0.02)


def test_a_model_to_which_all_secrets_are_alike_exposes_none(
    tiny_gpt2: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    torch.nn.init.zeros_(model.transformer.wte.weight)  # every token as likely as any other
    assert extraction_metrics(model, tokenizer, PLANTED) == {"extracted": 0.0, "exposure": pytest.approx(0.0, abs=0.01)}
