"""The page, and what is on it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.data_diff import render
from pipeline.data_diff.compare import diff
from pipeline.data_diff.examples import mark_changes
from tests.pipeline.data_diff.corpora import HARBOUR, compare_texts, visible_text, write
from tests.pipeline.reporting.html_page import measured_in_browser

pytestmark = pytest.mark.integration


def test_the_page_marks_removed_and_added_words(tmp_path: Path) -> None:
    page = render.page(compare_texts(tmp_path, [HARBOUR[0]], [HARBOUR[0].replace("morning", "evening")]))
    assert "took her out on the <del>morning</del><ins>evening</ins> tide" in page


def test_marked_changes_reproduce_both_texts() -> None:
    parts = mark_changes("the old  rope, here", "the new rope - here")
    assert "".join(part for kind, part in parts if kind != "added") == "the old  rope, here"
    assert "".join(part for kind, part in parts if kind != "removed") == "the new rope - here"


def test_long_texts_are_shortened_around_the_edit() -> None:
    old = " ".join(f"rope{number}" for number in range(10_000))
    at = old.index("rope5000")
    parts = mark_changes(old, f"{old[:at]}lamp {old[at:]}")
    assert [part for part in parts if part[0] != "same"] == [("added", "lamp ")]
    assert sum(len(part) for _, part in parts) < 400


def test_the_page_escapes_html_in_texts(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    old = [f"{HARBOUR[0]} {evil}", f"{evil} gone"]
    page = render.page(compare_texts(tmp_path, old, [f"{HARBOUR[0]} {evil} more", f"new and unlike: {evil * 3}"]))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 3


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_tables_fit_on_a_phone(tmp_path: Path) -> None:
    edited = [text.replace("the", "that") for text in HARBOUR[:2]]
    result = compare_texts(tmp_path, HARBOUR, [*edited, *HARBOUR[3:], "A text of another kind: 12,345 words."])
    page = render.page(result).replace("<details", "<details open")
    measured, console = measured_in_browser(tmp_path, page, 360)
    assert (measured, console) == ([360, 0, []], "")


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = render.page(compare_texts(tmp_path, HARBOUR, HARBOUR[2:]))
    assert not re.search(r"https?:|//|url\(|@import|<link|\bsrc=", page)


def test_personal_data_is_neither_on_the_page_nor_in_the_json(tmp_path: Path) -> None:
    private = {
        "email": "jane.roe@shipmail.org",
        "phone": "+44 20 7946 0958",
        "card": "4111 1111 1111 1111",
        "iban": "DE89 3704 0044 0532 0130 00",
        "secret": "AKIAIOSFODNN7EXAMPLE",
    }
    old = [f"{HARBOUR[0]} Reach me by {kind}: {value}." for kind, value in private.items()]
    new = [f"{HARBOUR[0]} You reach me by {kind}: {value}." for kind, value in private.items()]
    new += [f"Quite another {kind} altogether, namely {value}" for kind, value in private.items()]
    result = compare_texts(tmp_path, old, new)
    page, numbers = render.page(result), json.dumps(result.as_json())
    for kind, value in private.items():
        assert f"[{kind}]" in visible_text(page)
        for part in re.findall(r"\w{4,}", value):
            assert not re.search(rf"\b{part}\b", page + numbers, re.IGNORECASE)


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{number}" for number in rng.zipf(1.4, 20)) for _ in range(3000)]
    results = [compare_texts(tmp_path, texts[:2000], texts[1000:]) for _ in range(3)]
    assert len({render.page(result) for result in results}) == 1
    assert len({json.dumps(result.as_json()) for result in results}) == 1


def test_national_phone_numbers_are_redacted_for_the_region_of_the_phone_rule(tmp_path: Path) -> None:
    old = write(tmp_path / "old.parquet", HARBOUR)
    new = write(tmp_path / "new.parquet", [*HARBOUR, "Call the harbour master on (415) 555-2671 before dawn."])
    assert "555-2671" in render.page(diff(old, new))
    assert "555-2671" not in render.page(diff(old, new, region="US"))
