"""Records come whole, in bounded chunks, with their lines; and as the text that the settings ask for."""

import csv
import gzip
import io
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline import params
from pipeline.command import UserError
from pipeline.intake import json_lines, parquet, reader, records, sniff
from pipeline.intake.columns import check_columns
from pipeline.intake.file_format import FileFormat
from pipeline.intake.text_builder import text_builder
from tests.conftest import ROOT

DEFAULTS = params.load(ROOT / "params.yaml")
QUICK = hypothesis_settings(derandomize=True, deadline=None, max_examples=30, database=None)
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
MARKED = st.text(st.sampled_from("ab \"'\\,;\t|\r\n\u2028\x85é漢🙂NA="), max_size=12)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(CELL | MARKED, min_size=width, max_size=width), min_size=1, max_size=8)
)
DIALECTS: list[dict[str, Any]] = [
    {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"},
    {"quoting": csv.QUOTE_ALL, "lineterminator": "\r", "delimiter": ";"},
    {"quoting": csv.QUOTE_MINIMAL, "lineterminator": "\r\n"},
    {"quoting": csv.QUOTE_MINIMAL, "lineterminator": "\r\n", "delimiter": "\t", "quotechar": "'"},
    {"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\r\n", "delimiter": "|"},
    {"quoting": csv.QUOTE_ALL, "lineterminator": "\n", "escapechar": "\\", "doublequote": False},
    {"quoting": csv.QUOTE_MINIMAL, "lineterminator": "\r\n", "escapechar": "\\", "doublequote": False},
]


def data_config(**changes: str) -> params.Data:
    return DEFAULTS.data.model_copy(update=changes)


def chunks(path: Path, **changes: str) -> tuple[FileFormat, list[reader.Chunk]]:
    file_format = sniff.sniff_format(path, data_config(**changes))
    return file_format, list(reader.read_chunks(file_format, data_config(**changes)))


def fields_of(path: Path, **changes: str) -> list[list[str]]:
    return [fields for chunk in chunks(path, **changes)[1] for fields in chunk.fields]


def written(folder: Path, content: str | bytes, name: str = "corpus.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def in_csv(row: list[str], dialect: dict[str, Any]) -> str:
    file = io.StringIO()
    csv.writer(file, **dialect).writerow(row)
    return file.getvalue()


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@QUICK
@given(table=TABLES)
def test_a_table_written_by_pythons_csv_comes_back_whole(
    dialect: dict[str, Any], encoding: str, table: list[list[str]]
) -> None:
    table = [*table, ["end"] * len(table[0])]  # else rows of delimiters alone could be the last ones
    file = io.StringIO()
    csv.writer(file, **dialect).writerows([[f"c{number}" for number in range(len(table[0]))], *table])
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), file.getvalue().encode(encoding))
        got = fields_of(
            path,
            encoding=encoding,
            delimiter=dialect.get("delimiter", ","),
            quote=dialect.get("quotechar", '"'),
            escape=dialect.get("escapechar", "none"),
        )
    assert got == [row for row in table if len(row) > 1 or in_csv(row, dialect).strip()]


@QUICK
@given(table=TABLES)
def test_a_table_written_as_json_lines_comes_back_whole(table: list[list[str]]) -> None:
    content = "".join(json.dumps({f"c{n}": cell for n, cell in enumerate(row)}) + "\n" for row in table)
    with tempfile.TemporaryDirectory() as folder:
        assert fields_of(written(Path(folder), content, "corpus.jsonl")) == table


@QUICK
@given(table=TABLES)
def test_a_table_written_as_parquet_comes_back_whole(table: list[list[str]]) -> None:
    columns = {f"c{n}": [row[n] for row in table] for n in range(len(table[0]))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.parquet"
        pq.write_table(pa.table(columns), path)
        assert fields_of(path) == table


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "parquet"])
def test_chunks_are_bounded_and_hold_each_row_once(tmp_path: Path, suffix: str) -> None:
    count = records.CHUNK_ROWS * 2 + 7
    table = pa.table({"text": [f"text {number}" for number in range(count)]})
    path = tmp_path / f"corpus.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "jsonl":
        path.write_text("".join(f'{{"text": "{text}"}}\n' for text in table["text"].to_pylist()))
    else:
        content = "text\n" + "".join(f"{text}\n" for text in table["text"].to_pylist())
        path.write_bytes(gzip.compress(content.encode()) if suffix.endswith("gz") else content.encode())
    _, result = chunks(path)
    assert max(len(chunk.rows) for chunk in result) <= records.CHUNK_ROWS
    assert [fields[0] for chunk in result for fields in chunk.fields] == table["text"].to_pylist()
    first = 2 if "csv" in suffix else 1
    assert [row for chunk in result for row in chunk.rows] == list(range(first, count + first))
    position = [chunk.bytes_read for chunk in result]
    assert position == sorted(position)
    assert position[-1] == path.stat().st_size


def test_chunks_are_bounded_by_bytes(tmp_path: Path) -> None:
    row = "1," + "long words " * 100_000 + "\n"
    _, result = chunks(written(tmp_path, "id,text\n" + row * 80))
    assert len(result) >= 2
    assert max(sum(len(text) for _, text in chunk.fields) for chunk in result) < records.CHUNK_BYTES + 2 * len(row)


def test_chunks_of_a_wide_table_are_bounded_by_fields(tmp_path: Path) -> None:
    width = 200
    header = ",".join(f"c{number}" for number in range(width)) + "\n"
    _, result = chunks(written(tmp_path, header + (",".join(["ab"] * width) + "\n") * 12_000))
    assert [len(chunk.rows) for chunk in result] == [5000, 5000, 2000]


def test_several_broken_rows_are_listed_in_one_error(tmp_path: Path) -> None:
    path = written(tmp_path, "id,text\n" + "1,a\n2,b,c\n" * 12)
    with pytest.raises(UserError) as caught:
        chunks(path)
    first, *listed = str(caught.value).split("\n  ")
    assert first == (
        f'{path}: 12 of 24 rows do not fit the columns; put texts that hold comma (",") or a line break in quotes ("), '
        "or set data.broken_rows: quarantine in params.yaml to continue without such rows:"
    )
    assert [line.split(":")[0] for line in listed[:10]] == [f"line {number}" for number in range(3, 22, 2)]
    assert listed[10:] == ["and 2 more"]


def test_each_fix_for_broken_rows_is_listed_once_below_its_rows(tmp_path: Path) -> None:
    path = written(tmp_path, 'id,text\n1,a\n2,b,c\n3, "d, e"\n4,f\n5,g,h\n')
    with pytest.raises(UserError) as caught:
        chunks(path)
    assert str(caught.value).split("\n")[1:] == [
        "  line 3: 3 fields where the header has 2 (id, text): '2', 'b', 'c'",
        "  line 6: 3 fields where the header has 2 (id, text): '5', 'g', 'h'",
        '    put texts that hold comma (",") or a line break in quotes (")',
        "  line 4: 3 fields where the header has 2 (id, text): '3', ' \"d', ' e\"'",
        '    remove the space before the ", which does not open a quoted text there',
    ]


def test_skipping_rows_is_not_suggested_when_nearly_all_are_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        chunks(written(tmp_path, "id,text\n" + "1,a,b\n" * 12 + "2,c\n"))
    assert "quarantine" not in str(caught.value)


def test_blank_lines_are_counted_in_the_chunk_that_follows_and_after_the_last_row(tmp_path: Path) -> None:
    content = "id,text\n" + "\n1,a\n" * (records.CHUNK_ROWS + 1) + "\n,\n,\n"
    _, (first, last) = chunks(written(tmp_path, content))
    assert (len(first.rows), len(last.rows)) == (records.CHUNK_ROWS, 1)
    assert first.blank_lines + last.blank_lines == records.CHUNK_ROWS + 4
    assert last.rows == [2 * records.CHUNK_ROWS + 3]
    _, [only] = chunks(written(tmp_path, "id,text\n" + "1,a\n" * records.CHUNK_ROWS + ",\n" * 5))
    assert (len(only.rows), only.blank_lines) == (records.CHUNK_ROWS, 5)


def test_no_chunk_comes_after_a_broken_row_that_stops(tmp_path: Path) -> None:
    path = written(tmp_path, "id,text\n1\n" + "1,a\n" * (records.CHUNK_ROWS + 1))
    data = data_config()
    with pytest.raises(UserError, match="line 2: 1 fields"):
        next(reader.read_chunks(sniff.sniff_format(path, data), data))


def test_a_fault_that_makes_the_rest_uncertain_stops_at_once_even_with_quarantine(tmp_path: Path) -> None:
    path = written(tmp_path, 'id,text\n1,a,b\n2,"c\n')
    with pytest.raises(UserError, match="line 3: the record that begins here cannot be read"):
        chunks(path, broken_rows="quarantine")


def test_json_values_stay_as_they_are_written() -> None:
    line = '{"a": 1.10, "b": [1, {"c": 1, "c": "\\u00e9"}], "d": 1e999, "e": null, "f": false, "g": "x", "h":{ }}'
    assert json_lines.parse_object(line) == {
        "a": "1.10",
        "b": '[1, {"c": 1, "c": "\\u00e9"}]',
        "d": "1e999",
        "e": "",
        "f": "false",
        "g": "x",
        "h": "{ }",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | CELL,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELL, inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(row=st.dictionaries(CELL, JSON, min_size=1, max_size=4), indent=st.booleans(), seed=st.integers(0, 9))
def test_any_json_object_gives_its_values(row: dict[str, Any], indent: bool, seed: int) -> None:
    separators = random.Random(seed).choice([(",", ":"), (" , ", " : "), (",\t", ":  ")])
    got = json_lines.parse_object(json.dumps(row, separators=separators, ensure_ascii=indent))
    assert isinstance(got, dict)
    assert list(got) == list(row)
    for key, value in row.items():
        assert got[key] == value if isinstance(value, str) else value is None or json.loads(got[key]) == value


def test_every_parquet_type_becomes_text(tmp_path: Path) -> None:
    import datetime
    import decimal

    values = {
        "text": pa.array(["é", None]),
        "large": pa.array(["é", None], pa.large_string()),
        "number": pa.array([1, None]),
        "real": pa.array([1.5, None]),
        "truth": pa.array([True, None]),
        "day": pa.array([datetime.date(2024, 1, 2), None]),
        "moment": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5), None]),
        "money": pa.array([decimal.Decimal("1.10"), None]),
        "list": pa.array([[1, 2], None]),
        "struct": pa.array([{"a": "é"}, None]),
        "bytes": pa.array([b"\xc3\xa9", None]),
        "nothing": pa.array([None, None], pa.null()),
    }
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table(values), path)
    first, second = fields_of(path)
    assert first == [
        *["é", "é", "1", "1.5", "true", "2024-01-02", "2024-01-02 03:04:05.000000", "1.10", "[1, 2]"],
        *['{"a": "é"}', "é", ""],
    ]
    assert second == [""] * len(values)


def test_parquet_that_wrongly_claims_utf8_does_not_crash(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    raw = pa.array([b"caf\xe9", b"ok"], pa.binary())
    lying = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"text": lying}), path)
    assert fields_of(path) == [["caf\ufffd\\udce9"], ["ok"]]


def test_a_parquet_index_outside_its_dictionary_is_refused() -> None:
    beyond = pa.DictionaryArray.from_arrays(pa.array([0, 7], pa.int32()), ["a"], safe=False)
    below = pa.DictionaryArray.from_arrays(pa.array([0, -1], pa.int32()), ["a"], safe=False)
    for column in (beyond, below):
        with pytest.raises(pa.ArrowInvalid, match="its dictionary does not hold"):
            parquet._value_sizes(column)


FAR = pa.array([2**60], pa.timestamp("us"))
LYING = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
ONE = pa.array([0, 1], pa.int32())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1], pa.timestamp("us", "Not/AZone")), "('Not/AZone')"),
        (pa.ListArray.from_arrays(ONE, FAR), "date value out of range"),
        (pa.ListArray.from_arrays(ONE, pa.array([2**30], pa.date32())), "days=1073741824"),
        (pa.ListArray.from_arrays(ONE, LYING), "can't decode byte 0xff"),
        (pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), "duplicate field names"),
    ],
    ids=["unknown zone", "moment", "day", "no UTF-8", "two fields of one name"],
)
def test_parquet_values_that_have_no_text_are_refused_by_column(tmp_path: Path, values: pa.Array, message: str) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": ["a"], "other": values}), path)
    with pytest.raises(UserError, match=r"the column 'other' .* holds a value that cannot be") as caught:
        fields_of(path)
    assert message in str(caught.value)


def text(columns: list[str], fields: list[str], **changes: str) -> str:
    return text_builder(columns, DEFAULTS.validate_.model_copy(update=changes))(fields)


def test_the_text_is_a_column_or_a_template_of_several() -> None:
    columns = ["question", "a:b", "c!d"]
    assert text(columns, ["Why?", "x", "y"], column="question") == "Why?"
    assert text(columns, ["Why?", "x", "y"], template="{question}\n{a:b} {{{c!d}}}") == "Why?\nx {y}"
    assert text(columns, ["Why?", "\t", "y"], template="{question} {a:b}") == ""
    assert text(columns, ["Why?", "\t", "y"], template="{question}") == "Why?"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{question", "validate.template: found '{question' .*write columns in braces"),
        ("no column", "which names no column; write one in braces, such as {question}"),
        ("{other}", "there is no column 'other'; there are 'question', 'answer'"),
        ("{}", "there is no column ''"),
        ("{question}\\n{answer}", "found a backslash and an n .* write the template in double quotes"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused(template: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        text(["question", "answer"], ["a", "b"], template=template)


def test_a_missing_column_is_refused_with_the_existing_ones_and_a_suggestion(tmp_path: Path) -> None:
    rows = "1,2024-01-02,A,Why does the tide turn?,Because the moon has turned already.\n"
    file_format, _ = chunks(written(tmp_path, "id,day,code,question,answer\n" + rows))
    with pytest.raises(UserError) as caught:
        check_columns(file_format, DEFAULTS.validate_)
    assert str(caught.value).endswith(
        "line 1: there is no column 'text' (validate.column); the header has 'id' (numbers), 'day' (dates), "
        "'code' (short codes or words), 'question' (text, 23 characters on average), 'answer' (text, 36 characters on "
        "average); set validate.column in params.yaml to one of 'answer', 'question', or validate.template: "
        '"{question}\\n{answer}"'
    )


def column_error(path: Path, **changes: str) -> str:
    texts = DEFAULTS.validate_.model_copy(update=changes)
    with pytest.raises(UserError) as caught:
        check_columns(sniff.sniff_format(path, data_config(), texts), texts)
    return str(caught.value)


def test_a_missing_category_is_refused_with_the_existing_columns(tmp_path: Path) -> None:
    path = written(tmp_path, "Topic,text\nsea,Why does the tide turn?\n")
    columns = "the header has 'Topic' (short codes or words), 'text' (text, 23 characters on average)"
    assert column_error(path, category="kind") == (
        f"{path}, line 1: there is no column 'kind' (validate.category); {columns}; set validate.category in "
        "params.yaml to one whose values group the rows, or none"
    )
    assert column_error(path, category="topic").endswith(f"{columns}; write 'Topic' there, exactly as the header does")


def test_a_missing_text_and_a_missing_category_are_named_together(tmp_path: Path) -> None:
    path = written(tmp_path, "topic,body\nsea,Why does the tide turn?\n")
    first, second = column_error(path, category="kind").split("\n")
    assert "there is no column 'text' (validate.column)" in first
    assert first.endswith("set validate.column: body in params.yaml")
    assert "there is no column 'kind' (validate.category)" in second
    first, second = column_error(path, category="text").split("\n")
    assert "there is no column 'text' (validate.column)" in first
    assert "found 'text', the column that holds the texts" in second


def test_if_line_1_is_a_row_the_category_error_names_the_numbered_columns(tmp_path: Path) -> None:
    path = written(tmp_path, "7,The tide has turned already.\n8,The moon has turned already.\n")
    first, second = column_error(path, category="topic").split("\n")
    assert "set data.header: none and validate.column: column_2" in first
    assert second.endswith("if line 1 is a row, they are column_1 to column_2 with data.header: none: name one")


def test_the_category_may_be_part_of_the_text_but_not_all_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, "topic,text\nsea,Why does the tide turn?\n")
    itself = (
        "params.yaml: validate.category: found 'text', the column that holds the texts; name another one, whose values "
        "group the rows, or none"
    )
    assert column_error(path, category="text") == itself
    assert column_error(path, category="text", template="Q: {text}") == itself
    file_format, _ = chunks(path)
    for changes in ({"category": "topic"}, {"category": "topic", "template": "{topic}: {text}"}, {"category": "none"}):
        check_columns(file_format, DEFAULTS.validate_.model_copy(update=changes))
