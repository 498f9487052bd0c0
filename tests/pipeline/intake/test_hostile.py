"""Each hostile file gives the right rows, to the byte, or the right refusal."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import params, validate
from pipeline.command import UserError
from pipeline.intake import reader, sniff
from pipeline.intake.columns import check_columns
from pipeline.intake.file_format import LONGEST_RECORD
from pipeline.intake.text_builder import text_builder
from tests.conftest import Workspace, real
from tests.pipeline.intake.hostile import cases
from tests.pipeline.intake.hostile.cases import CASES, FOLDER, Case

pytestmark = pytest.mark.integration

# rows, broken rows, fixes and notes, blank lines
Outcome = tuple[list[tuple[int, str]], dict[int, list[str]], list[str], int]


def by_reader(path: Path) -> Outcome:
    """Read `path` as `validate` does, without its rules."""
    config = params.load()
    file_format = sniff.sniff_format(path, config.data, config.validate_)
    check_columns(file_format, config.validate_)
    make_text = text_builder(file_format.columns, config.validate_)
    rows, broken, blank = [], {}, 0
    for chunk in reader.read_chunks(file_format, config.data):
        blank += chunk.blank_lines
        broken |= {chunk.rows[position]: fields for position, fields in chunk.broken.items()}
        rows += [
            (row, make_text(fields))
            for position, (row, fields) in enumerate(zip(chunk.rows, chunk.fields, strict=True))
            if position not in chunk.broken
        ]
    return rows, broken, [*file_format.fixes, *file_format.notes], blank


def by_stage(path: Path) -> Outcome:
    """Run the stage on `path`; only its refusals can be told from here, since its rules refuse rows too."""
    validate.main()
    raise AssertionError("the stage took a file that it should have refused")


def settings(workspace: Workspace, case: Case) -> None:
    workspace.set(
        data__path=str(FOLDER / case.name),
        **{f"data__{key}": value for key, value in case.data.items()},
        **{f"validate__{key}": value for key, value in case.validate.items()},
    )


REFUSED = [case for case in CASES if case.refusal]


@pytest.mark.parametrize(
    ("run", "case"),
    [*((by_reader, case) for case in CASES), *((by_stage, case) for case in REFUSED)],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_a_hostile_file_gives_its_rows_or_its_refusal(
    workspace: Workspace, case: Case, run: Callable[[Path], Outcome]
) -> None:
    settings(workspace, case)
    path = FOLDER / case.name
    if case.refusal:
        with pytest.raises(UserError) as caught:
            run(path)
        assert case.refusal in str(caught.value)
        assert str(path) in str(caught.value)
    else:
        rows, broken, messages, blank = run(path)
        assert rows == list(case.rows)
        assert broken == dict(case.broken)
        assert blank == case.blank
        assert case.message in "\n".join(messages)


def test_the_files_and_the_table_match_the_cases() -> None:
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == {case.name: case.content for case in CASES}
    assert (FOLDER.parent / "README.md").read_text(encoding="utf-8") == cases.README + cases.table()


def test_a_field_as_long_as_a_row_may_be_comes_through_and_a_longer_one_stops(workspace: Workspace) -> None:
    text = 'abc, "x"\n' * (LONGEST_RECORD // 13)
    path = workspace.folder / "big.csv"
    for repeats, refused in ((1, False), (2, True)):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "text"], ["1", text * repeats], ["2", "b"]])
        if refused:
            with pytest.raises(UserError, match="line 2: the record that begins here has more than 4,194,304"):
                by_reader(path)
        else:
            assert by_reader(path)[0] == [(2, text), (2 + text.count("\n") + 1, "b")]


MESSY = [
    ("complex.csv", {"validate__column": " place"}, "line 4: 6 fields where the header has 4"),
    (
        "complex.csv",
        {"validate__column": " place", "data__broken_rows": "quarantine"},
        [(2, ""), (3, "Galway and more")],
    ),
    ("mixedGLB.csv", {}, "line 1: the header leaves 18 columns without a name"),
    ("null.csv", {}, "line 1: the header names '0' more than once"),
    (
        "null.csv",
        {"data__header": "none", "validate__column": "column_2"},
        list(enumerate(["null", "0", "null", "null", "0", "0", "null", "0", "0", "null"], start=1)),
    ),
    ("simple.csv", {}, "none of them holds text"),
    (
        "simple.csv",
        {"validate__column": "place"},
        list(enumerate(["Galway"] * 3 + ["Berkeley"] * 3, start=2)),
    ),
    ("skip_initials.csv", {"validate__column": "field2"}, [(2, "    goodbye"), (3, "goodbye2")]),
    ("spanish_chars.csv", {}, "line 1: holds bytes that are not UTF-8 (f3 6e 0d 0a after"),
    ("utf8bom.csv", {"validate__column": "win"}, "there is no row below the header ('kitten', 'win')"),
    ("utf8bom.csv", {"data__header": "none", "validate__column": "column_1"}, [(1, "kitten")]),
    ("example.tsv", {}, "'hour' (dates), 'expr1_0_imp' (numbers)"),
]


@pytest.mark.parametrize(("name", "changes", "expected"), MESSY)
def test_a_messy_file_from_outside_gives_its_rows_or_its_refusal(
    workspace: Workspace, name: str, changes: dict[str, str], expected: str | list[tuple[int, str]]
) -> None:
    path = real(f"messy-csv/{name}")
    workspace.set(**changes)
    if isinstance(expected, str):
        with pytest.raises(UserError) as caught:
            by_reader(path)
        assert expected in str(caught.value)
    else:
        assert by_reader(path)[0] == expected


@pytest.mark.parametrize(
    ("name", "changes", "encoding"),
    [
        ("spanish_chars.csv", {"data__encoding": "auto", "validate__column": "Descripción"}, "cp1252"),
        ("mixedGLB.csv", {"data__header": "none", "validate__column": "column_1"}, "utf-8"),
        ("example.tsv", {"validate__column": "hour"}, "utf-8"),
    ],
)
def test_a_messy_file_read_with_its_fix_has_the_rows_of_pythons_csv(
    workspace: Workspace, name: str, changes: dict[str, str], encoding: str
) -> None:
    path = real(f"messy-csv/{name}")
    workspace.set(**changes)
    config = params.load()
    file_format = sniff.sniff_format(path, config.data)
    with path.open(encoding=encoding, newline="") as file:
        expected = list(csv.reader(file, delimiter="\t" if name.endswith("tsv") else ","))
    got = [fields for chunk in reader.read_chunks(file_format, config.data) for fields in chunk.fields]
    assert got == expected[1 if file_format.header else 0 :]
