"""Figures in a verdict never contradict what it says of them."""

import pytest

from pipeline.verdict.wording import confidence, percent_beside


@pytest.mark.parametrize(
    ("share", "other", "text"),
    [(-0.0004, 0.0, "-0.04 %"), (0.02, 0.0, "2.0 %"), (0.01004, 0.01, "1.004 %"), (0.0, 0.0, "0.0 %")],
)
def test_a_figure_has_as_many_decimals_as_tell_it_from_its_bound(share: float, other: float, text: str) -> None:
    assert percent_beside(share, other) == text


@pytest.mark.parametrize(("alpha", "text"), [(0.025, "97.5 %"), (0.05 / 120, "99.958 %"), (1e-6, "99.99990 %")])
def test_a_confidence_is_never_rounded_to_certainty(alpha: float, text: str) -> None:
    assert confidence(alpha) == text
