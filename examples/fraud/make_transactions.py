"""Makes a table of card payments of which some are frauds: `python -m examples.fraud.make_transactions`.

Nobody's payments: every value is drawn, with a fixed seed. What makes a payment suspicious is a rule with noise, so no
model can find every fraud, and a model that knows the rule finds most.
"""

import argparse
import csv
import math
import random
from collections.abc import Iterator
from pathlib import Path

COLUMNS = ("amount", "merchant", "country", "hour", "card_age", "earlier", "label")
_MERCHANTS = ("groceries", "fuel", "restaurant", "pharmacy", "clothing", "electronics", "gift cards", "money transfer")
_COUNTRIES = ("home", "neighbour", "abroad")
_BASE = -6.6  # log-odds of an unsuspicious payment


def payments(count: int, seed: int = 42) -> Iterator[dict[str, str]]:
    """Yield `count` payments; about 2 % are labelled fraud."""
    draw = random.Random(seed)
    for _ in range(count):
        amount = round(math.exp(draw.gauss(3.2, 1.1)), 2)
        merchant = draw.choices(_MERCHANTS, (24, 14, 18, 8, 14, 10, 6, 6))[0]
        country = draw.choices(_COUNTRIES, (86, 9, 5))[0]
        hour = draw.choices(range(24), [1] * 6 + [5] * 17 + [2])[0]
        months = int(draw.expovariate(1 / 30))
        earlier = draw.choices(range(6), (60, 20, 10, 5, 3, 2))[0]
        odds = (
            _BASE
            + 2.2 * (merchant in ("gift cards", "money transfer"))
            + 1.2 * (merchant == "electronics")
            + 2.0 * (country == "abroad")
            + 1.8 * (hour < 6)
            + 1.6 * (amount > 80)
            + 1.2 * (months < 3)
            + 0.7 * earlier
        )
        is_fraud = draw.random() < 1 / (1 + math.exp(-odds))
        values = (f"{amount:.2f}", merchant, country, f"{hour:02d}:00", f"{months} months", str(earlier))
        yield dict(zip(COLUMNS, (*values, "fraud" if is_fraud else "ok"), strict=True))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8000, help="payments (%(default)s)")
    parser.add_argument("--to", type=Path, default=Path("data/payments.csv"), help="the file (%(default)s)")
    arguments = parser.parse_args()
    with arguments.to.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(payments(arguments.rows))


if __name__ == "__main__":
    main()
