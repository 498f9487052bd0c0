"""Perplexity is that of its definition, whatever the batches."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.evaluation.perplexity import Perplexity, Score, figures, score
from tests.conftest import LINES

TEXTS = [*LINES, "A", "", "é 漢字 🙂", " ".join(LINES)]  # the last is longer than the context of 64


@pytest.fixture(scope="module")
def model(tiny_gpt2: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path):
    return AutoTokenizer.from_pretrained(tiny_gpt2)


def by_definition(model, tokenizer, text: str) -> float:
    """Return -sum ln p(token | up to 63 tokens before it), a token at a time, in float64."""
    tokens = [tokenizer.bos_token_id, *tokenizer(text, verbose=False)["input_ids"]]
    model = model.double()
    loss = 0.0
    with torch.inference_mode():
        for at in range(1, len(tokens)):
            logits = model(torch.tensor([tokens[max(0, at - 63) : at]])).logits[0, -1]
            loss -= torch.log_softmax(logits, 0)[tokens[at]].item()
    model.float()
    return loss


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_each_texts_loss_is_the_definitions_one_row_at_a_time_in_float64(model, tokenizer, batch_size: int) -> None:
    texts = TEXTS[:-1]
    scored = score(model, tokenizer, texts, batch_size)
    assert scored.loss == pytest.approx([by_definition(model, tokenizer, text) for text in texts], rel=1e-5)
    assert scored.tokens.tolist() == [len(tokenizer(text)["input_ids"]) for text in texts]
    assert scored.bytes.tolist() == [len(text.encode()) for text in texts]


def test_a_text_longer_than_the_context_is_scored_whole_each_token_once(model, tokenizer) -> None:
    # A window that moves by one token is the definition itself.
    scored = score(model, tokenizer, TEXTS[-1:], 8, stride=1 / 64)
    assert scored.loss == pytest.approx([by_definition(model, tokenizer, TEXTS[-1])], rel=1e-5)
    strided = score(model, tokenizer, TEXTS[-1:], 8, stride=0.5)
    assert strided.tokens.tolist() == scored.tokens.tolist()
    assert strided.loss == pytest.approx(scored.loss, rel=0.05)


def test_perplexity_is_weighted_by_tokens_and_bits_per_byte_by_bytes() -> None:
    scored = Score(np.array([10.0, 1.0]), np.array([5, 1]), np.array([20, 2]))
    found = figures(scored, resamples=100, confidence=0.95, seed=1)
    assert found["perplexity"] == pytest.approx(math.exp(11 / 6))
    assert found["bits_per_byte"] == pytest.approx(11 / 22 / math.log(2))
    assert found["tokens"] == 6


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        tokens = generator.integers(20, 60, 80)
        loss = tokens * generator.gamma(9, 3 / 9, 80)  # 3 nats a token in the mean
        found = figures(Score(loss, tokens, tokens), resamples=300, confidence=0.9, seed=seed)
        covered += found["perplexity_low"] <= math.exp(3) <= found["perplexity_high"]
    assert 0.84 <= covered / 200 <= 0.96


def test_it_is_a_measurement_of_evaluate_and_gives_the_same_figures_again(model, tokenizer) -> None:
    first = Perplexity().compute(data=LINES, model=model, tokenizer=tokenizer)
    assert first == Perplexity().compute(data=LINES, model=model, tokenizer=tokenizer)
    assert set(first) == {"perplexity", "perplexity_low", "perplexity_high", "bits_per_byte", "tokens"}
    assert first["perplexity_low"] < first["perplexity"] < first["perplexity_high"]
