"""Following the advice of an error message, by copying its settings, gives the right texts."""

import csv
import io
import itertools
import json
import random
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import params, paths, validate
from pipeline.command import UserError
from pipeline.intake.columns import check_columns
from pipeline.intake.reader import read_chunks
from pipeline.intake.sniff import sniff_format
from pipeline.intake.text_builder import text_builder
from tests.conftest import ROOT, Workspace

DEFAULTS = params.load(ROOT / "params.yaml")
LABELS = ["Web", "Sport", "Kultur", "Panorama"]
WORDS = ["so", "im", "Gesetz;", "doch", "heißt,", "komme", "bald", "Regierung,", "Herbst;", "schön", "|", "über"]
SETTING = r'(?:data|validate)\.\w+: (?:"(?:[^"\\]|\\.)*"|[\w-]+)'
QUOTES = {"all": csv.QUOTE_ALL, "minimal": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}


def sentences(count: int, seed: int, without: str = "") -> list[str]:
    source = random.Random(seed)
    texts = [f"{' '.join(source.choices(WORDS, k=12))} {number}." for number in range(count)]
    return ["".join(character for character in text if character not in without) for text in texts]


def table(
    texts: list[str], header: tuple[str, str] | None, delimiter: str, quote: str, quoting: str, padding: str
) -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quotechar=quote, quoting=QUOTES[quoting], lineterminator="\r\n")
    if header:
        writer.writerow(header)
    writer.writerows([LABELS[number % 4], text] for number, text in enumerate(texts))
    above = {"none": "", "blank": "\r\n\r\n", "delimiters": f"{delimiter}\r\n{delimiter}\r\n"}[padding]
    return above + file.getvalue()


def advised(error: UserError) -> dict[str, dict[str, str]]:
    """Return the settings that an error names, by section."""
    settings: dict[str, dict[str, str]] = {"data": {}, "validate": {}}
    for group in re.findall(rf"(?:set|also needs) ({SETTING}(?: and {SETTING})*)", str(error)):
        for setting in re.findall(SETTING, group):
            key, value = setting.split(": ", 1)
            section, name = key.split(".")
            settings[section].setdefault(name, json.loads(value) if value.startswith('"') else value)
    return settings


def texts_of(path: Path, data: params.Data, validate: params.Validate) -> list[str]:
    file_format = sniff_format(path, data, validate)
    check_columns(file_format, validate)
    text = text_builder(file_format.columns, validate)
    return [text(fields) for chunk in read_chunks(file_format, data) for fields in chunk.fields]


def after_advice(path: Path, **settings: str) -> tuple[list[str], str]:
    """Return the texts, after the settings that the first error names are set, and that error."""
    data, validate = DEFAULTS.data.model_copy(update=settings), DEFAULTS.validate_
    try:
        return texts_of(path, data, validate), ""
    except UserError as error:
        changes, message = advised(error), str(error)
    data, validate = data.model_copy(update=changes["data"]), validate.model_copy(update=changes["validate"])
    try:
        return texts_of(path, data, validate), message
    except UserError as error:
        raise AssertionError(f"{message}\n\nand then: {error}") from None


HEADERS = [("label", "text"), ("Ressort", "Beitrag"), None]
STYLES = [('"', "all"), ('"', "minimal"), ("'", "all"), ("'", "minimal"), ('"', "none")]
AUTO = {"encoding": "auto", "delimiter": "auto", "quote": "auto"}


def check(folder: Path, delimiter: str, combination: tuple[object, ...], number: int) -> None:
    header, (quote, quoting), encoding, padding, settings = combination
    texts = sentences(40, number, without=delimiter + quote if quoting == "none" else "")
    if not header and padding == "delimiters":
        padding = "none"  # rows without a header: such a row is one
    path = folder / f"{number}.csv"
    path.write_bytes(table(texts, header, delimiter, quote, quoting, padding).encode(encoding))
    got, message = after_advice(path, **settings)
    assert got == texts, f"{combination}: {message}\n{path.read_bytes()[:200]!r}\n{got[:2]}"


COMBINATIONS = list(
    itertools.product(HEADERS, STYLES, ["utf-8", "cp1252", "utf-16"], ["none", "blank", "delimiters"], [{}, AUTO])
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_is_read_correctly_after_one_piece_of_advice(tmp_path: Path, delimiter: str) -> None:
    for number, combination in enumerate(COMBINATIONS[ord(delimiter) % 7 :: 23]):
        check(tmp_path, delimiter, combination, number)


@pytest.mark.slow
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_table_is_read_correctly_after_one_piece_of_advice(tmp_path: Path, delimiter: str) -> None:
    for number, combination in enumerate(COMBINATIONS):
        check(tmp_path, delimiter, combination, number)


@pytest.mark.parametrize("padding", ["", "\n\n"])
@pytest.mark.parametrize("name", ["corpus.csv", "corpus.txt", "corpus.tsv", "corpus.jsonl"])
def test_plain_text_is_read_whole_after_one_piece_of_advice(tmp_path: Path, name: str, padding: str) -> None:
    texts = ["It was a dark night.", *sentences(40, seed=1)]
    path = tmp_path / name
    path.write_text(padding + "\n\n".join(texts), encoding="utf-8")
    got, message = after_advice(path)
    assert got == texts
    assert "set data.format: text in params.yaml, with which the first 41 records have one field each" in message


@pytest.mark.parametrize("header", ["text\n", "Beitrag\n", ""])
@pytest.mark.parametrize("quote", ['"', "'"])
def test_one_column_of_quoted_texts_is_read_whole_after_one_piece_of_advice(
    tmp_path: Path, header: str, quote: str
) -> None:
    texts = sentences(40, seed=2)
    path = tmp_path / "corpus.csv"
    path.write_text(header + "".join(f"{quote}{text}{quote}\n" for text in texts), encoding="utf-8")
    assert after_advice(path)[0] == texts


def test_labels_in_bare_lines_are_not_taken_for_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    labelled = "".join(f"{LABELS[at % 4]};{text}\n" for at, text in enumerate(sentences(40, seed=3)))
    dated = 'day, another day, heat, place\n2011-01-01, 24 October 2011, 0,\n2011-01-03, , "6,000", Galway\n'
    for content in (labelled, dated):
        path.write_text(content)
        with pytest.raises(UserError) as caught:
            sniff_format(path, DEFAULTS.data, DEFAULTS.validate_)
        assert advised(caught.value)["data"] == {}


def test_quotes_that_belong_to_the_texts_stay_where_the_settings_say_so(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text("id,text\n" + "".join(f"{number},'Number {number}'\n" for number in range(9)))
    assert after_advice(path)[0][0] == "Number 0"
    assert after_advice(path, quote="none")[0][0] == "'Number 0'"


def test_a_file_with_rows_of_many_widths_is_refused_rather_than_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text("id,text\n" + "".join(f"{number},a{', b' * (number % 5)}\n" for number in range(40)))
    with pytest.raises(UserError, match="have 5 different numbers of fields, so their texts are cut at the delimiter"):
        sniff_format(path, DEFAULTS.data.model_copy(update={"broken_rows": "quarantine"}), DEFAULTS.validate_)


def test_validate_accepts_a_file_after_its_advice(workspace: Workspace) -> None:
    texts = sentences(60, seed=4)
    workspace.write_corpus(table(texts, None, ";", "'", "all", "blank").encode("utf-16"))
    workspace.set(validate__rules__near_duplicate__severity="ignore")
    with pytest.raises(UserError) as caught:
        validate.main()
    changes = advised(caught.value)
    workspace.set(**{f"{section}__{key}": value for section in changes for key, value in changes[section].items()})
    validate.main()
    assert pq.read_table(paths.CLEAN)["text"].to_pylist() == texts
