"""Compares two clean data sets: rows, splits, lengths, words.

Texts are streamed; DuckDB joins their digests and adds up word counts, on disk where need be.
"""

# ruff: noqa: S608 - queries are put together from names in this module alone

import hashlib
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.data_diff.database import scratch_database, single_row
from pipeline.data_diff.examples import collect_examples
from pipeline.data_diff.lengths import length_drift
from pipeline.data_diff.near_copies import SIGNATURE_SIZE, Signatures, near_pairs, signatures_of
from pipeline.data_diff.reader import CleanFile
from pipeline.data_diff.result import Array, DataDiff, DataSet, Rows, Splits
from pipeline.data_diff.words import WordCounts, vocabulary_drift
from pipeline.data_hash import DataHash
from pipeline.intake.splits import normalize_text


def diff(old: Path, new: Path, *, names: tuple[str, str] | None = None, region: str = "none") -> DataDiff:
    """Compare two clean data sets.

    A text that both have, with the same label, is unchanged; then one that only differs in its label, in case, white
    space or Unicode form is edited; then what is left of both is paired by similarity, most similar first, and edited
    from EDIT_THRESHOLD on. The rest is removed or added.

    Args:
        old: A clean Parquet file.
        new: Another one.
        names: What the result calls them; their paths by default.
        region: The region of the rule `phone`, by which the examples are redacted.

    Raises:
        UserError: A file is no clean data set.
    """
    names = names or (str(old), str(new))
    files = [CleanFile(path, name) for path, name in zip((old, new), names, strict=True)]
    with scratch_database() as database:
        database.execute("CREATE TABLE pairs (old INTEGER, new INTEGER, kind VARCHAR)")
        hashes, lengths = zip(
            *(_load(side, file, database) for side, file in zip(("old", "new"), files, strict=True)), strict=True
        )
        _pair(files, database)
        return DataDiff(
            DataSet(names[0], hashes[0]),
            DataSet(names[1], hashes[1]),
            _rows(database),
            _splits(database),
            length_drift(lengths[0], lengths[1]),
            vocabulary_drift(database),
            collect_examples(files, lengths, database, region),
        )


def _load(side: str, file: CleanFile, database: duckdb.DuckDBPyConnection) -> tuple[str, Array]:
    """Put digests and word counts into the database; return the data set's hash and its texts' lengths."""
    database.execute(
        f"CREATE TABLE {side} (position INTEGER, row BIGINT, split VARCHAR, identical BLOB, normalized BLOB)"
    )
    database.execute(
        f"CREATE VIEW {side}_left AS SELECT * FROM {side} ANTI JOIN pairs ON {side}.position = pairs.{side}"
    )
    data_hash, counts = DataHash(), WordCounts(side, database)
    lengths = np.empty(len(file), np.int32)
    for position, columns in file.batches():
        texts, splits = columns["text"], columns["split"]
        further = [list(values.values()) for values in columns["further"]]
        # The task's columns count as much as the text: a row with another label teaches something else.
        whole = [f"{text}\0{values}" if values else text for text, values in zip(texts, further, strict=True)]
        normalized = [normalize_text(text) for text in texts]
        for row in zip(splits, texts, further, strict=True):
            data_hash.add(*row)
        lengths[position : position + len(texts)] = [len(text) for text in texts]
        chunk = pa.table(
            {
                "position": np.arange(position, position + len(texts)),
                "row": columns["row"],
                "split": splits,
                "identical": [_digest(text) for text in whole],
                "normalized": [_digest(text) for text in normalized],
            }
        )
        database.register("chunk", chunk).execute(f"INSERT INTO {side} SELECT * FROM chunk")
        counts.add(normalized)
    counts.flush()
    return data_hash.hexdigest(), lengths


def _digest(text: str) -> bytes:
    """Return 96 bits: the most that DuckDB stores inline; 4 million texts collide with a probability of 1e-16."""
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


def _pair(files: Sequence[CleanFile], database: duckdb.DuckDBPyConnection) -> None:
    """Fill the table `pairs`: the rows of old and new that are one text, one normalised text, or near-copies."""
    for kind in ("identical", "normalized"):
        # A text that occurs twice is paired twice.
        ranked = f"*, row_number() OVER (PARTITION BY {kind} ORDER BY position) AS nth"
        database.execute(
            f"INSERT INTO pairs SELECT old.position, new.position, '{kind}' "
            f"FROM (SELECT {ranked} FROM old_left) AS old "
            f"JOIN (SELECT {ranked} FROM new_left) AS new USING ({kind}, nth)"
        )
    left = [
        database.execute(f"SELECT position FROM {side}_left ORDER BY position").fetchnumpy()["position"]
        for side in ("old", "new")
    ]
    if all(map(len, left)):
        signatures = [_signatures_at(positions, file) for file, positions in zip(files, left, strict=True)]
        old, new = near_pairs(*signatures)
        chunk = pa.table({"old": left[0][old], "new": left[1][new]})
        database.register("chunk", chunk).execute("INSERT INTO pairs SELECT old, new, 'near' FROM chunk")


def _signatures_at(positions: Array, file: CleanFile) -> Signatures:
    """Return the signatures of the texts at ascending `positions`."""
    signatures = np.empty((len(positions), SIGNATURE_SIZE), np.uint8)
    done = 0
    for first, columns in file.batches():
        last = int(np.searchsorted(positions, first + len(columns["text"])))
        if last > done:
            texts = [columns["text"][position - first] for position in positions[done:last]]
            signatures[done:last] = signatures_of([normalize_text(text) for text in texts])
            done = last
    return signatures


def _rows(database: duckdb.DuckDBPyConnection) -> Rows:
    (old,) = single_row(database, "SELECT count(*) FROM old")
    (new,) = single_row(database, "SELECT count(*) FROM new")
    unchanged, pairs = single_row(database, "SELECT count(*) FILTER (kind = 'identical'), count(*) FROM pairs")
    return Rows(old, new, unchanged, edited=pairs - unchanged, removed=old - pairs, added=new - pairs)


def _splits(database: duckdb.DuckDBPyConnection) -> Splits:
    counts: list[dict[str, int]] = []
    for side in ("old", "new"):
        rows = dict(database.execute(f"SELECT split, count(*) FROM {side} GROUP BY split ORDER BY split").fetchall())
        counts.append({split: rows.pop(split, 0) for split in ("train", "validation", "test")} | rows)
    moves = database.execute(
        "SELECT old.split || ' to ' || new.split AS move, count(*) FILTER (kind <> 'near'), "
        "count(*) FILTER (kind = 'near') FROM pairs JOIN old ON pairs.old = old.position "
        "JOIN new ON pairs.new = new.position WHERE old.split <> new.split GROUP BY move ORDER BY move"
    ).fetchall()
    return Splits(
        counts[0],
        counts[1],
        moved=sum(same for _, same, _ in moves),
        moved_by_edit=sum(near for _, _, near in moves),
        moves={move: same for move, same, _ in moves if same},
    )
