"""Which rows are clean, which are refused and why, and which split each is in."""

import csv
import io
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from pipeline import param_rules, paths, validate
from pipeline.command import UserError
from pipeline.intake import records
from pipeline.intake.quarantine import unescape_formula
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
    """Texts of which none is nearly another."""
    words = ["river", "lamp", "stone", "winter", "garden", "letter", "silver", "market", "engine", "shadow", "copper"]
    draw = random.Random(0)
    return [f"Text {number}: {' '.join(draw.choices(words, k=8))}." for number in range(count)]


def test_refused_rows_are_quarantined_whole_with_line_and_reason(workspace: Workspace) -> None:
    copy = many()[0].upper().replace(" ", "  ") + " "
    texts = [*many(), "", "  ", "x" * 2001, copy]
    clean, quarantine, metrics = run_on(workspace, as_csv(texts))
    assert list(quarantine.columns) == ["row", "reasons", "reason_details", "id", "text"]
    assert quarantine["reason_details"].tolist() == ["", "", "too_long: 2001 (at most 2000)", "duplicate: of row 2"]
    assert quarantine[["row", "reasons", "id", "text"]].values.tolist() == [
        ["62", "empty", "60", ""],
        ["63", "empty", "61", "  "],
        ["64", "too_long", "62", "x" * 2001],
        ["65", "duplicate", "63", copy],
    ]
    assert metrics["reasons"] == {"duplicate": 1, "empty": 2, "too_long": 1}
    assert metrics["rows_in"] == len(texts) == metrics["rows_clean"] + metrics["rows_quarantined"]
    assert clean["text"].tolist() == many()
    assert clean["row"].tolist() == list(range(2, 62))


def test_a_row_can_have_several_reasons(workspace: Workspace) -> None:
    _, quarantine, _ = run_on(workspace, as_csv([*many(), "y" * 3000, "Y" * 3000]))
    assert quarantine["reasons"].tolist() == ["too_long", "duplicate too_long"]


def test_texts_are_kept_byte_for_byte(workspace: Workspace) -> None:
    texts = [
        "NA",
        "null",
        " leading",
        'a "quoted" word',
        "two\nlines",
        "=1+1",
        "é 漢字 🙂",
        "None",
        "1.0",
    ]
    clean, _, _ = run_on(workspace, as_csv(many() + texts))
    assert clean["text"].tolist() == many() + texts
    assert clean["row"].tolist()[60:] == [62, 63, 64, 65, 66, 68, 69, 70, 71]  # where each record begins


@pytest.mark.parametrize("template", ["none", "{text}"])
def test_line_ends_inside_texts_become_lf_and_are_counted_and_the_quarantine_keeps_the_files(
    workspace: Workspace, template: str
) -> None:
    workspace.set(validate__template=template, validate__category="topic")
    texts = [*many(), "Dear\r\nSir,\r\r\nyours\r", "Dear\nMadam", "one@example.com\r\ntwo"]
    content = in_groups(texts, ["a\r\nb", "a\nb", "a\rb"] * 21)
    clean, _, metrics = run_on(workspace, content)
    assert clean["text"].tolist() == [*many(), "Dear\nSir,\n\nyours\n", "Dear\nMadam"]
    assert set(clean["group"]) == {"a\nb"}
    assert metrics["fixes"] == {"line_ends": 2}
    assert "CR LF or CR became LF in 2 rows" in paths.VALIDATE_REPORT.read_text()
    assert b"one@example.com\r\ntwo" in paths.QUARANTINE.read_bytes()


def test_a_byte_order_mark_is_not_part_of_the_header(workspace: Workspace) -> None:
    clean, _, _ = run_on(workspace, b"\xef\xbb\xbf" + as_csv(many()).encode())
    assert len(clean) == 60


def test_blank_lines_are_not_rows_and_the_report_counts_them(workspace: Workspace) -> None:
    _, quarantine, metrics = run_on(workspace, as_csv(many()).replace("\n", "\r\r\n") + "\n,\n,\n")
    assert quarantine.empty
    assert metrics["rows_in"] == 60
    assert "64 blank lines" in paths.VALIDATE_REPORT.read_text()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the file is empty; expected a header line"),
        ("id,text\n", "no row below the header"),
        (
            "id,txt\n1,a\n",
            r"line 1: there is no column 'text' \(validate.column\); the header has 'id' \(numbers\), 'txt'",
        ),
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
def test_a_file_that_a_parser_could_only_guess_at_stops_the_stage(
    workspace: Workspace, content: str | bytes, sentence: str
) -> None:
    workspace.write_corpus(content)
    with pytest.raises(UserError, match=sentence) as caught:
        validate.main()
    assert str(caught.value).startswith("data/corpus.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(workspace: Workspace) -> None:
    workspace.set(data__path="data/none.csv")
    with pytest.raises(UserError, match=r"data.path: there is no file 'data/none.csv'; put the CSV there"):
        validate.main()
    workspace.write_corpus("id,text\n1,a\n")
    for wrong in ("data/corpsu.csv", "Data/corpus.csv", "dta/corpus.csv", "corpus.csv"):
        workspace.set(data__path=wrong)
        with pytest.raises(UserError, match=rf"there is no file '{wrong}'; did you mean 'data/corpus.csv'\? Or put"):
            validate.main()
    workspace.set(data__path="data")
    with pytest.raises(UserError, match=r"'data' is a folder; name the file in it .*, such as 'data/corpus.csv'"):
        validate.main()


def test_an_untracked_corpus_gives_a_warning(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("data/corpus.csv")
    workspace.write_corpus("id,text\n1,a\n")
    assert paths.untracked(path) == ""  # outside a DVC repository no run is recorded
    Path(".dvc").mkdir()
    assert paths.untracked(path) == "track it: dvc add data/corpus.csv"
    assert paths.untracked(Path("../corpus.csv")).startswith("it is outside the project: copy it to data/")
    with pytest.raises(UserError):  # its one text is in no split
        validate.main()
    assert "data/corpus.csv is not tracked by DVC" in capsys.readouterr().err
    Path("data.dvc").write_text("outs: []\n")
    assert paths.untracked(path) == ""
    Path("data.dvc").unlink()
    subprocess.run(["git", "init", "-q", "."], check=True)
    assert paths.untracked(path)
    subprocess.run(["git", "add", str(path)], check=True)
    assert paths.untracked(path) == ""


def test_too_many_refused_rows_stop_the_stage_with_the_reasons(workspace: Workspace) -> None:
    workspace.write_corpus(as_csv(many(6) + [""] * 4))
    with pytest.raises(UserError, match=r"40% of 10 rows are refused \(empty: 4\), more than validate.max_refused"):
        validate.main()


def test_an_empty_split_stops_the_stage(workspace: Workspace) -> None:
    workspace.write_corpus(as_csv(many(2)))
    with pytest.raises(UserError, match=r"no row falls in the \w+ split \(2 clean rows in all\)"):
        validate.main()


def test_the_same_csv_gives_the_same_bytes(workspace: Workspace) -> None:
    outputs = (
        paths.CLEAN,
        paths.QUARANTINE,
        paths.VALIDATE_METRICS,
        paths.VALIDATE_REPORT,
        paths.EXPECTATIONS,
    )
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


def test_real_bank_questions_are_clean_except_duplicates(workspace: Workspace) -> None:
    clean, quarantine, _ = run_on(workspace, real("banking77-customer-support/train.csv").read_bytes())
    assert len(clean) + len(quarantine) == 10_003
    assert set(quarantine["reasons"]) <= {"duplicate", "near_duplicate"}


def test_cells_of_the_quarantine_cannot_run_as_formulas_and_can_be_restored(workspace: Workspace) -> None:
    cells = ["=1+1", "+31", "-2", "@SUM(A1)", "'=quoted", "\t=tab", "'plain", "plain", "''", "\uff1d1"]
    content = as_csv(many()) + "".join(f'"{cell}",\n' for cell in cells)
    _, quarantine, _ = run_on(workspace, content)
    assert not [cell for cell in quarantine["id"] if cell.startswith(("=", "+", "-", "@", "\t", "\uff1d"))]
    assert [unescape_formula(cell) for cell in quarantine["id"]] == cells


def test_a_refusal_and_a_near_miss_are_shown_with_value_bound_and_earlier_row(workspace: Workspace) -> None:
    story = " ".join(many(3))
    near_copy, near_miss = story.replace("Text 0", "Text: 0"), f"{many()[50]} Indeed"
    texts = [*many(), story, near_copy, near_miss, "A++++", "\U0001f44d\U0001f44d", "-- 1 ------------------"]
    clean, quarantine, _ = run_on(workspace, as_csv(texts))
    assert clean["text"].tolist() == [*many(), story, near_miss, "A++++", "\U0001f44d\U0001f44d"]
    near, few = quarantine["reason_details"]
    assert re.fullmatch(r"near_duplicate: 0\.9\d+ to row 62 \(below 0\.9\)", near)
    assert re.fullmatch(r"few_letters: 0\.0\d+ \(at least 0\.1\)", few)
    report = paths.VALIDATE_REPORT.read_text()
    assert few.removeprefix("few_letters: ") in report
    let_in = report.split('<h2 id="let-in">')[1].split("</section>")[0]
    assert "A++++" in let_in
    assert "------" not in let_in
    below = report.split("below the bound, so both stay")[1].split("</table>")[0]
    assert near_miss in below
    assert ">52</td>" in below


def test_where_copies_dominate_the_message_names_the_setting_that_keeps_them_all_in_one_split(
    workspace: Workspace,
) -> None:
    reviews = [*many(), *["Love it!", "love it!", "LOVE IT!"] * 10]
    workspace.write_corpus(as_csv(reviews))
    with pytest.raises(
        UserError, match=r"32\.2 % of the rows have .* set validate.rules.duplicate.severity: warning in"
    ):
        validate.main()
    for severity in ("warning", "ignore"):
        workspace.set(validate__rules__duplicate__severity=severity)
        validate.main()
        clean = pd.read_parquet(paths.CLEAN)
        copies = clean[clean["text"].str.lower() == "love it!"]
        assert len(copies) == 30
        assert copies["split"].nunique() == 1
        assert json.loads(paths.VALIDATE_METRICS.read_text())["warnings"] == (
            {"duplicate": 29} if severity == "warning" else {}
        )


def test_a_rule_of_severity_warning_keeps_the_row_and_counts_it(workspace: Workspace) -> None:
    workspace.set(validate__rules__email__severity="warning")
    clean, quarantine, metrics = run_on(workspace, as_csv([*many(), "Write to jane.doe@example.org about the barn."]))
    assert len(clean) == 61
    assert quarantine.empty
    assert metrics["warnings"] == {"email": 1}
    report = paths.VALIDATE_REPORT.read_text()
    assert "[email]" in report
    assert "jane.doe" not in report


def test_a_rule_of_severity_ignore_is_not_checked(workspace: Workspace) -> None:
    workspace.set(validate__rules__email__severity="ignore")
    _, quarantine, metrics = run_on(workspace, as_csv([*many(), "Write to jane.doe@example.org about the barn."]))
    assert quarantine.empty
    assert metrics["warnings"] == {}


def test_with_all_rules_off_every_row_is_clean(workspace: Workspace) -> None:
    off = {f"validate__rules__{name}__severity": "ignore" for name in param_rules.Rules.model_fields}
    workspace.set(**off)
    clean, quarantine, _ = run_on(workspace, as_csv([*many(), "jane.doe@example.org", *many()]))
    assert (len(clean), len(quarantine)) == (2 * len(many()) + 1, 0)


def test_no_near_copy_of_a_test_text_is_in_training_whichever_comes_first(workspace: Workspace) -> None:
    workspace.set(validate__max_refused=0.5)
    originals = [f"{text} It was told on the quay, long after the lamps were lit." for text in many(200)]
    copies = [text.replace("quay", "quays") for text in originals]
    clean, quarantine, _ = run_on(workspace, as_csv([*copies[:50], *originals, *copies[50:]]))
    assert len(clean) == 200
    assert set(quarantine["reasons"]) == {"near_duplicate"}
    kept = {text.replace("quays", "quay"): split for text, split in zip(clean["text"], clean["split"], strict=True)}
    assert len(kept) == 200


def test_broken_rows_are_quarantined_whole_where_params_allow_it(workspace: Workspace) -> None:
    workspace.set(data__broken_rows="quarantine")
    _, quarantine, metrics = run_on(workspace, as_csv(many()) + "60,too,many,fields\n61\n")
    assert quarantine.values.tolist() == [
        ["62", "broken_row", "", "60", "too", '["many", "fields"]'],
        ["63", "broken_row", "", "61", "", ""],
    ]
    assert metrics["rows_in"] == 62
    assert metrics["reasons"] == {"broken_row": 2}


def test_several_columns_become_one_text_by_a_template(workspace: Workspace) -> None:
    workspace.set(validate__template="Q: {question}\nA: {answer}")
    rows = "".join(f"{text},because of {text}\n" for text in many())
    clean, quarantine, _ = run_on(workspace, f"question,answer\n{rows}unanswered,\n")
    assert clean["text"][0] == f"Q: {many()[0]}\nA: because of {many()[0]}"
    assert quarantine[["question", "answer", "reasons"]].values.tolist() == [["unanswered", "", "empty"]]


def test_every_format_gives_the_same_clean_texts(workspace: Workspace) -> None:
    texts = [*many(), "caf\u00e9, \u00fcber den Fluss; \u6f22\u5b57", 'a "quoted" word, and a\nline break']
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts})
    folder = workspace.folder / "data"
    folder.mkdir()
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_csv(folder / "a.tsv", index=False, sep="\t")
    frame.to_json(folder / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "a.parquet")
    frame.to_csv(folder / "a.csv.gz", index=False)
    with pa.output_stream(str(folder / "a.jsonl.zst"), compression="zstd") as packed:
        packed.write((folder / "a.jsonl").read_bytes())
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.zst"):
        workspace.set(data__path=f"data/{name}")
        validate.main()
        assert pd.read_parquet(paths.CLEAN)["text"].tolist() == texts, name


def test_several_processes_give_the_same_bytes_as_one(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    content = as_csv([*many(3000), *many(5), "", "x@example.org wrote this"])
    monkeypatch.setattr(records, "CHUNK_ROWS", 500)
    run_on(workspace, content)
    outputs = (paths.CLEAN, paths.QUARANTINE, paths.VALIDATE_METRICS, paths.VALIDATE_REPORT, paths.EXPECTATIONS)
    alone = [path.read_bytes() for path in outputs]
    monkeypatch.setattr(validate, "ONE_PROCESS_BYTES", 0)
    validate.main()
    assert [path.read_bytes() for path in outputs] == alone


def test_the_results_of_great_expectations_hold_no_text_of_the_corpus(workspace: Workspace) -> None:
    run_on(workspace, as_csv([*many(), "Write to jane.doe@example.org about the barn."]))
    kept = paths.EXPECTATIONS.read_text()
    results = json.loads(kept)
    assert list(results) == ["rows", "duplicates", "corpus"]
    assert results["corpus"][0]["success"]
    assert not results["rows"][0]["success"]
    assert "jane" not in kept


def test_tokens_are_counted_with_the_bases_tokenizer(workspace: Workspace, tiny_gpt2: Path) -> None:
    paths.BASE.mkdir(parents=True)
    shutil.copy(tiny_gpt2 / "tokenizer.json", paths.BASE_TOKENIZER)
    paths.BASE_CONFIG.write_text('{"n_positions": 20}')
    workspace.set(tokenize__max_length=16)
    run_on(workspace, as_csv(many()))
    assert ": 20, the base" in paths.VALIDATE_REPORT.read_text()


def test_nothing_is_left_behind_when_the_stage_stops(workspace: Workspace) -> None:
    workspace.write_corpus(as_csv(many(6) + [""] * 4))
    with pytest.raises(UserError):
        validate.main()
    assert not paths.CLEAN.exists()
    assert sorted(path.name for path in paths.CLEAN.parent.iterdir()) == ["corpus.csv"]


def test_scratch_files_of_a_killed_run_are_deleted(workspace: Workspace) -> None:
    left = workspace.folder / "data" / ".validate" / "rows.arrow"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    run_on(workspace, as_csv(many()))
    assert not left.parent.exists()


def test_a_row_that_is_read_but_not_written_is_an_error(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate.Quarantine, "add", lambda *_: None)
    with pytest.raises(RuntimeError, match="2 rows are neither clean nor quarantined"):
        run_on(workspace, as_csv([*many(), "", ""]))


def in_groups(texts: list[str], groups: list[str]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["topic", "text"])
    writer.writerows(zip(groups, texts, strict=True))
    return file.getvalue()


def test_clean_rows_are_grouped_by_the_trimmed_cells_of_the_category(workspace: Workspace) -> None:
    workspace.set(validate__category="topic")
    groups = ["sea", " sea\t", "Sea", "", "  ", "<b>\u6f22"] * 10
    content = in_groups([*many(), "", many()[0]], [*groups, "of no clean row", "sea"])
    clean, quarantine, metrics = run_on(workspace, content)
    assert list(clean.columns) == ["row", "text", "split", "group"]
    assert clean["text"].tolist() == many()
    assert clean["group"].tolist() == ["sea", "sea", "Sea", "", "", "<b>\u6f22"] * 10
    assert quarantine["topic"].tolist() == ["of no clean row", "sea"]
    assert metrics["groups"] == {"": 20, "<b>\u6f22": 10, "Sea": 10, "sea": 20}
    report = paths.VALIDATE_REPORT.read_text()
    assert "in 4 groups, the smallest of 10 and the largest of 20" in report
    assert "&lt;b&gt;\u6f22" in report
    assert "<b>" not in report


def test_without_a_category_there_are_no_groups(workspace: Workspace) -> None:
    clean, _, metrics = run_on(workspace, in_groups(many(), ["sea", "land"] * 30))
    assert list(clean.columns) == ["row", "text", "split"]
    assert "groups" not in metrics
    assert "group" not in paths.VALIDATE_REPORT.read_text()


def test_a_category_changes_neither_which_rows_are_clean_nor_their_splits(workspace: Workspace) -> None:
    content = in_groups([*many(), "", many()[0]], [str(number % 7) for number in range(62)])
    without, quarantine, _ = run_on(workspace, content)
    workspace.set(validate__category="topic")
    clean, same_quarantine, _ = run_on(workspace, content)
    pd.testing.assert_frame_equal(clean.drop(columns="group"), without)
    pd.testing.assert_frame_equal(same_quarantine, quarantine)


@pytest.mark.integration
def test_groups_stay_with_their_rows_across_chunks_processes_templates_and_broken_rows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.set(data__broken_rows="quarantine", validate__category="topic", validate__template="{topic}: {text}")
    monkeypatch.setattr(records, "CHUNK_ROWS", 500)
    monkeypatch.setattr(validate, "ONE_PROCESS_BYTES", 0)
    content = in_groups(many(2000), [f"topic {number % 13}" for number in range(2000)])
    clean, quarantine, metrics = run_on(workspace, content + "topic 99,too,many\n")
    assert len(clean) > 1900
    assert clean["group"].tolist() == [text.split(":")[0] for text in clean["text"]]
    assert metrics["groups"] == clean["group"].value_counts().to_dict()
    assert "broken_row" in quarantine["reasons"].tolist()


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.parquet"])
def test_a_category_of_numbers_is_grouped_as_they_are_written(workspace: Workspace, name: str) -> None:
    path = workspace.write_corpus("", f"data/{name}")
    frame = pd.DataFrame({"text": many(), "stars": pd.array([1, 5, None] * 20, dtype="Int64")})
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    workspace.set(validate__category="stars")
    validate.main()
    assert pd.read_parquet(paths.CLEAN)["group"].tolist() == ["1", "5", ""] * 20


def test_a_category_with_too_many_values_stops_the_stage_early(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "CHUNK_ROWS", 150)
    monkeypatch.setattr(validate, "CHECKED_ROWS", 150)
    workspace.set(validate__category="id")
    workspace.write_corpus(as_csv(many(1000)))
    with pytest.raises(UserError) as caught:
        validate.main()
    assert str(caught.value) == (
        "data/corpus.csv: the column 'id' (validate.category) is not a category: its first 300 rows hold 300 different "
        "values, '0', '1', '2' and 297 more, and a category has at most 200; set validate.category in params.yaml to "
        "a column with fewer or none, or give its rare values one name"
    )
    assert not paths.CLEAN.exists()


def test_a_category_may_have_200_values_and_those_of_refused_rows_do_not_count(workspace: Workspace) -> None:
    workspace.set(validate__category="topic", validate__max_refused=0.5)
    groups = [f"topic {number}" for number in range(210)]
    _, _, metrics = run_on(workspace, in_groups([*many(200), *[""] * 10], groups))
    assert len(metrics["groups"]) <= 200
    workspace.write_corpus(in_groups([*many(201), *[""] * 9], groups))
    with pytest.raises(UserError, match="hold 201 different values"):
        validate.main()


def test_a_text_in_the_category_stops_the_stage_with_its_line(workspace: Workspace) -> None:
    workspace.set(validate__category="topic")
    run_on(workspace, in_groups(many(), [*["sea"] * 59, f" {'y' * 200} "]))
    workspace.write_corpus(in_groups(many(), [*["sea"] * 59, "y" * 201]))
    with pytest.raises(UserError, match=r"corpus.csv, line 61: the column 'topic' .* holds 201 characters, 'yyy"):
        validate.main()


def test_real_bank_questions_are_grouped_by_their_77_intents(workspace: Workspace) -> None:
    path = real("banking77-customer-support/train.csv")
    workspace.set(validate__category="category")
    clean, _, metrics = run_on(workspace, path.read_bytes())
    groups = metrics["groups"]
    assert sorted(groups) == sorted(json.loads(path.with_name("categories.json").read_text()))
    assert len(groups) == 77
    given = dict(pd.read_csv(path)[["text", "category"]].iloc[::-1].values)  # of copies the first row counts
    assert clean["group"].tolist() == [given[text] for text in clean["text"]]
    assert sum(groups.values()) == len(clean)


def test_repeated_headers_of_joined_files_are_refused(workspace: Workspace) -> None:
    content = as_csv(many(20)) + "\ufeff" + as_csv(many(60)[20:40]) + as_csv(many(60)[40:])
    clean, quarantine, metrics = run_on(workspace, "\ufeff" + content)
    assert clean["text"].tolist() == many(60)
    assert quarantine["row"].tolist() == ["22", "43"]
    assert quarantine["reasons"].tolist() == ["repeated_header", "duplicate repeated_header"]
    assert metrics["reasons"] == {"duplicate": 1, "repeated_header": 2}
    assert "names again" in paths.VALIDATE_REPORT.read_text()
