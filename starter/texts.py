"""The texts that the starters are pre-trained on, written from `starter/genres/`, and those that score them."""

import random
from pathlib import Path

from starter.writers import write

FOLDER = Path(__file__).parent
GENRES = ("dialogue", "diary", "explain", "guides", "letters", "news", "places", "service", "stories")
# Two texts in five are free sentences. The sentences of the genres above recur: without the sketches, the model
# memorised them and learned little else. With one in two, it predicted other texts better, but wrote worse English.
FREE = "sketches"

SEED = 42
HELD_OUT = 400  # further texts, for the figures on a model's card


def write_texts(count: int) -> list[str]:
    """Return `count` different texts, shuffled: three in five of `GENRES` in equal parts, two in five free."""
    genres = [*GENRES, *[FREE] * (len(GENRES) * 2 // 3)]
    rng = random.Random(SEED)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[write(genres[len(texts) % len(genres)], rng)] = None
    shuffled = list(texts)
    rng.shuffle(shuffled)
    return shuffled


def foreign_texts() -> dict[str, list[str]]:
    """Return texts of other sources to score, where present: speeches of plays, and questions of bank customers."""
    import pandas as pd

    data = FOLDER.parent.parent / "shared" / "data"
    texts: dict[str, list[str]] = {}
    plays = data / "tinyshakespeare" / "input.txt"
    if plays.is_file():
        texts["tinyshakespeare, its last 10 %"] = plays.read_text(encoding="utf-8")[-111_540:].strip().split("\n\n")
    bank = data / "banking77-customer-support" / "test.csv"
    if bank.is_file():
        texts["banking77, its test file"] = pd.read_csv(bank)["text"].tolist()
    return texts
