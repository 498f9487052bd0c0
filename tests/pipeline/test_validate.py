"""Which rows are clean, which are refused and why, and in which split each is."""

import csv
import io
import json
import random

import pandas as pd
import pytest

from pipeline import paths, validate
from pipeline.command import UserError
from tests.conftest import ROOT, Workspace, real


def run_on(workspace: Workspace, content: str | bytes) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, object]]:
    workspace.write_corpus(content)
    validate.main()
    quarantine = pd.read_csv(paths.QUARANTINE, dtype=str, keep_default_na=False)
    return pd.read_parquet(paths.CLEAN), quarantine, json.loads(paths.VALIDATE_METRICS.read_text())


def as_csv(texts: list[str], **options: object) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n", **options)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(texts))
    return file.getvalue()


def many(count: int = 60) -> list[str]:
    return [f"This is text number {number}." for number in range(count)]


def test_a_row_is_refused_for_each_reason_whole_and_with_its_line(workspace: Workspace) -> None:
    texts = [*many(), "", "  ", "x" * 2001, "this is  TEXT number 0. "]
    clean, quarantine, metrics = run_on(workspace, as_csv(texts))
    assert list(quarantine.columns) == ["row", "reasons", "id", "text"]
    assert quarantine[["row", "reasons", "id", "text"]].values.tolist() == [
        ["62", "empty", "60", ""],
        ["63", "empty", "61", "  "],
        ["64", "too_long", "62", "x" * 2001],
        ["65", "duplicate", "63", "this is  TEXT number 0. "],
    ]
    assert metrics["reasons"] == {"duplicate": 1, "empty": 2, "too_long": 1}
    assert metrics["rows_in"] == len(texts) == metrics["rows_clean"] + metrics["rows_quarantined"]
    assert clean["text"].tolist() == many()
    assert clean["row"].tolist() == list(range(2, 62))


def test_a_row_can_have_several_reasons(workspace: Workspace) -> None:
    _, quarantine, _ = run_on(workspace, as_csv([*many(), "y" * 3000, "Y" * 3000]))
    assert quarantine["reasons"].tolist() == ["too_long", "duplicate too_long"]


def test_texts_come_through_to_the_byte(workspace: Workspace) -> None:
    texts = [
        "NA",
        "null",
        " leading",
        'a "quoted" word',
        "two\nlines",
        "three\r\nlines",
        "=1+1",
        "é 漢字 🙂",
        "None",
        "1.0",
    ]
    clean, _, _ = run_on(workspace, as_csv(many() + texts))
    assert clean["text"].tolist() == many() + texts
    assert clean["row"].tolist()[60:] == [62, 63, 64, 65, 66, 68, 70, 71, 72, 73]  # where each record begins


def test_a_byte_order_mark_is_not_part_of_the_header(workspace: Workspace) -> None:
    clean, _, _ = run_on(workspace, b"\xef\xbb\xbf" + as_csv(many()).encode())
    assert len(clean) == 60


def test_a_blank_line_is_a_refused_row_and_not_skipped(workspace: Workspace) -> None:
    _, quarantine, metrics = run_on(workspace, as_csv(many()) + "\n")
    assert quarantine[["row", "reasons"]].values.tolist() == [["62", "empty"]]
    assert metrics["rows_in"] == 61


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the file is empty; expected a header line"),
        ("id,text\n", "no row below the header"),
        ("id,txt\n1,a\n", r"line 1: there is no column 'text'; the header has 'id', 'txt'; set validate.column"),
        ("text,text\n1,a\n", "line 1: the header names 'text' more than once"),
        ("row,text\n1,a\n", "line 1: the column name 'row' is used by"),
        ("id,text\n1,a\n2,b,c\n", r"line 3: 3 fields where the header has 2 \(id, text\)"),
        ("id,text\n1,a\n2\n", r"line 3: 1 fields where the header has 2"),
        ('id,text\n1,a\n2,"b\n3,c\n', "line 3: the record that begins here cannot be read as CSV"),
        ('id,text\n1,"a" b\n', "line 2: the record that begins here cannot be read as CSV"),
        (b"id,text\n1,caf\xe9\n", "line 2: holds bytes that are not UTF-8"),
        (b"id,text\n1,a\x00b\n", "line 2: holds a NUL byte"),
    ],
)
def test_what_no_parser_can_read_without_guessing_stops_the_stage(
    workspace: Workspace, content: str | bytes, sentence: str
) -> None:
    workspace.write_corpus(content)
    with pytest.raises(UserError, match=sentence) as caught:
        validate.main()
    assert str(caught.value).startswith("data/corpus.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(workspace: Workspace) -> None:
    workspace.set(data__path="data/none.csv")
    with pytest.raises(UserError, match=r"data.path: there is no file 'data/none.csv'"):
        validate.main()


def test_too_many_refused_rows_stop_the_stage_with_the_reasons(workspace: Workspace) -> None:
    workspace.write_corpus(as_csv(many(6) + [""] * 4))
    with pytest.raises(UserError, match=r"40% of 10 rows are refused \(empty: 4\), more than validate.max_refused"):
        validate.main()


def test_an_empty_split_stops_the_stage(workspace: Workspace) -> None:
    workspace.write_corpus(as_csv(many(2)))
    with pytest.raises(UserError, match=r"no row falls in the \w+ split \(2 clean rows in all\)"):
        validate.main()


def test_no_text_changes_its_split_when_the_csv_grows() -> None:
    before = {text: validate.split_of(text, 0.1, 0.1) for text in many(500)}
    grown = many(5000)
    random.Random(1).shuffle(grown)
    after = {text: validate.split_of(text, 0.1, 0.1) for text in grown}
    assert {text: after[text] for text in before} == before
    shares = {split: list(after.values()).count(split) / len(after) for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.02)


def test_copies_of_a_text_are_on_one_side() -> None:
    for text in many(50):
        variants = {text, text.upper(), f"  {text}\n", text.replace(" ", "\u00a0")}
        assert len({validate.split_of(variant, 0.3, 0.3) for variant in variants}) == 1


def test_the_same_csv_gives_the_same_bytes(workspace: Workspace) -> None:
    outputs = (paths.CLEAN, paths.QUARANTINE, paths.VALIDATE_METRICS, paths.VALIDATE_REPORT)
    run_on(workspace, as_csv([*many(), ""]))
    first = [path.read_bytes() for path in outputs]
    validate.main()
    assert [path.read_bytes() for path in outputs] == first


def test_the_report_shows_what_was_refused_and_runs_no_text_as_html(workspace: Workspace) -> None:
    run_on(workspace, as_csv([*many(), "<script>alert(1)</script>" + "x" * 2000]))
    report = paths.VALIDATE_REPORT.read_text()
    assert "too_long" in report
    assert "&lt;script&gt;alert(1)" in report
    assert "<script>" not in report
    assert "http://" not in report
    assert "https://" not in report


def test_the_sample_corpus_shows_its_planted_faults(workspace: Workspace) -> None:
    _, _, metrics = run_on(workspace, (ROOT / "data" / "tales.csv").read_bytes())
    assert metrics["reasons"] == {"duplicate": 18, "empty": 5, "too_long": 3}
    assert metrics["rows_in"] == 2226


def test_a_real_file_of_bank_customers_questions_is_clean_but_for_its_duplicates(workspace: Workspace) -> None:
    clean, quarantine, _ = run_on(workspace, real("banking77-customer-support/train.csv").read_bytes())
    assert len(clean) + len(quarantine) == 10_003
    assert set(quarantine["reasons"]) <= {"duplicate"}
