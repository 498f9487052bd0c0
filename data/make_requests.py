"""Write data/requests.csv, customers' messages with a line that sums up each: `python -m data.make_requests`.

A corpus for the task `seq2seq`. A message names an article, a fault and a wish, among sentences that do not matter; its
summary says the three in words of its own: "teapot (blue): lid does not close; wants a refund". The seed is fixed, so
the file comes out the same.
"""

import csv
import random
from pathlib import Path

from pipeline.command import arg_parser, echo, run

SEED = 1851
OUTPUT = Path(__file__).resolve().parent / "requests.csv"
ROWS = 1200

COLOURS = ("black", "blue", "green", "grey", "red", "white", "yellow")
FAULTS = {  # article -> how a customer puts its fault, and how a summary does
    "teapot": {"the lid will not close": "lid does not close", "it drips all over the table": "leaks"},
    "lamp": {"it goes out after a minute": "goes out", "the switch has come off": "switch broken"},
    "coat": {"one of the buttons is gone": "button missing", "it is far too small for me": "too small"},
    "chair": {"it wobbles whenever I sit down": "wobbles", "a leg has broken": "leg broken"},
    "clock": {"it is an hour late by noon": "runs slow", "the hands do not move": "does not run"},
    "suitcase": {"the zip is stuck": "zip stuck", "a wheel fell off at the station": "wheel lost"},
    "radio": {"there is nothing but noise": "no reception", "the switch has come off": "switch broken"},
    "kettle": {"it takes half an hour to boil": "heats slowly", "it drips all over the table": "leaks"},
    "blanket": {"there is a hole in the middle": "hole", "it lost its colour in the first wash": "colour fades"},
    "umbrella": {"it turns inside out in any wind": "unstable", "it will not open": "does not open"},
}
WISHES = {
    "Please send me a new one.": "a replacement",
    "Could you send another one instead?": "a replacement",
    "I would like my money back.": "a refund",
    "Please return what I paid.": "a refund",
    "Can you repair it?": "a repair",
    "I hope that you can mend it.": "a repair",
    "Please tell me what I should do.": "advice",
    "What do you suggest?": "advice",
}
GREETINGS = ("Hello,", "Good morning,", "Dear all,", "Hi,", "Good evening,")
BOUGHT = ("I bought a {} from you", "you sent me a {}", "my sister gave me a {} of yours", "I ordered a {}")
WHEN = ("last week", "in May", "two months ago", "on Monday", "for the holidays", "yesterday")
ASIDES = (
    "The parcel came in time.",
    "The weather here has been awful.",
    "I have been a customer for years.",
    "My neighbour was with me when I opened it.",
    "The box looked fine from outside.",
    "It was meant as a present.",
    "I still have the bill.",
    "We have two small children.",
)


def main() -> None:
    """Write the file and print its number of rows."""
    arg_parser().parse_args()
    rows = make_rows(random.Random(SEED))
    with OUTPUT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        writer.writerow(("source", "target"))
        writer.writerows(rows)
    echo(f"{OUTPUT.name}: {len(rows)} rows")


def make_rows(rng: random.Random) -> list[tuple[str, str]]:
    """Return different messages with their summaries."""
    rows: dict[str, str] = {}
    while len(rows) < ROWS:
        source, target = make_row(rng)
        rows.setdefault(source, target)
    return list(rows.items())


def make_row(rng: random.Random) -> tuple[str, str]:
    """Return a message and its summary."""
    article, colour = rng.choice(sorted(FAULTS)), rng.choice(COLOURS)
    fault, wish = rng.choice(sorted(FAULTS[article])), rng.choice(sorted(WISHES))
    first = f"{rng.choice(GREETINGS)} {rng.choice(BOUGHT).format(f'{colour} {article}')} {rng.choice(WHEN)}."
    problem = f"{fault[0].upper()}{fault[1:]}."
    asides = rng.sample(ASIDES, rng.randint(1, 3))
    middle = [problem, *asides]
    rng.shuffle(middle)
    summary = f"{article} ({colour}): {FAULTS[article][fault]}; wants {WISHES[wish]}"
    return " ".join([first, *middle, wish]), summary


if __name__ == "__main__":
    run(main)
