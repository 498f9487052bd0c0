"""Pairs of near-copies."""

import math

import numpy as np
import pytest

from pipeline.data_diff.near_copies import signatures_of

pytestmark = pytest.mark.integration


def test_signatures_estimate_the_similarity_of_texts() -> None:
    rng = np.random.default_rng(0)
    estimates, similarities = [], []
    for kept in np.linspace(0, 400, 41).astype(int):
        old = "".join(rng.choice(list("abcdefghij "), 400))
        new = old[:kept] + "".join(rng.choice(list("klmnopqrst "), 400 - kept))
        pieces = [{text[at : at + 5] for at in range(len(text) - 4)} for text in (old, new)]
        similarities.append(len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1]))
        agreeing = np.equal(*signatures_of([old, new])).mean()
        estimates.append((agreeing - 1 / 256) / (1 - 1 / 256))
    errors = np.abs(np.array(estimates) - similarities)
    assert errors.max() < 4 * math.sqrt(0.25 / 128)  # 4 standard errors of 128 draws
