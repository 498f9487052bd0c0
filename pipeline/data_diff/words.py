"""Vocabulary drift: word counts of two data sets and the distance between them.

Counts go through a DuckDB table, so that memory stays bounded.
"""

# ruff: noqa: S608 - queries are put together from names in this module alone

import math
import re
from collections import Counter

import duckdb
import pyarrow as pa
import regex

from pipeline.data_diff.database import single_row
from pipeline.data_diff.result import Vocabulary, Word, rounded

_MAX_COUNTER_SIZE = 300_000  # distinct words counted in memory before they go to the database
_LISTED = 15  # words in each of the lists

# Unicode's default word boundaries (UAX #29), and the same rules spelled out for ASCII, which is three times as fast.
_WORD = regex.compile(r"(?w)\w(?:\B.)*")
_ASCII_WORD = re.compile(
    r"\w+(?:(?:(?<=[a-zA-Z])[.':](?=[a-zA-Z])|(?<=[0-9])[.,;'](?=[0-9]))\w+)*",
    re.ASCII,
)
_OF_LETTERS = r"[\p{L}\p{M}'\x{2019}]{1,30}"  # the words that are listed: numbers and keys may be someone's own


def words(normalized: str) -> list[str]:
    """Return the words of a normalised text by Unicode's default boundaries; not those of addresses (with an @)."""
    if "@" in normalized:
        normalized = " ".join(piece for piece in re.split(r"([ \n])", normalized) if "@" not in piece)
    return list((_ASCII_WORD if normalized.isascii() else _WORD).findall(normalized))


class WordCounts:
    """Counts the words of one side, "old" or "new", into the database."""

    def __init__(self, side: str, database: duckdb.DuckDBPyConnection) -> None:
        """Start empty; the table is made where it is missing."""
        self._side = side
        self._database = database
        self._counter = Counter[str]()
        database.execute("CREATE TABLE IF NOT EXISTS counts (side VARCHAR, word VARCHAR, n BIGINT)")

    def add(self, normalized: list[str]) -> None:
        """Count the words of these normalised texts."""
        for is_ascii in (True, False):  # apart, because `words` is faster on ASCII
            self._counter.update(words("\n".join(text for text in normalized if text.isascii() == is_ascii)))
        if len(self._counter) > _MAX_COUNTER_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory to the database."""
        chunk = pa.table({"word": list(self._counter.keys()), "n": list(self._counter.values())})
        self._database.register("chunk", chunk).execute("INSERT INTO counts SELECT ?, word, n FROM chunk", [self._side])
        self._counter.clear()


def vocabulary_drift(database: duckdb.DuckDBPyConnection) -> Vocabulary:
    """Compare the words that `WordCounts` counted for both sides."""
    database.execute(
        "CREATE TABLE words AS SELECT word, coalesce(sum(n) FILTER (side = 'old'), 0)::BIGINT AS old, "
        "coalesce(sum(n) FILTER (side = 'new'), 0)::BIGINT AS new FROM counts GROUP BY word"
    )
    total_old, total_new, distinct_old, distinct_new, added, gone, unseen = single_row(
        database,
        "SELECT sum(old), sum(new), count(*) FILTER (old > 0), count(*) FILTER (new > 0), "
        "count(*) FILTER (old = 0), count(*) FILTER (new = 0), sum(new) FILTER (old = 0) FROM words",
    )
    is_comparable = bool(total_old and total_new)
    p, q = f"(old / {total_old})", f"(new / {total_new})"
    part = " + ".join(f"CASE WHEN {x} > 0 THEN {x} * log2(2 * {x} / ({p} + {q})) ELSE 0 END" for x in (p, q))
    return Vocabulary(
        total_old,
        total_new,
        distinct_old,
        distinct_new,
        added,
        gone,
        unseen_share=rounded(unseen / total_new) if total_new else None,
        distance=_jensen_shannon_distance(total_old, total_new, database) if is_comparable else None,
        added=_top("old = 0", "new", database),
        gone=_top("new = 0", "old", database),
        rose=_top(f"{q} > {p}", part, database) if is_comparable else (),
        fell=_top(f"{q} < {p}", part, database) if is_comparable else (),
    )


def _top(where: str, order: str, database: duckdb.DuckDBPyConnection) -> tuple[Word, ...]:
    """Return the first words of letters by `order`, descending."""
    rows = database.execute(
        f"SELECT word, old, new FROM words WHERE {where} AND regexp_full_match(word, ?) "
        f"ORDER BY {order} DESC, word LIMIT {_LISTED}",
        [_OF_LETTERS],
    ).fetchall()
    return tuple(Word(*row) for row in rows)


def _jensen_shannon_distance(total_old: int, total_new: int, database: duckdb.DuckDBPyConnection) -> float:
    """Return the distance of the two word frequencies.

    Summed exactly, in Python: DuckDB's threads add floats in an order that differs from run to run.
    """
    frequencies = database.execute(
        "SELECT old, new, count(*) FROM words GROUP BY old, new ORDER BY old, new"
    ).fetchall()
    divergence = math.fsum(n * _divergence_part(old / total_old, new / total_new) for old, new, n in frequencies)
    return rounded(math.sqrt(max(0.0, divergence)))


def _divergence_part(p: float, q: float) -> float:
    """Return what a word of probabilities `p` and `q` adds to the Jensen-Shannon divergence, in bits."""
    return sum(x * math.log2(2 * x / (p + q)) / 2 for x in (p, q) if x > 0)
