"""A classifier's charts show what its figures say, with two labels as with a hundred, whatever these are called."""

from xml.etree import ElementTree

import pytest

from pipeline.reporting.classification_charts import (
    confused_pairs,
    confusion_chart,
    precision_recall_chart,
    reliability_chart,
)

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter(f"{SVG}text")]


def square(count: int) -> list[list[int]]:
    """Return a matrix with 90 on the diagonal, and row + 1 confusions of each label with the next."""
    return [[90 if i == j else i + 1 if j == i + 1 else 0 for j in range(count)] for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 25, 26, 77, 100])
def test_everything_is_inside_the_picture(count: int) -> None:
    root = parsed(confusion_chart(square(count), [f"a rather long name of label {at}" for at in range(count)]))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    assert width <= 1100
    for element in list(root)[1:]:
        if element.tag != f"{SVG}g":
            assert 0 <= float(element.get("x", "")) + float(element.get("width") or 0) <= width
            assert 0 <= float(element.get("y", "")) + float(element.get("height") or 0) <= height


def test_few_labels_have_their_counts_in_the_cells() -> None:
    found = texts(confusion_chart([[120, 3], [0, 45_000]], ["legit", "fraud"]))
    assert {"120", "3", "0", "45k"} <= set(found)
    assert found.count("legit") == found.count("fraud") == 2


def test_of_many_labels_the_most_confused_pairs_are_listed() -> None:
    found = texts(confusion_chart(square(40), [f"label {at}" for at in range(40)]))
    first = found.index("label 38")
    assert found[first : first + 4] == ["label 38", "label 39", "39", "30 %"]
    assert "label 2" not in found


def test_pairs_are_in_order_of_their_count_and_then_their_share() -> None:
    pairs = confused_pairs([[5, 2, 0], [0, 1, 2], [7, 0, 0]], ["a", "b", "c"])
    assert pairs == [("c", "a", 7, 1.0), ("b", "c", 2, pytest.approx(2 / 3)), ("a", "b", 2, pytest.approx(2 / 7))]
    assert confused_pairs([[3, 0], [0, 0]], ["a", "b"]) == []


@pytest.mark.parametrize("count", [2, 30])
def test_labels_cannot_become_markup_or_reorder_the_text(count: int) -> None:
    svg = confusion_chart(square(count), [f"<script>\u202e\n{at}" for at in range(count)])
    svg += precision_recall_chart([], "<b>\u202e", None)
    assert "<script" not in svg
    assert "<b>" not in svg
    assert "\u202e" not in svg


def test_a_dot_of_the_reliability_has_the_number_of_its_rows() -> None:
    bins = [
        {"low": 0.5, "high": 0.7, "confidence": 0.6, "accuracy": 0.4, "rows": 30},
        {"low": 0.7, "high": 1.0, "confidence": 0.9, "accuracy": 1.0, "rows": 120},
    ]
    svg = reliability_chart(bins)
    assert {"30", "120"} <= set(texts(svg))
    radii = [float(dot.get("r", "")) for dot in parsed(svg).iter(f"{SVG}circle")]
    assert radii == [4.0, 6.0]
    assert not list(parsed(reliability_chart([])).iter(f"{SVG}circle"))


def test_the_chosen_threshold_is_marked_with_its_precision_and_recall() -> None:
    points = [
        {"threshold": 0.9, "precision": 1.0, "recall": 0.2},
        {"threshold": 0.4, "precision": 0.75, "recall": 0.6},
        {"threshold": 0.1, "precision": 0.3, "recall": 1.0},
    ]
    svg = precision_recall_chart(points, "fraud", 0.31)
    assert "threshold 0.31: precision 0.75, recall 0.60" in texts(svg)
    assert len(list(parsed(svg).iter(f"{SVG}circle"))) == 1
    for threshold, curve in ((None, points), (0.95, points), (0.3, [])):
        assert not list(parsed(precision_recall_chart(curve, "fraud", threshold)).iter(f"{SVG}circle"))
