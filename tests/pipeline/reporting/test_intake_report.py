"""The intake report shows rows, reasons and advice, redacts personal data, and is one safe, stable page."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import params
from pipeline.intake.sniff import sniff_format
from pipeline.intake.splits import SPLITS
from pipeline.reporting.intake_report import advice, page
from pipeline.reporting.intake_summary import Pairs, Summary
from pipeline.reporting.rule_descriptions import describe_rule
from tests.conftest import ROOT, Workspace
from tests.pipeline.reporting.html_page import Page, measured_in_browser

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
def empty(workspace: Workspace) -> Callable[..., Summary]:
    """Return what makes the summary of a corpus of which no row has been read yet."""

    def make(content: str = "id,text\n1,A text.\n", name: str = "data/corpus.csv") -> Summary:
        path = workspace.write_corpus(content, name)
        config = params.load()
        return Summary(sniff_format(Path(name), config.data), config.validate_, size=path.stat().st_size, md5="0" * 32)

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


def test_the_page_shows_rows_reasons_and_settings(empty: Callable[..., Summary]) -> None:
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
def test_on_a_phone_every_column_of_every_table_is_visible(empty: Callable[..., Summary], tmp_path: Path) -> None:
    measured, console = measured_in_browser(tmp_path, page(fill(empty())).replace("<details", "<details open"), 360)
    assert (measured, console) == ([360, 0, []], "")


def test_examples_show_their_row_and_no_personal_data(empty: Callable[..., Summary]) -> None:
    html = page(fill(empty()))
    assert "10 Write to [email] today. 20 Write to [email] today." in Page(html).text
    assert "example.com" not in html


def test_only_the_first_examples_of_a_reason_are_kept(empty: Callable[..., Summary]) -> None:
    summary = fill(empty())
    assert [example.row for example in summary.examples.of["email"]] == [10, 20, 30, 40, 50]


def test_a_page_without_rows_says_why_the_stage_stopped(
    empty: Callable[..., Summary],
) -> None:
    summary = empty()
    summary.stopped = "data/corpus.csv: there is no row below the header"
    text = Page(page(summary)).text
    assert "The stage stopped here data/corpus.csv: there is no row below the header" in text
    assert "First fix what stopped the stage" in text
    assert "ready for training" not in text


def test_copies_alone_need_no_fixing(empty: Callable[..., Summary]) -> None:
    summary = fill(empty())
    summary.refused.clear()
    summary.refused["duplicate"] = summary.rows_refused
    assert advice(summary)[-1].startswith("25 % of the texts are longer than tokenize.max_length")


def length_advice(summary: Summary, context: int) -> str:
    summary.context = context
    return next(sentence for sentence in advice(summary) if "tokenize.max_length" in sentence)


def test_a_length_is_advised_only_within_the_bases_context(empty: Callable[..., Summary]) -> None:
    summary = fill(empty())
    summary.token_counts, summary.max_tokens = [100] * 10 + [200] * 5 + [900] * 5, 128
    ends = "of the texts are longer than tokenize.max_length (128 tokens) and lose their ends: "
    assert f"50 % {ends}900 would keep 95 % whole, and tokenize.strategy: pack" in length_advice(summary, 1024)
    assert f"{ends}256, the base's context, would keep 75 % whole, and tokenize.str" in length_advice(summary, 256)
    assert f"{ends}tokenize.strategy: pack continues them in another row." in length_advice(summary, 128)


def test_no_text_of_the_corpus_becomes_markup(empty: Callable[..., Summary]) -> None:
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


def test_invisible_and_unencodable_characters_are_shown_by_their_code(
    empty: Callable[..., Summary],
) -> None:
    summary = fill(empty())
    summary.refused["control_characters"] = 1
    summary.examples.add(5, "control_characters", "a\x00b\ud800c\u202ed")
    html = page(summary)
    assert r"a\u0000b\ud800c\u202ed" in html
    html.encode()


def test_the_page_loads_nothing(empty: Callable[..., Summary]) -> None:
    html = page(fill(empty()))
    links = {attributes["href"] for attributes in Page(html).of("a")}
    assert links == {"quarantine.csv", "metrics.json", "expectations.json"}
    assert not [attributes for _, attributes in Page(html).tags if "src" in attributes]
    assert "http" not in html
    assert "url(" not in html


def test_the_page_is_accessible_by_screen_reader(empty: Callable[..., Summary]) -> None:
    parsed = Page(page(fill(empty())))
    assert parsed.of("html") == [{"lang": "en"}]
    assert len(parsed.of("title")) >= 1
    assert len(parsed.of("h1")) == 1
    pictures = parsed.of("svg")
    assert len(pictures) == 1 + len(SPLITS) + 1 + 2
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {section["aria-labelledby"] for section in parsed.of("section")} <= set(ids)
    assert all("scope" in head for head in parsed.of("th"))


def test_the_same_corpus_gives_the_same_bytes(empty: Callable[..., Summary]) -> None:
    assert page(fill(empty())) == page(fill(empty()))


def test_every_rule_has_a_description_and_names_settings_that_exist(workspace: Workspace) -> None:
    content = YAML(typ="safe").load(ROOT / "params.yaml")
    config = params.load().validate_
    for name in type(config.rules).model_fields:
        words = describe_rule(name, config)
        assert words.condition
        assert "{" not in words.condition
        for setting in words.settings:
            section = content
            for key in setting.split("."):
                section = section[key]


def test_only_the_first_pairs_are_kept_and_their_earlier_texts_are_filled_in_later() -> None:
    pairs = Pairs(most=2)
    for row in (5, 6, 7):
        pairs.add(row, "copy", row - 3, 0.9)
    assert [pair.earlier_row for pair in pairs.kept] == [2, 3]
    pairs.complete({2: "two", 3: "three"})
    assert [pair.earlier_text for pair in pairs.kept] == ["two", "three"]
