from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.evaluation.scoring import score
from serving.engines import scoring
from serving.engines.scoring import Scorer

TEXTS = [
    "Once upon a time there was a king who could not find his golden crown.",
    "A small cat sat on the warm mat, and then it rained for an hour.",
    "x",
]


@pytest.fixture(scope="module")
def scorer(tiny_gpt2: Path) -> Scorer:
    return Scorer(tiny_gpt2)


def ids_of(folder: Path, text: str) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]


def test_agrees_with_the_perplexity_of_evaluate(scorer: Scorer, tiny_gpt2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.float32)
    expected = score(model, AutoTokenizer.from_pretrained(tiny_gpt2), TEXTS, batch_tokens=256)
    for text, loss in zip(TEXTS, expected.loss, strict=True):
        tokens = scorer.score(ids_of(tiny_gpt2, text))
        assert tokens[0].logprob is None
        assert -sum(token.logprob or 0.0 for token in tokens) == pytest.approx(loss, rel=1e-5)


def test_reports_the_likeliest_tokens_best_first(scorer: Scorer, tiny_gpt2: Path) -> None:
    ids = ids_of(tiny_gpt2, TEXTS[0])
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
    tokens = scorer.score(ids, 3)
    assert [token.id for token in tokens] == ids
    assert tokens[0].top == ()
    for token, row in zip(tokens[1:], expected, strict=False):
        values, likeliest = row.sort(descending=True)
        assert [number for number, _ in token.top] == likeliest[:3].tolist()
        assert [value for _, value in token.top] == pytest.approx(values[:3].tolist(), abs=1e-5)


def test_memory_is_bounded_by_reading_in_parts(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of(tiny_gpt2, TEXTS[0])
    whole = Scorer(tiny_gpt2).score(ids, 2)
    monkeypatch.setattr(scoring, "_LOGITS_AT_ONCE", 5 * 320)
    scorer = Scorer(tiny_gpt2)
    assert scorer._chunk == 5
    in_parts = scorer.score(ids, 2)
    for one, other in zip(whole[1:], in_parts[1:], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert [number for number, _ in one.top] == [number for number, _ in other.top]


def test_no_token_and_one_token(scorer: Scorer) -> None:
    assert scorer.score([]) == []
    assert [token.logprob for token in scorer.score([5])] == [None]


def test_more_tokens_than_the_context_are_refused(scorer: Scorer) -> None:
    assert len(scorer.score([5] * 64)) == 64
    with pytest.raises(ValueError, match="65 tokens to score, expected at most the context's 64"):
        scorer.score([5] * 65)
