"""Histograms and corpus parts count exactly, in bounded memory, however the corpus is chunked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting.histogram import MOST_BARS, CorpusParts, Histogram, bars_on_one_axis

chunk_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=12)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(chunk_sizes)
def test_parts_and_histograms_are_equal_however_the_corpus_is_chunked(sizes: list[int]) -> None:
    rows = np.arange(2, sum(sizes) + 2)
    refused, lengths = rows % 7 == 0, rows * 37 % 1000
    whole, cut = (CorpusParts(), Histogram()), (CorpusParts(), Histogram())
    whole[0].add(rows, refused, lengths)
    whole[1].add(lengths)
    begin = 0
    for size in sizes:
        chunk = slice(begin, begin + size)
        cut[0].add(rows[chunk], refused[chunk], lengths[chunk])
        cut[1].add(lengths[chunk])
        begin += size
    assert cut[0].bars() == whole[0].bars()
    assert (cut[1].counts == whole[1].counts).all()
    assert (cut[1].sum, cut[1].smallest, cut[1].largest) == (whole[1].sum, whole[1].smallest, whole[1].largest)


@pytest.mark.parametrize("rows", [1, 39, 40, 41, 1000, 100_000])
def test_a_corpus_of_any_size_has_at_most_40_parts_that_count_every_row(rows: int) -> None:
    parts = CorpusParts()
    numbers = np.arange(rows)
    parts.add(numbers, numbers >= rows // 2, np.full(rows, 10))
    assert min(rows, MOST_BARS // 2) <= len(parts) <= MOST_BARS
    assert parts.rows.sum() == rows
    refused, lengths = parts.bars()
    assert refused[-1].value == 1
    assert lengths[0].value == (10 if rows > 1 else 0)


def test_a_part_begins_at_the_number_of_its_first_row() -> None:
    parts = CorpusParts()
    parts.add(np.arange(1000) * 3 + 2, np.zeros(1000, bool), np.ones(1000, np.int64))
    refused, _ = parts.bars()
    assert [bar.low for bar in refused] == [2 + 3 * parts.size * at for at in range(len(parts))]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200))
def test_a_histogram_is_exact_in_total_mean_and_extremes_and_within_6_percent_in_quantiles(values: list[int]) -> None:
    histogram = Histogram()
    histogram.add(np.array(values))
    assert histogram.total == len(values)
    assert histogram.mean == sum(values) / len(values)
    for share in (0.0, 0.5, 0.95, 1.0):
        exact = int(np.quantile(values, share, method="inverted_cdf"))
        assert exact <= histogram.quantile(share) <= exact * 1.07 + 1


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50), st.integers(0, 1000))
def test_bars_cover_every_value_once_on_one_axis(values: list[int], up_to: int) -> None:
    histogram, nothing = Histogram(), Histogram()
    histogram.add(np.array(values))
    bars = bars_on_one_axis({"some": histogram, "none": nothing}, up_to=up_to)
    assert len(bars["some"]) == len(bars["none"]) <= MOST_BARS * 2
    assert sum(bar.value for bar in bars["some"]) == pytest.approx(1)
    assert bars["some"][0].low <= min(values)
    assert bars["some"][-1].high >= max(*values, up_to)
    assert all(left.high + 1 == right.low for left, right in zip(bars["some"], bars["some"][1:], strict=False))
