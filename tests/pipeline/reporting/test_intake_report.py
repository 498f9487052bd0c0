"""The report page: what it says, that it hides what is private, and that it is one safe, readable, stable file."""

import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import params
from pipeline.intake.sniff import sniff_format
from pipeline.intake.splits import SPLITS
from pipeline.reporting.formatting import byte_size, excerpt, percent
from pipeline.reporting.histogram import MOST_BARS, CorpusParts, Histogram, bars_on_one_axis
from pipeline.reporting.intake_report import advice, page
from pipeline.reporting.intake_summary import Pairs, Summary
from pipeline.reporting.rule_descriptions import describe_rule
from tests.conftest import ROOT, Workspace
from tests.pipeline.reporting.test_report import measured_in_a_browser

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
BOXES = {"table", "details", "figure", "section"}


class Page(HTMLParser):
    """What the tests look for in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in BOXES:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in BOXES:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in tags]


@pytest.fixture
def empty(workspace: Workspace) -> Callable[..., Summary]:
    """Return what makes the summary of a corpus of which no row has been read yet."""

    def make(content: str = "id,text\n1,A text.\n", name: str = "data/corpus.csv") -> Summary:
        path = workspace.write_corpus(content, name)
        wanted = params.load()
        return Summary(sniff_format(Path(name), wanted.data), wanted.validate_, size=path.stat().st_size, md5="0" * 32)

    return make


def fill(summary: Summary, rows: int = 500) -> Summary:
    """Return the summary after that many rows, every tenth of them refused."""
    numbers = np.arange(2, rows + 2)
    refused = numbers % 10 == 0
    lengths = numbers % 300
    summary.parts.add(numbers, refused, lengths)
    summary.rows_in, summary.rows_refused = rows, int(refused.sum())
    for at, split in enumerate(SPLITS):
        mine = ~refused & (numbers % 3 == at)
        summary.lengths[split].add(lengths[mine])
        summary.splits[split] = int(mine.sum())
    summary.refused.update({"email": summary.rows_refused, "duplicate": 3})
    summary.warned["few_letters"] = 2
    for number in numbers[refused]:
        summary.examples.add(int(number), "email", f"Write to anna{number}@example.com today.")
    summary.examples.add(30, "duplicate", "A Text.")
    summary.warning_examples.add(33, "few_letters", "1 2 3")
    summary.exact_pairs.add(30, "A Text.", 2)
    summary.exact_pairs.complete({2: "A text."})
    summary.token_counts, summary.max_tokens = [20, 60, 90, 200], 128
    return summary


def test_the_page_says_what_came_in_what_was_refused_and_by_which_setting(empty: Callable[..., Summary]) -> None:
    text = Page(page(fill(empty()))).text
    assert "Intake of data/corpus.csv" in text
    assert "rows came in 500 are clean (90 %) 450 are refused (10 %) 50" in text
    assert "email 50 10 % critical an e-mail address validate.rules.email.severity" in text
    assert "few_letters 2 0.4 % critical less than 0.1 of the characters" in text
    assert "25 % of the texts are longer than tokenize.max_length (128 tokens)" in text
    assert "reports/validate/quarantine.csv" in text
    assert "30 A Text. 2 A text. 1.00" in text


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_on_a_phone_every_column_of_every_table_is_in_sight(empty: Callable[..., Summary], tmp_path: Path) -> None:
    found, console = measured_in_a_browser(tmp_path, page(fill(empty())).replace("<details", "<details open"), 360)
    assert (found, console) == ([360, 0, []], "")


def test_examples_show_their_row_and_no_personal_data(empty: Callable[..., Summary]) -> None:
    html = page(fill(empty()))
    assert "10 Write to [email] today. 20 Write to [email] today." in Page(html).text
    assert "example.com" not in html


def test_only_the_first_examples_of_a_reason_are_kept(empty: Callable[..., Summary]) -> None:
    summary = fill(empty())
    assert [example.row for example in summary.examples.of["email"]] == [10, 20, 30, 40, 50]


def test_the_page_can_be_written_before_there_is_a_row_and_says_why_the_stage_stopped(
    empty: Callable[..., Summary],
) -> None:
    summary = empty()
    summary.stopped = "data/corpus.csv: there is no row below the header"
    text = Page(page(summary)).text
    assert "The stage stopped here data/corpus.csv: there is no row below the header" in text
    assert "First fix what stopped the stage" in text
    assert "ready for training" not in text


def test_copies_alone_are_nothing_to_mend(empty: Callable[..., Summary]) -> None:
    summary = fill(empty())
    summary.refused.clear()
    summary.refused["duplicate"] = summary.rows_refused
    assert advice(summary)[-1].startswith("25 % of the texts are longer than tokenize.max_length")


def test_what_a_corpus_holds_cannot_become_part_of_the_page(empty: Callable[..., Summary]) -> None:
    summary = fill(empty(f'id,"{ATTACK.replace(chr(34), chr(34) * 2)}",text\n1,2,3\n', name="data/<b>.csv"))
    summary.stopped = ATTACK
    summary.refused["too_long"] = 1
    summary.examples.add(5, "too_long", ATTACK)
    summary.near_pairs.add(6, ATTACK, 5, 0.9)
    summary.near_pairs.complete({5: ATTACK})
    html = page(summary)
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "b", "iframe", "link", "object"}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert html.count("&lt;script&gt;alert(1)") == 5


def test_characters_that_no_file_can_hold_or_no_eye_can_see_are_shown_by_their_code(
    empty: Callable[..., Summary],
) -> None:
    summary = fill(empty())
    summary.refused["control_characters"] = 1
    summary.examples.add(5, "control_characters", "a\x00b\ud800c\u202ed")
    html = page(summary)
    assert r"a\u0000b\ud800c\u202ed" in html
    html.encode()


def test_the_page_needs_nothing_from_elsewhere(empty: Callable[..., Summary]) -> None:
    html = page(fill(empty()))
    links = {attributes["href"] for attributes in Page(html).of("a")}
    assert links == {"quarantine.csv", "metrics.json", "expectations.json"}
    assert not [attributes for _, attributes in Page(html).tags if "src" in attributes]
    assert "http" not in html
    assert "url(" not in html


def test_a_screen_reader_finds_titles_headings_captions_and_words_for_pictures(empty: Callable[..., Summary]) -> None:
    found = Page(page(fill(empty())))
    assert not found.open
    assert found.of("html") == [{"lang": "en"}]
    assert len(found.of("title")) >= 1
    assert len(found.of("h1")) == 1
    pictures = found.of("svg")
    assert len(pictures) == 1 + len(SPLITS) + 1 + 2
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {section["aria-labelledby"] for section in found.of("section")} <= set(ids)
    assert all("scope" in head for head in found.of("th"))


def test_the_same_corpus_gives_the_same_bytes(empty: Callable[..., Summary]) -> None:
    assert page(fill(empty())) == page(fill(empty()))


def test_every_rule_has_words_and_names_settings_that_exist(workspace: Workspace) -> None:
    content = YAML(typ="safe").load(ROOT / "params.yaml")
    rules = params.load().validate_.rules
    for name in type(rules).model_fields:
        words = describe_rule(name, rules)
        assert words.condition
        assert "{" not in words.condition
        for setting in words.settings:
            section = content
            for key in setting.split("."):
                section = section[key]


chunk_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=12)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(chunk_sizes)
def test_parts_and_histograms_are_the_same_however_the_corpus_is_cut(sizes: list[int]) -> None:
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
def test_a_corpus_of_any_size_has_at_most_40_parts_that_account_for_every_row(rows: int) -> None:
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
def test_a_histogram_knows_counts_mean_and_extremes_exactly_and_quantiles_within_6_percent(values: list[int]) -> None:
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


def test_an_excerpt_is_cut_around_what_was_found() -> None:
    text = "word " * 100 + "anna@example.com " + "word " * 100
    assert excerpt(text).startswith("word word")
    shown = excerpt(text, "email")
    assert "[email]" in shown
    assert shown[0] == shown[-1] == "…"
    assert excerpt("short") == "short"


def test_no_half_of_a_number_is_left_where_a_very_long_text_is_cut() -> None:
    card = "4111 1111 1111 1111"
    for shift in range(0, 40, 3):
        text = "x " * 9_990 + "y" * shift + card + " z" * 10_000
        assert "4111" not in excerpt(text, "card")
    assert excerpt("anna@example.com " * 10_000).count("[email]") > 20


def test_only_the_first_pairs_are_kept_and_their_earlier_texts_can_come_later() -> None:
    pairs = Pairs(most=2)
    for row in (5, 6, 7):
        pairs.add(row, "copy", row - 3, 0.9)
    assert [pair.earlier_row for pair in pairs.kept] == [2, 3]
    pairs.complete({2: "two", 3: "three"})
    assert [pair.earlier_text for pair in pairs.kept] == ["two", "three"]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (0.0001, "under 0.1 %"), (0.5, "50 %"), (0.1234, "12.3 %"), (0.99999, "over 99.9 %"), (1, "100 %")],
)
def test_what_is_little_never_reads_as_nothing(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (123_456, "123.5 kB"), (999_999, "1.0 MB"), (10**10, "10.0 GB")],
)
def test_sizes_have_decimal_units(size: int, shown: str) -> None:
    assert byte_size(size) == shown
