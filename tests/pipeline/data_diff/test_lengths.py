"""Length drift."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from pipeline.data_diff.lengths import interpret_psi, population_stability_index
from pipeline.data_diff.result import Length
from tests.pipeline.data_diff.corpora import compare_texts

pytestmark = pytest.mark.integration


def test_lengths_are_in_characters(tmp_path: Path) -> None:
    result = compare_texts(tmp_path, ["a" * 10, "\u00e9" * 20, "\U0001f6a2" * 60], ["b" * 5])
    assert (result.length.old.mean, result.length.old.median) == (30, 20)
    assert result.length.old.p95 == 56  # 20 + 0.9 * (60 - 20)
    assert result.length.new == Length(5, 5, 5)


def test_population_stability_index_matches_a_hand_computed_case() -> None:
    # Deciles of 1..10 are its first nine values: ten bins. Old has 1.5 in each with the half row added; new has 10.5
    # in the last and 0.5 in the others; each has 15 in all.
    by_hand = 9 * (0.5 / 15 - 1.5 / 15) * math.log(0.5 / 1.5) + (10.5 / 15 - 1.5 / 15) * math.log(10.5 / 1.5)
    assert population_stability_index(np.arange(1, 11), np.full(10, 10)) == pytest.approx(by_hand, rel=1e-12)


def test_psi_is_interpreted_by_the_usual_thresholds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old, same, shifted, other = (rng.normal(mean, 40, 2000).astype(int) for mean in (300, 300, 318, 400))
    assert interpret_psi(population_stability_index(old, same)) == "no shift"
    assert interpret_psi(population_stability_index(old, shifted)) == "some shift"
    assert interpret_psi(population_stability_index(old, other)) == "large shift"


def test_kolmogorov_smirnov_matches_scipy(tmp_path: Path) -> None:
    old = ["x" * (10 + number % 7) for number in range(50)]
    new = ["x" * (12 + number % 5) for number in range(40)]
    result = compare_texts(tmp_path, old, new).length
    expected = ks_2samp([len(text) for text in old], [len(text) for text in new])
    assert result.ks == pytest.approx(expected.statistic, rel=1e-5)
    assert result.p_value == pytest.approx(expected.pvalue, abs=0.05)  # the limit against the exact value
