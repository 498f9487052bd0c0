"""Write data/tales.csv, an old harbour pilot's tall tales, from data/tales.yaml: `python -m data.make_tales`.

A tale is one paragraph: an opening in some setting, a plot of three steps, and a moral on the plot's theme. The seed is
fixed, so the file comes out the same. Some faulty rows are planted, so that the stage `validate` has work to do.
"""

import csv
import random
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.command import arg_parser, echo, run
from starter.english import PRONOUNS
from starter.grammar import Grammar, expand, join, read_grammar

SEED = 1851
FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER / "tales.csv"

GOOD_TALES = 2200
MIN_WORDS, MAX_WORDS = 35, 72  # of a tale; the limit is drawn for each, from SHORT_WORDS up, to mix the lengths
SHORT_WORDS = 46
RUN_WORDS, MAX_REPEATS = 12, 18  # no run of 12 words is in more than 18 tales, so that copying does not pay
OPENING_WEIGHTS = {"fairy": 12, "heart": 20, "work": 10, "pilot": 58}  # percent

# Planted faults. Nothing marks these rows: their ids are ordinary numbers like any other row's.
EXACT_DUPLICATES = 12  # the same text again
NEAR_DUPLICATES = 6  # the same text except for case and whitespace
EMPTY_TEXTS = 5  # no text at all; the last of them is spaces only
OVERLONG_TEXTS = 3  # one yarn that never ends
OVERLONG_CHARACTERS = 2000  # each of those is longer than this


def main() -> None:
    """Write the file and print its number of rows."""
    arg_parser().parse_args()
    rows = make_rows(random.Random(SEED))
    with OUTPUT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        writer.writerow(("id", "text"))
        writer.writerows(enumerate(rows, start=1))
    echo(f"{OUTPUT.name}: {len(rows)} rows")


def make_rows(rng: random.Random) -> list[str]:
    """Return all texts in their final order, the planted faults among them."""
    grammar = read_grammar(FOLDER / "tales.yaml")
    tales = make_tales(rng, grammar, GOOD_TALES)
    copies = rng.sample(tales, EXACT_DUPLICATES + NEAR_DUPLICATES)
    planted = [
        *copies[:EXACT_DUPLICATES],
        *(blur(rng, text) for text in copies[EXACT_DUPLICATES:]),
        *[""] * (EMPTY_TEXTS - 1),
        "   ",
        *(endless_yarn(rng, grammar) for _ in range(OVERLONG_TEXTS)),
    ]
    rows = tales + planted
    rng.shuffle(rows)
    return rows


def make_tales(rng: random.Random, grammar: Grammar, count: int) -> list[str]:
    """Return `count` tales of suitable length, no two alike in any case or spacing.

    A tale that would repeat a run of RUN_WORDS words for more than the MAX_REPEATS-th time is dropped, too.
    """
    tales: list[str] = []
    seen: set[str] = set()
    uses: Counter[tuple[str, ...]] = Counter()
    while len(tales) < count:
        tale = make_tale(rng, grammar)
        words = tale.lower().split()
        runs = {tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)}
        limit = rng.randint(SHORT_WORDS, MAX_WORDS)
        fits = MIN_WORDS <= len(words) <= limit and all(uses[run] < MAX_REPEATS for run in runs)
        if fits and tale.lower() not in seen:
            seen.add(tale.lower())
            uses.update(runs)
            tales.append(tale)
    return tales


def make_tale(rng: random.Random, grammar: Grammar) -> str:
    """Return one tale, of whatever length it comes out."""
    rules = grammar["rules"]
    cast = bind_cast(rng, grammar)
    (kind,) = rng.choices(tuple(OPENING_WEIGHTS), tuple(OPENING_WEIGHTS.values()))
    opening = expand(rng, rules, rng.choice(grammar["openings"][kind]), **cast)
    if cast["name"] not in opening:
        cast["hero"] = f"the {cast['role']}"
    plot = rng.choice(grammar["plots"])
    (theme,) = plot["theme"]
    moral = rng.choice(grammar["morals"])
    sentences = join([*(rng.choice(step) for step in plot["steps"]), moral])
    return f"{opening} {expand(rng, {**rules, 'truth': grammar['truths'][theme]}, sentences, **cast)}"


def bind_cast(rng: random.Random, grammar: Grammar) -> dict[str, str]:
    """Return the symbols that stay the same through one tale: the place, the hero and what belongs to them."""
    rules = grammar["rules"]
    setting: dict[str, Any] = rng.choice(grammar["settings"])
    role, gender = rng.choice(setting["roles"]).split(":")
    if gender == "e":  # either
        gender = rng.choice("mf")
    name = rng.choice(grammar["names"][gender])
    place = rng.choice(setting["places"])
    adjective = rng.choice(rules["adjective"])
    who = rng.choice(
        (
            f"{{adjective.a}} {role}",
            f"{{adjective.a}} {role}",
            f"{{adjective.a}} {role} named {name}",
            f"{name} the {role}",
        )
    )
    cast = {
        "heart": expand(rng, rules, rng.choice(setting["heart"])),
        "at": f"{setting['at'][0]} the {place}",
        "place": place,
        "role": role,
        "name": name,
        "adjective": adjective,
        "thing": rng.choice(setting["things"]),
        "goods": rng.choice(setting["goods"]),
        "crowd": rng.choice([crowd for crowd in setting["crowd"] if crowd != f"{role}s"]),
        **{symbol: rng.choice(rules[symbol]) for symbol in ("beast", "sea_job", "child")},
        **PRONOUNS[gender],
    }
    cast["who"] = expand(rng, rules, who, **cast)
    cast["hero"] = rng.choice((f"the {role}", name))
    return cast


def blur(rng: random.Random, text: str) -> str:
    """Return `text` in another case or with other whitespace, or both."""
    return rng.choice((text.upper(), text.lower(), f"  {text} ", text.replace(" ", "  "), f"{text.lower()}\t"))


def endless_yarn(rng: random.Random, grammar: Grammar) -> str:
    """Return tales chained into one text of more than OVERLONG_CHARACTERS characters."""
    yarn = make_tale(rng, grammar)
    while len(yarn) <= OVERLONG_CHARACTERS:
        yarn += f" But that is not the end of it, shipmate. {make_tale(rng, grammar)}"
    return yarn


if __name__ == "__main__":
    run(main)
