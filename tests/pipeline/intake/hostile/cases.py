"""Small files made to break an intake, each with the rows or the refusal it must give.

`python -m tests.pipeline.intake.hostile.cases` writes the files and their table (README.md) from this list.
"""

# ruff: noqa: RUF001 - look-alike characters are what some of these files are about

import gzip
import io
import json
import sqlite3
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.command import arg_parser, run

FOLDER = Path(__file__).parent / "files"
FRENCH = (
    "Le café était fermé à midi, où êtes-vous allés? Noël à la plage, crème brûlée; "
    "l'été dernier on a goûté un pâté à l'orée de la forêt."
)
CHINESE = ["天氣很好我們去公園散步吧", "請問圖書館在哪裡謝謝您"]


@dataclass(frozen=True)
class Case:
    """A file, and either its rows (line, text), or words of the refusal."""

    name: str
    what: str
    content: bytes
    rows: Sequence[tuple[int, str]] = ()
    refusal: str = ""
    data: Mapping[str, str] = field(default_factory=dict)  # settings under `data` other than the defaults
    validate: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[int, list[str]] = field(default_factory=dict)  # row -> its fields as they stood
    message: str = ""  # part of a fix or a note
    blank: int = 0  # lines that are not rows


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _zip(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "x")
    return file.getvalue()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _sqlite() -> bytes:
    base = sqlite3.connect(":memory:")
    base.execute("create table t (x)")
    return base.serialize()


LABELED = ["Web", "Sport", "Kultur", "Web", "Sport"]
LABELS = "".join(f"{word};'so {word} das; das will, doch {word}.'\n" for word in LABELED).encode()
TWO = [(2, "a b"), (3, "c d")]
PLAIN = "id,text\n1,a b\n2,c d\n"
QUARANTINE = {"broken_rows": "quarantine"}

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
NUL_AT_4 = "line 4: begins with a NUL byte; remove it (tr -d '\\000' < FILE > NEW removes all of them)"

CASES = [
    # the bytes
    Case("empty.csv", "no byte", b"", refusal="the file is empty"),
    Case("bom_only.csv", "a byte order mark and nothing else", b"\xef\xbb\xbf", refusal="the file is empty"),
    Case("blank_lines_only.csv", "line breaks only", b"\n\n\n", refusal="holds blank lines only"),
    Case(
        "header_only.csv",
        "a header, no row",
        b"id,text\n",
        refusal="there is no row below the header ('id', 'text'); expected one row per text",
    ),
    Case("bom.csv", "UTF-8 with a byte order mark", b"\xef\xbb\xbf" + PLAIN.encode(), TWO, message="byte order mark"),
    Case("utf16.csv", "UTF-16 with its mark", PLAIN.encode("utf-16"), refusal="set data.encoding: utf-16 in"),
    Case("utf16_named.csv", "the same, named", PLAIN.encode("utf-16"), TWO, data={"encoding": "utf-16"}),
    Case(
        "utf16_auto.csv",
        "the same, detected",
        ("\ufeff" + PLAIN).encode("utf-16-be"),
        TWO,
        data={"encoding": "auto"},
        message="read as utf-16-be",
    ),
    Case(
        "utf16_no_mark.csv",
        "UTF-16 without a mark",
        PLAIN.encode("utf-16-le"),
        refusal="line 1: holds NUL bytes, as UTF-16-LE does, but data.encoding is utf-8; set data.encoding: utf-16-le",
    ),
    Case(
        "utf16_no_mark_auto.csv",
        "the same in Chinese, detected",
        "text\n天氣很好\n謝謝您\n".encode("utf-16-be"),
        [(2, "天氣很好"), (3, "謝謝您")],
        data={"encoding": "auto"},
        message="read as utf-16-be",
    ),
    Case("utf32.csv", "UTF-32, detected", PLAIN.encode("utf-32"), TWO, data={"encoding": "auto"}),
    Case(
        "utf16_cut.csv",
        "UTF-16 cut in the middle of a character",
        PLAIN.encode("utf-16-le")[:-1],
        refusal="line 3: holds bytes that are not UTF-16-LE",
        data={"encoding": "utf-16-le"},
    ),
    Case(
        "latin1.csv",
        "a legacy encoding",
        f"id,text\n1,a b\n2,{FRENCH}\n".replace(", ", " ").encode("latin-1"),
        refusal="line 3: holds bytes that are not UTF-8 (e9 20 e9 74 after '2,Le caf'); the file looks like",
    ),
    Case(
        "latin1_few.csv",
        "too little of it to tell which",
        "id,text\n1,café\n2,a b\n".encode("latin-1"),
        refusal="name it in data.encoding in params.yaml (cp1252 reads '1,café'",
    ),
    Case(
        "latin1_named.csv",
        "a legacy encoding, named",
        "text\ncafé – so\n".encode("cp1252"),
        [(2, "café – so")],
        data={"encoding": "cp1252"},
    ),
    Case(
        "latin1_auto.csv",
        "a legacy encoding, detected",
        f'text\n"{FRENCH}"\n'.encode("cp1252"),
        [(2, FRENCH)],
        data={"encoding": "auto"},
        message="line 2 reads",
    ),
    Case(
        "big5.csv",
        "Big5, whose second bytes can be ASCII's",
        ("text\n" + "\n".join(CHINESE) + "\n").encode("big5"),
        [(2, CHINESE[0]), (3, CHINESE[1])],
        data={"encoding": "auto"},
        message="data.encoding: auto: read as",
    ),
    Case(
        "big5_default.csv",
        "Big5 where UTF-8 is expected",
        ("text\n" + "\n".join(CHINESE) + "\n").encode("big5"),
        refusal="the file looks like",
    ),
    Case(
        "shift_jis.csv",
        "Shift JIS, in which a backslash can be half a character",
        "text\n吾輩は猫である。名前はまだ無い。\n能力の表を見せて下さい。\n".encode("shift_jis"),
        [(2, "吾輩は猫である。名前はまだ無い。"), (3, "能力の表を見せて下さい。")],
        data={"encoding": "auto", "escape": "\\"},
    ),
    Case(
        "mixed_encodings.csv",
        "UTF-8 and Latin-1 in one file",
        "text\ncafé one\n".encode() + "café two\n".encode("latin-1"),
        refusal="line 3: holds bytes that are not UTF-8 (e9 20 74 77 after 'caf'); the file mixes encodings",
    ),
    Case(
        "mixed_encodings_auto.csv",
        "the same, to be detected",
        "text\ncafé one\n".encode() + "café two\n".encode("latin-1"),
        refusal="line 3: mixes encodings: of 2 lines outside ASCII 1 are cp1252, the best match; 1 line "
        "contradicts it: line 2, which is UTF-8 ('café one') and would read 'cafÃ© one'; save all of it in one",
        data={"encoding": "auto"},
    ),
    Case(
        "chance_utf8_auto.csv",
        "cp1252, with two bytes that are UTF-8 by chance",
        ("text\n" + "Kaffee für jeden Tag schön geröstet\n" * 8 + "NESCAFÉ® Gold\n").encode("cp1252"),
        [*((line, "Kaffee für jeden Tag schön geröstet") for line in range(2, 10)), (10, "NESCAFÉ® Gold")],
        data={"encoding": "auto"},
        message="valid UTF-8 as well, but likelier cp1252: line 10",
    ),
    Case(
        "utf8_named_latin1.csv",
        "UTF-8 said to be Latin-1",
        "text\ncafé à midi l'été\n".encode(),
        refusal="which would garble it; set data.encoding: utf-8",
        data={"encoding": "latin-1"},
    ),
    Case(
        "lone_surrogate.csv",
        "half a surrogate pair as three bytes",
        b"text\nab \xed\xa0\x80 c\n",
        refusal="line 2: holds bytes that are not UTF-8 (ed a0 80 20 after 'ab ')",
    ),
    Case(
        "overlong.csv", "a slash in two bytes", b"text\na\xc0\xafb\n", refusal="line 2: holds bytes that are not UTF-8"
    ),
    Case("nul.csv", "a NUL in a text", b"id,text\n1,a\0b\n", refusal="line 2: holds a NUL byte after '1,a'"),
    Case(
        "nul_latin1.csv",
        "a NUL in a legacy encoding",
        b"id,text\n1,caf\xe9 a\0b\n",
        refusal="line 2: holds a NUL byte",
        data={"encoding": "cp1252"},
    ),
    Case("nul_end.csv", "a NUL at the end", PLAIN.replace("\n", "\r\n").encode() + b"\0", refusal=NUL_AT_4),
    Case("nul_line.csv", "a NUL alone on a line", b"id,text\n1,a\n2,b\n\0\n", refusal=NUL_AT_4),
    Case(
        "nul_line_ends.csv",
        "a NUL before each line break",
        PLAIN.replace("\n", "\0\n").encode(),
        refusal="line 1: holds a NUL byte after 'id,text'",
    ),
    Case(
        "nul_latin1_end.csv",
        "a NUL at the end of a legacy encoding",
        f"text\r\n{FRENCH.replace(',', '')}\r\n\0".encode("latin-1"),
        refusal="line 3: begins with a NUL byte",
        data={"encoding": "cp1252"},
    ),
    # lines
    Case("cr.csv", "CR alone ends lines", PLAIN.replace("\n", "\r").encode(), TWO, message="CR alone"),
    Case("crlf.csv", "CRLF ends lines", PLAIN.replace("\n", "\r\n").encode(), TWO),
    Case("mixed_ends.csv", "LF, CRLF and CR in one file", b"id,text\r1,a b\n2,c d\r\n", TWO, message="mixed"),
    Case("no_last_break.csv", "no line break at the end", PLAIN.rstrip().encode(), TWO),
    Case(
        "breaks_in_cells.csv",
        "line breaks of each kind inside quotes",
        b'id,text\n1,"a\r\nb"\n2,"c\rd"\n3,"e\nf"\n4,g\n',
        [(2, "a\r\nb"), (4, "c\rd"), (6, "e\nf"), (8, "g")],
    ),
    Case(
        "other_separators.csv",
        "what only Unicode takes for line ends",
        "text\na\u2028b\u2029c\x0bd\x0ce\x85f\x1cg\n".encode(),
        [(2, "a\u2028b\u2029c\x0bd\x0ce\x85f\x1cg")],
    ),
    Case("blank_line.csv", "a blank line among the rows", b"id,text\n1,a\n\n2,b\n", [(2, "a"), (4, "b")], blank=1),
    Case(
        "blank_of_spaces.csv",
        "lines of white space, and a quoted one, which is a row",
        b'text\na\n  \n"  "\n\t\n""\nb\n\n',
        [(2, "a"), (4, "  "), (6, ""), (7, "b")],
        blank=3,
    ),
    Case(
        "cr_cr_lf.csv",
        "line ends written twice, so that every other line is blank",
        PLAIN.replace("\n", "\r\r\n").encode(),
        [(3, "a b"), (5, "c d")],
        message="lines end with CR CR LF",
        blank=3,
    ),
    Case(
        "delimiters_at_the_end.csv",
        "rows of delimiters alone: in the middle, and at the end as Excel leaves them",
        b'id,text\n1,a\n,\n2,b\n"",\n,\n\n,,,\n,\n',
        [(2, "a"), (3, ""), (4, "b"), (5, "")],
        blank=4,
    ),
    Case(
        "delimiters_in_the_middle.csv",
        "a row of too many delimiters among the others",
        b"id,text\n1,a\n,,,\n2,b\n",
        refusal="line 3: 4 fields where the header has 2",
    ),
    Case(
        "delimiters_only.csv",
        "rows of delimiters alone",
        b"id,text\n,\n,\n",
        refusal="there is no row below the header",
    ),
    Case(
        "end_of_dos.csv",
        "the DOS end-of-file mark",
        PLAIN.encode() + b"\x1a",
        refusal="line 4: holds only the DOS end-of-file mark (^Z, 0x1a); remove it",
    ),
    Case(
        "end_of_dos.jsonl",
        "the same behind JSON lines",
        b'{"text": "a"}\n{"text": "b"}\n\x1a',
        refusal="line 3: holds only the DOS end-of-file mark (^Z, 0x1a); remove it",
    ),
    # quotes
    Case(
        "unclosed_middle.csv",
        "a quote that is never closed, in the middle",
        b'id,text\n1,a\n2,"b\n3,c\n4,"d"\n5,e\n',
        refusal="line 3: the record that begins here cannot be read as CSV",
    ),
    Case(
        "unclosed_end.csv",
        "a quote that is never closed, in the last row",
        b'id,text\n1,a\n2,"b\n',
        refusal="line 3: the record that begins here cannot be read as CSV (unexpected end of data)",
    ),
    Case(
        "after_quote.csv",
        "text after a closing quote",
        b'id,text\n1,"a" b\n',
        refusal="line 2: the record that begins here cannot be read as CSV (',' expected after '\"'",
    ),
    Case(
        "backslash_quotes.csv",
        "quotes escaped as MySQL does",
        b'id,text\n1,"say \\"hi\\" now"\n',
        refusal='set data.escape: "\\\\" in params.yaml',
    ),
    Case(
        "backslash_quotes_named.csv",
        "the same, named; other backslashes stay",
        b'id,text\n1,"say \\"hi\\" now"\n2,C:\\new \\\\ x\n',
        [(2, 'say "hi" now'), (3, "C:\\new \\ x")],
        data={"escape": "\\"},
    ),
    Case(
        "quotes_mean_nothing.csv",
        "inches and an odd quote",
        b'id,text\n1,a 5" pipe\n2,"so\n',
        [(2, 'a 5" pipe'), (3, '"so')],
        data={"quote": "none"},
    ),
    Case(
        "quoted_word.csv",
        "texts that begin with a quoted word, none quoted whole",
        b'id,text\n1,"Hello" she said.\n2,b\n',
        refusal="the record that begins here cannot be read as CSV (',' expected after '\"'); set data.quote: none in",
    ),
    Case(
        "quoted_word_beside_quoted_texts.csv",
        "the same beside a quoted text, where that would garble",
        b'id,text\n1,"a, b"\n2,"Hello" she said.\n',
        refusal="must be written twice, and each opening one must be closed",
    ),
    Case(
        "quoted_word_one_column.csv",
        "the same in a single column, with a comma",
        b'text\n"Hello," she said.\nb\n',
        refusal="; set data.delimiter: auto and data.quote: none in params.yaml, with which the first 3 records have",
    ),
    Case(
        "quoted_word_named.csv",
        "the same, said so",
        b'text\n"Hello," she said.\nb\n',
        [(2, '"Hello," she said.'), (3, "b")],
        data={"quote": "none", "delimiter": "auto"},
        message="one column",
    ),
    Case(
        "single_quotes_default.csv",
        "another quote, not named",
        b"id,text\n1,'a, b'\n2,'c, d'\n",
        refusal="3 fields where line 1 has 2, and so in 2 of the first 2 rows: '1', \"'a\", \" b'\"; set data.quote: ",
    ),
    Case(
        "quotes_said_to_mean_nothing.csv",
        "quoted texts read as if quotes meant nothing",
        b'id,text\n1,"a, b"\n2,"c, d"\n',
        refusal='set data.quote: "\\"" in params.yaml, with which the first 3 records have 2 fields each',
        data={"quote": "none"},
    ),
    Case(
        "escaped_commas.csv",
        "commas escaped, not named",
        b"id,text\n1,a\\, b\n2,c\\, d\n",
        refusal='set data.escape: "\\\\" in params.yaml, with which the first 3 records have 2 fields each',
    ),
    Case(
        "bare_commas_quotes_none.csv",
        "a bare comma while quotes mean nothing",
        b"id,text\n1,a, b\n2,c\n",
        refusal='put texts that hold comma (",") or a line break in quotes (") and set data.quote: \'"\', or set',
        data={"quote": "none"},
    ),
    Case(
        "one_column_quotes_none.csv",
        "the same in a single column",
        b"text\na, b\nc\n",
        refusal="set data.delimiter: auto in params.yaml, with which the first 3 records have one field each",
        data={"quote": "none"},
    ),
    Case("doubled_quotes.csv", "quotes written twice", b'text\n"a ""b"" c"\n""""\n', [(2, 'a "b" c'), (3, '"')]),
    Case("single_quotes.csv", "another quote", b"id,text\n1,'a, b'\n", [(2, "a, b")], data={"quote": "'"}),
    # columns
    Case(
        "too_many_fields.csv",
        "a comma in a bare text",
        b"id,text\n1,a\n2,b, c\n",
        refusal="line 3: 3 fields where the header has 2 (id, text): '2', 'b', ' c'; put texts that hold",
    ),
    Case(
        "comma_at_the_end.csv",
        "a comma at the end of each row but the header",
        b"id,text\n1,a,\n2,b,\n",
        refusal='none of the 2 rows fits the columns; end the header with comma (",") as well, or remove it from',
    ),
    Case(
        "too_few_fields.csv",
        "a row cut short",
        b"id,text\n1\n2,b\n",
        refusal="line 2: 1 fields where the header has 2 (id, text): '1'",
    ),
    Case("cut_off.csv", "a file cut off", b"id,text\n1,a\n2", refusal="(the last row: the file may be truncated)"),
    Case(
        "ragged_many.csv",
        "twelve broken rows",
        b"id,text\n" + b"1\n" * 12 + b"2,b\n",
        refusal="12 of 13 rows do not fit the columns; put texts that hold",
    ),
    Case(
        "ragged_quarantined.csv",
        "both ways, set aside",
        b"id,text\n1,a,x\n2\n3,c\n",
        [(4, "c")],
        data=QUARANTINE,
        broken={2: ["1", "a", "x"], 3: ["2"]},
    ),
    Case(
        "space_before_quote.csv",
        "a quote after a space quotes nothing",
        b'id,text\n1, "a, b"\n',
        refusal='remove the space before the "',
    ),
    Case(
        "one_column_bare.csv",
        "one column of texts with bare commas",
        b"text\na, b\nc\n",
        refusal="set data.delimiter: auto in params.yaml, with which",
    ),
    Case("one_column.csv", "one column", b"text\na b\nc d\n", TWO),
    Case(
        "one_column_auto.csv",
        "one column of commas, detected",
        b"text\na, b\nc\n",
        [(2, "a, b"), (3, "c")],
        data={"delimiter": "auto"},
        message="one column",
    ),
    Case(
        "semicolons.csv",
        "semicolons between fields",
        b"id;text\n1;a, b\n2;c\n",
        refusal='set data.delimiter: ";" in params.yaml, with which the first 3 records have 2 fields each',
    ),
    Case(
        "semicolons_auto.csv",
        "the same, detected among commas",
        b"id;text\n1;a, b\n2;c, d\n",
        [(2, "a, b"), (3, "c, d")],
        data={"delimiter": "auto"},
        message="separated by semicolon",
    ),
    Case("tabs.csv", "tabs, detected", b"id\ttext\n1\ta b\n2\tc d\n", TWO, data={"delimiter": "auto"}),
    Case("commas.tsv", "commas in a .tsv", PLAIN.encode(), refusal="set data.format: csv"),
    Case("plain.tsv", "a .tsv needs no setting", b"id\ttext\n1\ta b\n2\tc d\n", TWO),
    Case(
        "two_delimiters.csv",
        "two delimiters fit",
        b"id,x;y\n1,y;a\n2,z;b\n",
        refusal="data.delimiter: auto cannot tell",
        data={"delimiter": "auto"},
    ),
    Case(
        "two_delimiters_named.csv",
        "two delimiters fit, of which one gives the column that the settings name",
        b"id,x;text\n1,y;a\n2,z;b\n",
        [(2, "a"), (3, "b")],
        data={"delimiter": "auto"},
        message="separated by semicolon",
    ),
    Case(
        "sep_line.csv", "Excel's own first line", b"sep=;\nid;text\n1;a\n", refusal="line 1: holds Excel's own 'sep=;'"
    ),
    # the header
    Case(
        "no_header.csv",
        "a row where the header should be",
        b"1,This is the very first text of this corpus.\n2,And here comes another text of it.\n",
        refusal="set data.header: none and validate.column: column_2 in params.yaml, with which",
    ),
    Case(
        "no_header_named.csv",
        "the same, said so",
        b"1,a b\n2,c d\n",
        [(1, "a b"), (2, "c d")],
        data={"header": "none"},
        validate={"column": "column_2"},
        message="column_1 to column_2",
    ),
    Case(
        "no_header_twice.csv",
        "a row with the same number twice where the header should be",
        b"1,This is the very first text of this corpus.,1\n2,And here comes another text of it.,5\n",
        refusal="names '1' more than once; set data.header: none and validate.column: column_2 in params.yaml",
    ),
    Case(
        "prose.csv",
        "plain text, a text on each line, with commas",
        b"This is the first text, which is long enough.\nAnd here is another one of this corpus.\nSo, it ends, here.\n",
        refusal="set data.format: text in params.yaml, with which the first 3 records have one field each",
    ),
    Case(
        "prose_named.csv",
        "the same, said so, with a blank line",
        b"This is the first text, which is long enough.\n\nAnd here is another one of this corpus.\n",
        [(1, "This is the first text, which is long enough."), (3, "And here is another one of this corpus.")],
        data={"format": "text"},
        blank=1,
    ),
    Case(
        "labels_in_single_quotes.csv",
        "no header, semicolons, and single quotes around texts full of both delimiters",
        LABELS,
        refusal='data.header: none and data.delimiter: ";" and data.quote: "\'" and validate.column: column_2 in',
    ),
    Case(
        "labels_in_single_quotes_commas_kept.csv",
        "the same, read with commas, which cut each text into as many fields",
        LABELS,
        refusal="the texts are cut, or hold other fields",
        data={"header": "none"},
        validate={"column": "column_1"},
    ),
    Case(
        "labels_in_single_quotes_as_lines.csv",
        "the same, read as one column, which leaves labels and quotes in the texts",
        LABELS,
        refusal='set data.delimiter: ";" and data.quote: "\'" and validate.column: column_2 in params.yaml',
        data={"header": "none", "delimiter": "\t"},
        validate={"column": "column_1"},
    ),
    Case(
        "labels_in_single_quotes_auto.csv",
        "the same, its dialect detected",
        LABELS,
        [(line, f"so {word} das; das will, doch {word}.") for line, word in enumerate(LABELED, start=1)],
        data={"header": "none", "delimiter": "auto", "quote": "auto"},
        validate={"column": "column_2"},
        message="data.quote: auto: read with the quote '",
    ),
    Case(
        "numbered_columns.csv",
        "columns called by their numbers, as pandas does",
        b"0,1\n5,This is the very first text of this corpus.\n6,And here comes another text of it.\n",
        refusal='set validate.column: "1" in params.yaml',
    ),
    Case(
        "blank_before_header.csv",
        "blank lines first",
        b"\n\nid,text\n1,a\n",
        [(4, "a")],
        message="lines 1 to 2 are blank; the header is line 3",
        blank=2,
    ),
    Case(
        "delimiters_before_header.csv",
        "rows of delimiters first, as Excel pads a sheet",
        b",,\n , ,\nid,text,\n1,a,b\n",
        [(4, "a")],
        message="the header is line 3",
        blank=2,
    ),
    Case(
        "blank_before_labels.csv",
        "blank lines above rows without a header",
        b"\n\n" + LABELS,
        refusal="line 3: looks like a row, not like a header",
    ),
    Case("unclosed_header.csv", "a quote in the header", b'"id,text\n1,a\n', refusal="the header goes on to the end"),
    Case("duplicate_header.csv", "a name twice", b"text,text\na,b\n", refusal="the header names 'text' more than once"),
    Case("empty_names.csv", "no names", b"text,,\na,b,c\n", refusal="the header leaves 2 columns without a name"),
    Case("index_column.csv", "one column without a name, as pandas writes", b",text\n0,a b\n1,c d\n", TWO),
    Case("reserved.csv", "a name that the quarantine uses", b"row,text\n1,a\n", refusal="used by quarantine.csv"),
    Case(
        "title_line.csv",
        "a title above the header",
        b"Report 2024\nid,text\n1,a\n2,b\n",
        refusal="a later row holds 'text': if that one is the header, delete the lines before it",
    ),
    Case(
        "wrong_case.csv",
        "the name in capitals",
        b"id,TEXT\n1,a b\n",
        refusal="write 'TEXT' there, exactly as the header",
    ),
    Case(
        "no_text.csv",
        "no column of texts",
        b"date,amount\n2024-01-01,5\n2024-01-02,6\n",
        refusal="the header has 'date' (dates), 'amount' (numbers); none of them holds text",
    ),
    Case(
        "template.csv",
        "a text of two columns; a blank one blanks it",
        b"question,answer\nWhy?,So.\nHow?, \n",
        [(2, "Q: Why?\nA: {So.}"), (3, "")],
        validate={"template": "Q: {question}\nA: {{{answer}}}"},
    ),
    Case(
        "template_wrong.csv",
        "a template that names no such column",
        b"question,answer\nWhy?,So.\n",
        refusal="there is no column 'reply' (validate.template)",
        validate={"template": "{question} {reply}"},
    ),
    # texts
    Case(
        "words_for_nothing.csv",
        "words that other readers take for nothing",
        b"text\nNA\nnull\nNone\nnan\nN/A\n#N/A\nTRUE\n1.0\n007\n",
        list(enumerate(["NA", "null", "None", "nan", "N/A", "#N/A", "TRUE", "1.0", "007"], start=2)),
    ),
    Case(
        "formulas.csv",
        "texts that a spreadsheet would run",
        b'text\n=1+1\n"=HYPERLINK(""http://x"",""y"")"\n+1\n-1\n@SUM(A1)\n\t=1\n',
        list(enumerate(["=1+1", '=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1"], start=2)),
    ),
    Case(
        "right_to_left.csv",
        "marks that turn the direction of writing",
        "text\nabc \u202egnp.exe\u202c\n\u200fשלום\u200e\n".encode(),
        [(2, "abc \u202egnp.exe\u202c"), (3, "\u200fשלום\u200e")],
    ),
    Case("white_space.csv", "spaces around texts", b"id,text\n1,  a  \n2,\t\n", [(2, "  a  "), (3, "\t")]),
    Case(
        "odd_characters.csv",
        "emoji, combining marks, a byte order mark and a noncharacter inside",
        "text\n👩‍👩‍👧 e\u0301 a\ufeffb \uffff \U0010ffff\n".encode(),
        [(2, "👩‍👩‍👧 e\u0301 a\ufeffb \uffff \U0010ffff")],
    ),
    Case("controls.csv", "bells and escapes", b"text\na\x07b\x1b[31m\x7f\n", [(2, "a\x07b\x1b[31m\x7f")]),
    # JSON lines
    Case(
        "values.jsonl",
        "values that are no strings, keys that differ",
        b'{"text": "a", "n": 1.10}\n{"n": [1, {"a": 1, "a": 2}], "text": null}\n{"text": true, "new": 1e999}\n',
        [(1, "a"), (2, ""), (3, "true")],
    ),
    Case(
        "lone_surrogate.jsonl",
        "half a surrogate pair, and a whole one",
        b'{"text": "ab \\ud800 c"}\n{"text": "\\ud83d\\ude00"}\n',
        [(1, "ab \ufffd\\ud800 c"), (2, "😀")],
    ),
    Case(
        "twice.jsonl",
        "a key twice",
        b'{"text": "a", "text": "b"}\n{"text": "c"}\n',
        refusal='line 1: the key "text" appears twice',
    ),
    Case(
        "twice_each.jsonl",
        "a key twice on each line",
        b'{"text": "a", "text": "b"}\n{"text": "c", "text": "d"}\n',
        refusal='line 1: the key "text" appears twice',
    ),
    Case(
        "nul.jsonl",
        "an escaped NUL",
        b'{"text": "a \\u0000 b"}\n',
        [(1, "a \ufffd\\u0000 b")],
    ),
    Case(
        "indented.jsonl",
        "objects over several lines",
        b'{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n',
        refusal="line 1: holds a JSON object that goes on over several lines; JSON Lines needs one object per line: "
        "convert it with jq -c . FILE > NEW.jsonl",
    ),
    Case(
        "indented_with_an_object_a_line.jsonl",
        "the same, holding an object on a line of its own",
        b'{"a": [\n  {"text": "a"}\n]}\n',
        refusal="line 1: holds a JSON object that goes on over several lines",
    ),
    Case(
        "indented.csv",
        "the same named .csv",
        b'{\n  "text": "a"\n}\n',
        refusal="convert it with jq -c . FILE > NEW.jsonl",
    ),
    Case(
        "array.csv",
        "a JSON array named .csv",
        b'[{"text": "a"}]\n',
        refusal="convert it with jq -c '.[]' FILE > NEW.jsonl",
    ),
    Case("csv.jsonl", "CSV named .jsonl", PLAIN.encode(), refusal="set data.format: csv in params.yaml, with which"),
    Case(
        "semicolons.jsonl",
        "CSV with semicolons named .jsonl",
        b"id;text\n1;a\n",
        refusal='set data.format: csv and data.delimiter: ";" in params.yaml',
    ),
    Case(
        "prose.jsonl", "plain text named .jsonl", b"a b\nc d\n", refusal="line 1: no line holds a JSON object such as"
    ),
    Case(
        "chat.jsonl",
        "a list of messages on each line",
        b'{"messages": [{"role": "user", "content": "Why is that so?"}, {"role": "user", "content": "Say it!"}]}\n',
        refusal="'messages' holds JSON lists, not texts; make a row of each object in them with jq -c '.messages[]' "
        "FILE > NEW.jsonl, then set validate.column: content",
    ),
    Case(
        "nested.jsonl",
        "texts inside an object",
        b'{"the data": {"id": 1, "text": "a b"}}\n',
        refusal="""holds JSON objects, not texts; make a row of each object in them with jq -c '.["the data"]' FILE""",
    ),
    Case(
        "nested_beside_text.jsonl",
        "lists beside a column of texts",
        b'{"tags": ["a long tag of words", "b"], "story": "The tide came in over the sand."}\n',
        refusal="'tags' (JSON lists), 'story' (text, 31 characters on average); set validate.column: story in params",
    ),
    Case("cut.jsonl", "an object cut off", b'{"text": "a"}\n{"text": "b', refusal="line 2: is not JSON ("),
    Case(
        "cut_quarantined.jsonl",
        "the same, set aside",
        b'{"text": "a"}\n{"text": "b\n[1]\n',
        [(1, "a")],
        data=QUARANTINE,
        broken={2: ['{"text": "b'], 3: ["[1]"]},
    ),
    Case("array.jsonl", "one array", b'[{"text": "a"}]\n', refusal="line 1: holds a JSON array"),
    Case("blank.jsonl", "a blank line", b'{"text": "a"}\n\n{"text": "b"}\n', [(1, "a"), (3, "b")], blank=1),
    Case(
        "deep.jsonl",
        "lists in lists in lists",
        b'{"text": "a"}\n{"text": ' + b"[" * 20000 + b"\n",
        refusal="line 2: is",
    ),
    Case("json.csv", "JSON named .csv", b'{"text": "a"}\n', refusal="set data.format: jsonl"),
    # Parquet
    Case(
        "types.parquet",
        "a dictionary, a null",
        _parquet(pa.table({"text": pa.array(["a", None, "a"]).dictionary_encode(), "n": [1, 2, None]})),
        [(1, "a"), (2, ""), (3, "a")],
    ),
    Case(
        "views.parquet",
        "string views",
        _parquet(pa.table({"text": pa.array(["a b", "c d"], pa.string_view())})),
        [(1, "a b"), (2, "c d")],
    ),
    Case(
        "bytes.parquet",
        "bytes, some of them no UTF-8",
        _parquet(pa.table({"text": pa.array([b"caf\xc3\xa9", b"caf\xe9"], pa.binary())})),
        [(1, "café"), (2, "caf\ufffd\\udce9")],
    ),
    Case(
        "nul.parquet",
        "a NUL in a string",
        _parquet(pa.table({"text": ["a\0b", "c"]})),
        [(1, "a\ufffd\\u0000b"), (2, "c")],
    ),
    Case(
        "numbers.parquet",
        "columns that are no texts",
        _parquet(pa.table({"text": [1, 2], "list": [[1, 2], None]})),
        [(1, "1"), (2, "2")],
    ),
    Case("cut.parquet", "cut off", _parquet(pa.table({"text": ["a"]}))[:-20], refusal="cannot be read as Parquet"),
    Case("parquet.csv", "Parquet named .csv", _parquet(pa.table({"text": ["a"]})), refusal="is Parquet"),
    Case("csv.parquet", "CSV named .parquet", PLAIN.encode(), refusal="is not a Parquet file"),
    # packed, and what is no table at all
    Case("packed.csv.gz", "gzip", _gzip(PLAIN.encode()), TWO),
    Case("packed_twice.csv.gz", "gzip in two members", _gzip(PLAIN[:12].encode()) + _gzip(PLAIN[12:].encode()), TWO),
    Case("packed.csv.zst", "zstd", _zstd(PLAIN.encode()), TWO),
    Case("packed.jsonl.zst", "JSON lines in zstd", _zstd(b'{"text": "a"}\n'), [(1, "a")]),
    Case("cut.csv.gz", "gzip cut off", _gzip(PLAIN.encode() * 99)[:-9], refusal="cannot be unpacked as gzip"),
    Case("cut.csv.zst", "zstd cut off", _zstd(PLAIN.encode() * 99)[:-9], refusal="cannot be unpacked as zstd"),
    Case("pointer.csv", "a pointer of Git LFS", POINTER, refusal="fetch the file: git lfs pull"),
    Case("pointer.csv.gz", "the same to a packed file", POINTER, refusal="fetch the file: git lfs pull"),
    Case("gzip.csv", "gzip named .csv", _gzip(PLAIN.encode()), refusal="is compressed with gzip, not what its name"),
    Case("plain.csv.gz", "CSV named .csv.gz", PLAIN.encode(), refusal="is named as compressed with gzip but is not"),
    Case("workbook.csv", "Excel named .csv", _zip("xl/workbook.xml"), refusal="is an Excel workbook (xlsx)"),
    Case("archive.csv", "a ZIP named .csv", _zip("a.csv"), refusal="is a ZIP archive"),
    Case(
        "old_workbook.csv", "old Excel named .csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1x", refusal="Excel workbook (xls)"
    ),
    Case("paper.csv", "a PDF named .csv", b"%PDF-1.7\n", refusal="is a PDF"),
    Case("page.csv", "a web page named .csv", b"<!DOCTYPE html>\n<html>", refusal="is a web page"),
    Case("base.csv", "SQLite named .csv", _sqlite(), refusal="is an SQLite database"),
    Case("unknown.txt", "a name that says nothing", PLAIN.encode(), refusal="its name does not say what it contains"),
    Case("named.txt", "the same, with data.format", PLAIN.encode(), TWO, data={"format": "csv"}),
]


def table() -> str:
    """Return the table of README.md."""
    lines = ["| file | what it is | settings | result |", "| --- | --- | --- | --- |"]
    for case in CASES:
        settings = [f"`data.{key}: {json.dumps(value)}`" for key, value in case.data.items()]
        settings += [f"`validate.{key}: {json.dumps(value)}`" for key, value in case.validate.items()]
        if case.refusal:
            end = f"refused: … {case.refusal} …"
        else:
            end = f"{len(case.rows)} rows" + (f", {len(case.broken)} quarantined" if case.broken else "")
        cells = [f"`{case.name}`", case.what, ", ".join(settings), end]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


README = """# Hostile files

Small files made to break an intake. `cases.py` lists the rows or the refusal that each must give, and `test_hostile.py`
checks the rows with their lines and texts, byte for byte, or the words of the refusal. The test makes the longest
field. `python -m tests.pipeline.intake.hostile.cases` writes the files and this table.

"""


def main() -> None:
    """Write the files and the table."""
    arg_parser().parse_args()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for case in CASES:
        (FOLDER / case.name).write_bytes(case.content)
    (FOLDER.parent / "README.md").write_text(README + table(), encoding="utf-8")


if __name__ == "__main__":
    run(main)
