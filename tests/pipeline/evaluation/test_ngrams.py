"""The n-gram model is the formula's, and its nonsense has the sequences of the texts that it was made from."""

import numpy as np
import pytest

from pipeline.evaluation.ngrams import NGramModel

TEXTS = ["the cat sat on the mat", "the rat sat on the cat", "從前有一位國王", "def f(x):\n    return x\n"]


def test_the_probabilities_of_all_next_bytes_add_up_to_one() -> None:
    model = NGramModel(TEXTS)
    for prompt in (b"", b"the ", b"the cat sat on", "從前".encode(), b"qqq", b"\x00"):
        probability = [2 ** -model.bits(prompt, bytes([byte]), ends=False)[0] for byte in range(255)]
        end = 2 ** -model.bits(prompt, b"", ends=True)[0]
        assert sum(probability) + end == pytest.approx(1)


def test_a_byte_has_the_probability_that_the_formula_gives() -> None:
    model = NGramModel(["ab", "ac"])  # end a b end a c end: 7 bytes of 4 kinds; after a two kinds, each once
    unigram = (1 + 4 / 256) / (7 + 4)
    after_a = (1 + 2 * unigram) / (2 + 2)
    after_end_and_a = (1 + 2 * after_a) / (2 + 2)
    assert 2 ** -model.bits(b"a", b"b", ends=False)[0] == pytest.approx(after_end_and_a)


def test_only_the_text_after_the_prompt_is_counted_and_its_end_is_a_byte_of_it() -> None:
    model = NGramModel(TEXTS)
    assert len(model.bits(b"the cat", b" sat", ends=False)) == 4
    assert len(model.bits(b"the cat", b" sat", ends=True)) == 5
    assert model.bits(b"the cat sat on", b" the mat", ends=True).sum() < model.bits(b"", b" the mat", ends=True).sum()


def test_a_row_may_be_shorter_than_the_longest_n_gram() -> None:
    assert np.isfinite(NGramModel(["a"]).bits(b"", b"ab", ends=True)).all()


@pytest.mark.parametrize("context", [0, 1, 2, 3])
def test_nonsense_has_only_sequences_of_the_texts_of_the_length_that_it_is_drawn_by(context: int) -> None:
    model, random = NGramModel(TEXTS), np.random.default_rng(1)
    whole = b"\xff" + b"\xff".join(text.encode() for text in TEXTS) + b"\xff"
    for _ in range(20):
        text, ends = model.draw(b"the", context, 50, random)
        data = b"\xffthe" + text + b"\xff" * ends
        assert all(data[first : first + context + 1] in whole for first in range(len(data) - context))
        assert len(text) <= 50


def test_after_a_prompt_of_no_row_nonsense_begins_with_a_shorter_context() -> None:
    text, _ = NGramModel(TEXTS).draw(b"zebra", 3, 10, np.random.default_rng(1))
    assert text[:1] in (b"t", b" ")  # what follows an a
