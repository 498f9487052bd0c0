"""The starter's texts are clean and reproducible, and its tokenizer writes any text."""

import hashlib
import random
import re
from pathlib import Path

import pandas as pd
import pytest

from starter import make
from starter.texts import FREE, GENRES, HELD_OUT, write_texts
from starter.writers import write

ALL_GENRES = [*GENRES, FREE]
TEXTS_SHA256 = "e4d44bab51c79d887b0aad0fc470338890ab52d2603656acee3ef5ad0e5d7239"


@pytest.mark.parametrize("genre", ALL_GENRES)
def test_texts_of_a_genre_are_clean_and_hardly_ever_repeat(genre: str) -> None:
    rng = random.Random(1)
    texts = [write(genre, rng) for _ in range(300)]
    for text in texts:
        assert not re.search(r"[{}\[\]|]|  |\ba a\b|\bthe the\b", text), text
        assert text == text.strip()
    assert len(set(texts)) >= 297


@pytest.mark.parametrize("genre", ALL_GENRES)
def test_a_seed_determines_the_text_of_a_genre(genre: str) -> None:
    assert write(genre, random.Random(7)) == write(genre, random.Random(7)) != write(genre, random.Random(8))


def test_the_training_texts_are_distinct_and_never_change() -> None:
    texts = write_texts(200)
    assert len(set(texts)) == 200
    assert hashlib.sha256("\0".join(texts).encode()).hexdigest() == TEXTS_SHA256


def test_the_starter_was_not_trained_on_the_genre_of_the_sample_corpus() -> None:
    texts = " ".join(write_texts(2000)).casefold()
    assert "shipmate" not in texts


def test_the_general_english_is_reproduced_byte_for_byte(tmp_path: Path) -> None:
    make.write_general(tmp_path / "general.csv")
    assert (tmp_path / "general.csv").read_bytes() == make.GENERAL.read_bytes()


@pytest.mark.slow
def test_no_text_of_the_general_english_is_a_training_text_of_the_starter() -> None:
    general = pd.read_csv(make.GENERAL)["text"]
    assert len(set(general)) == 90
    assert not set(general) & set(write_texts(make.TEXTS + HELD_OUT))


def test_the_tokenizer_encodes_any_text_in_any_script() -> None:
    tokenizer = make.learn_tokenizer(write_texts(50))
    text = "naïve 漢字 🙂 \t\n\x00 end"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == tokenizer.bos_token == make.END_OF_TEXT
