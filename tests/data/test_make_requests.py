"""The corpus of customers' messages is the same each time, and each summary can be known from its message."""

import random

from data import make_requests


def test_the_same_seed_gives_the_same_rows_and_no_message_twice() -> None:
    rows = make_requests.make_rows(random.Random(make_requests.SEED))
    assert rows == make_requests.make_rows(random.Random(make_requests.SEED))
    assert len({source for source, _ in rows}) == make_requests.ROWS


def test_a_summary_says_what_its_message_says_in_other_words() -> None:
    for source, target in make_requests.make_rows(random.Random(1))[:200]:
        article, colour = target.split(")")[0].split(" (")
        assert f"{colour} {article}" in source
        [fault] = [short for long, short in make_requests.FAULTS[article].items() if long.lower() in source.lower()]
        [wish] = [short for long, short in make_requests.WISHES.items() if source.endswith(long)]
        assert target == f"{article} ({colour}): {fault}; wants {wish}"
        assert target not in source
