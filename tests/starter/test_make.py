"""The starter can be made again, and what is committed is what its card says."""

import importlib
import random
import re
from pathlib import Path

import pandas as pd
import pytest

from starter import make

GENRES = [*make.GENRES, make.FREE]


@pytest.mark.parametrize("genre", GENRES)
def test_a_genre_writes_clean_text_and_hardly_ever_the_same(genre: str) -> None:
    write = importlib.import_module(f"starter.genres.{genre}").write
    generator = random.Random(1)
    texts = [write(generator) for _ in range(300)]
    for text in texts:
        assert not re.search(r"[{}\[\]|]|  |\ba a\b|\bthe the\b", text), text
        assert text == text.strip()
    assert len(set(texts)) >= 297


@pytest.mark.parametrize("genre", GENRES)
def test_a_genre_writes_the_same_for_the_same_seed(genre: str) -> None:
    write = importlib.import_module(f"starter.genres.{genre}").write
    assert write(random.Random(7)) == write(random.Random(7)) != write(random.Random(8))


def test_the_texts_are_different_and_the_same_again() -> None:
    texts = make.write_texts(200)
    assert len(set(texts)) == 200
    assert make.write_texts(200) == texts


def test_the_starter_was_not_trained_on_the_sample_corpus_genre() -> None:
    texts = " ".join(make.write_texts(2000)).casefold()
    assert "shipmate" not in texts


def test_the_general_english_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    make.write_general(tmp_path / "general.csv")
    assert (tmp_path / "general.csv").read_bytes() == make.GENERAL.read_bytes()


@pytest.mark.slow
def test_none_of_the_general_english_is_among_the_texts_of_the_starter() -> None:
    general = pd.read_csv(make.GENERAL)["text"]
    assert len(set(general)) == 90
    assert not set(general) & set(make.write_texts(make.TEXTS + make.HELD_OUT))


def test_the_tokenizer_writes_any_text_in_any_script() -> None:
    tokenizer = make.learn_tokenizer(make.write_texts(50))
    text = "naïve 漢字 🙂 \t\n\x00 end"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == tokenizer.bos_token == make.END_OF_TEXT
