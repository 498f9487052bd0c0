"""What the raw bytes show, beyond the hostile files: settings, detection, ambiguity."""

import csv
import io
from pathlib import Path

import pytest

from pipeline import params
from pipeline.command import UserError
from pipeline.intake import encodings, reader, sniff
from pipeline.intake.byte_source import BLOCK
from pipeline.intake.file_format import FileFormat
from tests.conftest import ROOT


def settings(**changes: str) -> params.Data:
    return params.load(ROOT / "params.yaml").data.model_copy(update=changes)


def sniffed(folder: Path, content: str | bytes, name: str = "corpus.csv", **changes: str) -> FileFormat:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return sniff.sniff_format(path, settings(**changes))


def refusal(folder: Path, content: str | bytes, name: str = "corpus.csv", **changes: str) -> str:
    with pytest.raises(UserError) as caught:
        sniffed(folder, content, name, **changes)
    return str(caught.value)


def test_a_plain_csv_is_described_and_needs_no_fix(tmp_path: Path) -> None:
    file_format = sniffed(tmp_path, "id,text\n1,a\n")
    assert (file_format.format, file_format.compression, file_format.encoding, file_format.line_ends) == (
        "csv",
        "none",
        "utf-8",
        "LF",
    )
    assert (file_format.delimiter, file_format.quote, file_format.escape, file_format.header) == (",", '"', "", True)
    assert file_format.columns == ("id", "text")
    assert file_format.sample == (("1", "a"),)
    assert (file_format.fixes, file_format.notes) == ((), ())


def test_line_ends_inside_quotes_do_not_count(tmp_path: Path) -> None:
    assert sniffed(tmp_path, 'id,text\r\n1,"a\nb\rc"\r\n').line_ends == "CRLF"
    assert sniffed(tmp_path, "id,text\r\n1,a\n").line_ends == "mixed"


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name the file in it"):
        sniff.sniff_format(tmp_path, settings())
    with pytest.raises(UserError, match="there is no file"):
        sniff.sniff_format(tmp_path / "none.csv", settings())


@pytest.mark.parametrize(
    ("name", "format_", "compression"),
    [
        ("a.csv", "csv", "none"),
        ("a.b.TSV", "tsv", "none"),
        ("a.tab", "tsv", "none"),
    ],
)
def test_the_format_follows_from_the_name(tmp_path: Path, name: str, format_: str, compression: str) -> None:
    file_format = sniffed(tmp_path, "id\ttext\n1\ta\n", name, delimiter="\t")
    assert (file_format.format, file_format.compression) == (format_, compression)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_delimiter_is_detected_among_texts_full_of_the_others(tmp_path: Path, delimiter: str) -> None:
    file = io.StringIO()
    texts = ["a, b; c", "d | e, f\tg", "h; i", "j\tk | l", "no mark", "m, n, o; p"]
    csv.writer(file, delimiter=delimiter).writerows([["id", "text"], *enumerate(texts)])
    file_format = sniffed(tmp_path, file.getvalue(), delimiter="auto")
    assert file_format.delimiter == delimiter
    assert file_format.fixes


def test_conflicting_delimiter_quote_and_escape_are_refused(tmp_path: Path) -> None:
    assert "name two different characters" in refusal(tmp_path, "a,b\n1,2\n", quote=",")
    assert "set data.escape: none" in refusal(tmp_path, "a,b\n1,2\n", escape='"')
    assert "found a line break" in refusal(tmp_path, "a,b\n1,2\n", delimiter="\n")


def test_an_encoding_that_is_not_for_text_is_refused(tmp_path: Path) -> None:
    assert "not an encoding of text" in refusal(tmp_path, "a,b\n1,2\n", encoding="rot13")


def test_a_mark_that_contradicts_the_setting_is_refused(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfid,text\n1,a\n"
    assert "set data.encoding: utf-8" in refusal(tmp_path, content, encoding="cp1252")
    assert sniffed(tmp_path, content, encoding="utf-8-sig").columns == ("id", "text")


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        (
            "cp1252",
            "Die Straße war naß, und die Türen öffneten sich für große Mädchen; wir hörten Gelächter im Häuschen",
        ),
        ("cp1252", "¿Dónde está la niña? El señor habló mañana con su compañía de la situación económica según él"),
        ("cp1250", "Zażółć gęślą jaźń, pchnąć w tę łódź jeża lub ośm skrzyń fig"),
        ("cp1251", "Быстрая коричневая лиса прыгает через ленивую собаку"),
        ("koi8-r", "Быстрая коричневая лиса прыгает через ленивую собаку"),
        ("cp1253", "Καλημέρα κόσμε, τι κάνεις σήμερα το πρωί;"),
        ("big5", "天氣很好我們去公園散步吧請問圖書館在哪裡"),
        ("gb18030", "天气很好我们去公园散步吧请问图书馆在哪里"),
        ("euc-jp", "吾輩は猫である。名前はまだ無い。東京へ行きました。"),
        ("shift_jis", "吾輩は猫である。名前はまだ無い。東京へ行きました。"),
        ("euc-kr", "안녕하세요 오늘 날씨가 정말 좋네요 산책하러 갈까요"),
    ],
)
def test_a_legacy_encoding_is_detected_and_shown_by_a_line(tmp_path: Path, encoding: str, sentence: str) -> None:
    lines = ["text", *["plain words first"] * 2000, *[f'"{sentence}"'] * 3]  # beyond what a short sample would see
    file_format = sniffed(tmp_path, ("\n".join(lines) + "\n").encode(encoding), encoding="auto")
    assert sentence.encode(file_format.encoding) == sentence.encode(encoding)
    assert "line 2002 reads" in file_format.fixes[0]
    assert sentence[:10] in file_format.fixes[0]


def test_an_ambiguous_encoding_is_refused_with_how_each_candidate_reads(tmp_path: Path) -> None:
    message = refusal(tmp_path, "text\nthe café\n".encode("cp1252"), encoding="auto")
    assert "line 2: data.encoding: auto cannot tell the encoding; name it in data.encoding" in message
    assert "cp1252 reads 'the café'" in message


FRENCH = [
    "L\u2019été dernier on a goûté un pâté",
    "« école » fermée à midi",
    "l\u2019école",
    "«être» ou ne pas être",
    "NESCAFÉ® Noël",
    "NESCAFÉ® Gold",
]


@pytest.mark.parametrize("encoding", ["cp1252", "mac-roman"])
def test_bytes_that_are_utf8_by_chance_do_not_outweigh_the_rest_of_the_file(tmp_path: Path, encoding: str) -> None:
    content = ("text\n" + "".join(f"{sentence}\n" for sentence in FRENCH * 9)).encode(encoding)
    assert any(not line.isascii() and line.decode("utf-8", "ignore").encode() == line for line in content.splitlines())
    assert sniffed(tmp_path, content, encoding="auto").encoding == encoding
    with pytest.raises(UserError) as caught:
        list(reader.read_chunks(sniffed(tmp_path, content), settings()))
    assert f"set data.encoding: {encoding} in params.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            [*(line.encode("cp1252") for line in FRENCH * 9), "café Straße".encode()],
            "54 are cp1252, the best match; 1 line contradicts it: line 56, which is UTF-8 ('café Straße') and "
            "would read 'cafÃ© StraÃŸe'",
        ),
        (
            [*(line.encode() for line in FRENCH * 9), "café".encode("cp1252")],
            "54 are utf-8, the best match; 1 line contradicts it: line 56, which may be meant as 'café'; save that",
        ),
    ],
)
def test_a_file_in_two_encodings_is_refused_with_the_best_one_and_the_contradicting_lines(
    tmp_path: Path, lines: list[bytes], sentence: str
) -> None:
    message = refusal(tmp_path, b"text\n" + b"\n".join(lines) + b"\n", encoding="auto")
    assert "mixes encodings: of 55 lines outside ASCII" in message
    assert sentence in message


def test_utf_16_is_detected_by_the_positions_of_its_nuls() -> None:
    text = "id,text\n1,Hello there.\n"
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        assert encodings.detect_utf16_or_32(text.encode(encoding)) == encoding
        assert encodings.detect_utf16_or_32("天氣很好\n謝謝您\n".encode(encoding)) == encoding
    assert encodings.detect_utf16_or_32(text.encode()) is None
    assert encodings.detect_utf16_or_32(b"id,text\n1,a\0b\n") is None


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog.",
        "Zażółć gęślą jaźń, pchnąć w tę łódź jeża lub ośm skrzyń fig",
        "Ngày mai trời sẽ mưa và chúng tôi sẽ ở nhà",
        "Быстрая коричневая лиса прыгает через ленивую собаку",
        "吾輩は猫である。名前はまだ無い。東京へ行きました。",
        "天气很好我们去公园散步吧请问图书馆在哪里",
        "안녕하세요 오늘 날씨가 정말 좋네요 산책하러 갈까요",
        "मौसम अच्छा है, चलो बगीचे में टहलने चलते हैं",
    ],
)
def test_utf_16_is_distinguished_from_text_with_stray_nuls(text: str) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        assert encodings.detect_utf16_or_32(f"id,text\n1,{text}\n2,{text}\n".encode(encoding)) == encoding
    content = f"id,text\n1,{text}\n2,{text}\n".encode()
    for stray in (b"\0\n", b"\n\0"):
        assert encodings.detect_utf16_or_32(content.replace(b"\n", stray)) is None
        for at in range(len(content)):
            assert encodings.detect_utf16_or_32(content[:at] + stray + content[at:]) is None


def test_all_settings_that_a_file_needs_are_named_at_once(tmp_path: Path) -> None:
    rows = "".join(f"{number};L'été dernier, on a goûté un pâté à l'orée de la forêt.\r\n" for number in range(9))
    path = tmp_path / "corpus.csv"
    path.write_bytes(f"Nr;Texte\r\n{rows}".encode("cp1252"))
    with pytest.raises(UserError) as caught:
        sniff.sniff_format(path, settings(), params.load(ROOT / "params.yaml").validate_)
    assert "set data.encoding: cp1252 in params.yaml" in str(caught.value)
    assert str(caught.value).endswith('; the file also needs data.delimiter: ";" and validate.column: "Texte"')


def test_lines_are_counted_across_pieces() -> None:
    lines = encodings.LineCounter()
    for piece in ("a\r", "\nb\r", "c\n", "", "\n"):
        lines.add(piece)
    assert lines.line == 5


def test_the_line_of_a_fault_is_found_beyond_the_first_block(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    row = "1,naïve words\r\n".encode()
    count = 3 * BLOCK // len(row)
    path.write_bytes(b"id,text\r\n" + row * count + b"1,a\xffb\r\n" + row)
    assert encodings.first_undecodable(path, "none", "utf-8", 0) == (count + 2, b"\xffb\r\n", "1,a")


def test_a_header_that_looks_like_a_row_gets_a_note(tmp_path: Path) -> None:
    assert "if line 1 is a row" in sniffed(tmp_path, "1,text\n2,a\n").notes[0]
