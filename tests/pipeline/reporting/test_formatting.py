"""Figures, sizes and texts read well: rounded, with units, redacted and cut."""

import math

import pytest

from pipeline.reporting.formatting import byte_size, excerpt, percent, rounded


def test_an_excerpt_is_cut_around_what_was_found() -> None:
    text = "word " * 100 + "anna@example.com " + "word " * 100
    assert excerpt(text).startswith("word word")
    shown = excerpt(text, "email")
    assert "[email]" in shown
    assert shown[0] == shown[-1] == "…"
    assert excerpt("short") == "short"


def test_cutting_a_very_long_text_leaves_no_half_of_a_number() -> None:
    card = "4111 1111 1111 1111"
    for shift in range(0, 40, 3):
        text = "x " * 9_990 + "y" * shift + card + " z" * 10_000
        assert "4111" not in excerpt(text, "card")
    assert excerpt("anna@example.com " * 10_000).count("[email]") > 20


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (5190.8679, "", "5,191"), (123.46, "", "123.5"), (9.429367, "", "9.43"), (0.8241, "", "0.824"),
        (0.0, "", "0"), (13.0, "", "13.00"),
        (0.00432, "", "0.0043"), (19275, "", "19,275"), (0, "", "0"), (-0.0306, "", "-0.031"), (7.2e15, "", "7.2e+15"),
        (0.0417, "share", "4.2 %"), (0.00001, "share", "under 0.1 %"), (-0.0301, "change", "-3.01 %"),
        (None, "", "\u2013"), (math.inf, "", "infinite"), (math.nan, "", "not a number"),
    ],
)  # fmt: skip
def test_figures_are_rounded_to_about_three_digits(value: float | None, kind: str, shown: str) -> None:
    assert rounded(value, kind) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (0.0001, "under 0.1 %"), (0.5, "50 %"), (0.1234, "12.3 %"), (0.99999, "over 99.9 %"), (1, "100 %")],
)
def test_a_small_share_never_reads_as_zero(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (123_456, "123.5 kB"), (999_999, "1.0 MB"), (10**10, "10.0 GB")],
)
def test_sizes_have_decimal_units(size: int, shown: str) -> None:
    assert byte_size(size) == shown
