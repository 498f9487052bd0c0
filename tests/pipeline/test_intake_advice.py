"""Advice is followed as a user would, by copying its settings: the file is then accepted with the right texts."""

import csv
import io
import itertools
import json
import random
import re
from pathlib import Path

import pytest

from pipeline import params
from pipeline.command import UserError
from pipeline.intake.columns import check_columns, text_of
from pipeline.intake.look import look
from pipeline.intake.records import read
from tests.conftest import ROOT

DEFAULTS = params.load(ROOT / "params.yaml")
LABELS = ["Web", "Sport", "Kultur", "Panorama"]
WORDS = ["so", "im", "Gesetz;", "doch", "heißt,", "komme", "bald", "Regierung,", "Herbst;", "schön", "|", "über"]
SETTING = r'(?:data|validate)\.\w+: (?:"(?:[^"\\]|\\.)*"|[\w-]+)'
QUOTES = {"all": csv.QUOTE_ALL, "minimal": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}


def sentences(count: int, seed: int, without: str = "") -> list[str]:
    source = random.Random(seed)
    found = [f"{' '.join(source.choices(WORDS, k=12))} {number}." for number in range(count)]
    return ["".join(character for character in text if character not in without) for text in found]


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
    found: dict[str, dict[str, str]] = {"data": {}, "validate": {}}
    for group in re.findall(rf"(?:set|also needs) ({SETTING}(?: and {SETTING})*)", str(error)):
        for setting in re.findall(SETTING, group):
            key, value = setting.split(": ", 1)
            section, name = key.split(".")
            found[section].setdefault(name, json.loads(value) if value.startswith('"') else value)
    return found


def texts_of(path: Path, data: params.Data, validate: params.Validate) -> list[str]:
    found = look(path, data, validate)
    check_columns(found, validate)
    text = text_of(found.columns, validate)
    return [text(fields) for chunk in read(found, data) for fields in chunk.fields]


def after_advice(path: Path, **settings: str) -> tuple[list[str], str]:
    """Return the texts, after the settings that the first error names are set, and that error."""
    data, validate = DEFAULTS.data.model_copy(update=settings), DEFAULTS.validate_
    try:
        return texts_of(path, data, validate), ""
    except UserError as error:
        changes, said = advised(error), str(error)
    data, validate = data.model_copy(update=changes["data"]), validate.model_copy(update=changes["validate"])
    try:
        return texts_of(path, data, validate), said
    except UserError as error:
        raise AssertionError(f"{said}\n\nand then: {error}") from None


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
    got, said = after_advice(path, **settings)
    assert got == texts, f"{combination}: {said}\n{path.read_bytes()[:200]!r}\n{got[:2]}"


COMBINATIONS = list(
    itertools.product(HEADERS, STYLES, ["utf-8", "cp1252", "utf-16"], ["none", "blank", "delimiters"], [{}, AUTO])
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_is_read_right_after_one_advice(tmp_path: Path, delimiter: str) -> None:
    for number, combination in enumerate(COMBINATIONS[ord(delimiter) % 7 :: 23]):
        check(tmp_path, delimiter, combination, number)


@pytest.mark.slow
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_table_is_read_right_after_one_advice(tmp_path: Path, delimiter: str) -> None:
    for number, combination in enumerate(COMBINATIONS):
        check(tmp_path, delimiter, combination, number)
