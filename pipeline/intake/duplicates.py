"""Finds the rows that repeat an earlier one, exactly or nearly, in memory that does not grow with the texts.

Near-duplicates are texts whose sets of shingles (see `minhash`) have a Jaccard similarity at or above a threshold.
Pairs come from shared bands of their MinHash signatures and are then checked on their shingles, so none below the
threshold is reported. If hundreds of rows that stay share a band, a further row is compared with the latest KEPT of
each band, and checked against the CHECKED likeliest of these: time stays in proportion to the rows.

How the rows are cut into chunks, and in how many processes they are fingerprinted, does not change the result.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import param_rules
from pipeline.intake.minhash import SIGNATURE, Fingerprints, banding, hash_shingles, unique_sorted
from pipeline.intake.splits import text_digest

KEPT = 128  # rows of a bucket that a further row is compared with
CHECKED = 5  # pairs of a row that are checked on the shingles, the likeliest first
CLOSEST = 5  # pairs below the threshold that are kept to show where it cuts
SAMPLE = 20_000  # shingles of a text that are compared; of more, so many by hash (+-0.003)
ROWS = 2**15  # rows whose buckets are read at once

_BLANK = np.frombuffer(text_digest("")[:16], dtype=">u8").astype(np.uint64)
Progress = Callable[[int, int], None]  # rows compared, rows in all
Shingles = NDArray[np.uint64]  # hashes, sorted; at most SAMPLE


@dataclass(frozen=True)
class DuplicateMatches:
    """The earlier row that each of n rows repeats."""

    duplicate_of: NDArray[np.int64]
    """(n,): the row that holds the same text and stays; 0 for none."""
    near_duplicate_of: NDArray[np.int64]
    """(n,): the row that holds nearly the same text and stays; 0 for none."""
    similarity: NDArray[np.float64]
    """(n,): to the row in `near_duplicate_of`; 0 for none."""


class Duplicates:
    """The duplicates among rows that come in chunks: `add` every chunk, `find`, then ask for `matches`.

    Memory holds about 60 bytes a row, and up to 16 bytes a band for the rows that share a band with another. About 200
    bytes a row and the texts themselves are in files in `scratch`, which the caller deletes.
    """

    def __init__(self, scratch: Path, rules: param_rules.Rules) -> None:
        """Start without rows; `scratch` is an empty folder."""
        self._scratch = scratch
        self._rules = rules
        self._rows: list[NDArray[np.int64]] = []
        self._refused: list[NDArray[np.bool_]] = []
        self._digests: list[NDArray[np.uint64]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._numbers = np.zeros(0, np.int64)
        self._matches = DuplicateMatches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        self.crowded = 0
        """Rows that were compared with only the latest KEPT of those that share a band with them."""
        self.closest: list[tuple[float, int, int]] = []
        """The most similar compared pairs that both stay: similarity, row, earlier row; the most similar first."""

    def add(self, rows: NDArray[np.int64], fingerprints: Fingerprints, refused: NDArray[np.bool_]) -> None:
        """Add the next rows.

        Args:
            rows: Their numbers, which increase over all chunks.
            fingerprints: Their texts' fingerprints.
            refused: Which of them a rule for single rows refuses.
        """
        self._rows.append(np.asarray(rows, dtype=np.int64))
        self._refused.append(np.asarray(refused, dtype=np.bool_))
        self._digests.append(fingerprints.digests)
        if self._rules.near_duplicate.severity == "ignore":
            return
        self._lengths.append(fingerprints.lengths)
        self._append("texts", fingerprints.texts)
        self._append("signatures", fingerprints.signatures.tobytes())
        for band, keys in enumerate(fingerprints.bands.T):
            self._append(f"keys-{band}", keys.tobytes())

    def find(self, progress: Progress | None = None) -> None:
        """Find the duplicates among all rows; `progress` is called with the rows compared so far and their total.

        Of equal texts the first that no row rule refuses is the original (the first, if all are refused), and every
        other is a duplicate; blank texts are never duplicates. Rows that are neither refused nor duplicates are then
        taken in order: one that is near a row that stayed is its near-duplicate, any other stays. Copies that stay
        because the rule `duplicate` is not critical share the match of their original.
        """
        self._numbers = np.concatenate([np.zeros(0, np.int64), *self._rows])
        refused = np.concatenate([np.zeros(0, np.bool_), *self._refused])
        digests = np.concatenate([np.zeros((0, 2), np.uint64), *self._digests])
        self._rows, self._refused, self._digests = [], [], []
        count = len(self._numbers)
        blank = (digests == _BLANK).all(axis=1)
        original = _originals(digests, refused)
        original[blank] = np.flatnonzero(blank)
        del digests
        copies = np.flatnonzero(original != np.arange(count))
        originals = original[copies]
        del original
        matches = DuplicateMatches(np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count))
        matches.duplicate_of[copies] = self._numbers[originals]
        unique = np.flatnonzero(~(blank | refused | (matches.duplicate_of > 0)))
        if self._rules.near_duplicate.severity != "ignore" and len(unique):
            self._find_near(unique, matches, progress)
            if self._rules.duplicate.severity != "critical":
                for values in (matches.near_duplicate_of, matches.similarity):
                    values[copies] = values[originals]
        self._matches = matches

    def matches(self, rows: NDArray[np.int64]) -> DuplicateMatches:
        """Return what was found for `rows`, in increasing order; raises ValueError for a row that was not added."""
        at = np.searchsorted(self._numbers, rows)
        if len(at) and (at[-1] == len(self._numbers) or (self._numbers[at] != rows).any()):
            raise ValueError("asked for rows that were not added")
        found = self._matches
        return DuplicateMatches(found.duplicate_of[at], found.near_duplicate_of[at], found.similarity[at])

    @property
    def duplicate_of(self) -> NDArray[np.int64]:
        """For each row in order, the row that holds the same text and stays; 0 for none."""
        return self._matches.duplicate_of

    def _append(self, name: str, content: bytes) -> None:
        with (self._scratch / name).open("ab") as file:
            file.write(content)

    def _find_near(self, unique: NDArray[np.int64], matches: DuplicateMatches, progress: Progress | None) -> None:
        """Fill in the near-duplicates among the rows at the positions `unique`."""
        signatures = np.asarray(np.memmap(self._scratch / "signatures", np.uint8, "r")).reshape(-1, SIGNATURE)
        starts = self._number_buckets(unique)
        members = np.zeros(starts[-1], np.uint32)  # the rows that stayed, by bucket; a full one overwrites its oldest
        stayed = np.zeros(len(starts), np.uint32)  # how many rows of each bucket stayed
        with (self._scratch / "texts").open("rb") as texts:
            shingles_of = self._shingle_reader(texts.fileno())
            for position, buckets in self._shared_buckets(unique, progress):
                first, count = starts[buckets - 1], stayed[buckets]
                room = starts[buckets] - first
                self.crowded += bool((count > room).any())
                ends = first + np.minimum(count, room)
                slots = [slice(*slot) for slot in zip(first.tolist(), ends.tolist(), strict=True) if slot[1] > slot[0]]
                if slots:
                    candidates = unique_sorted(np.concatenate([members[slot] for slot in slots]))
                    match = self._near_match(position, candidates, signatures, shingles_of)
                    if match:
                        matches.near_duplicate_of[position], matches.similarity[position] = match
                        continue
                members[first + count % room] = position
                stayed[buckets] = count + 1

    def _near_match(
        self,
        position: int,
        candidates: NDArray[np.uint32],
        signatures: NDArray[np.uint8],
        shingles_of: Callable[[int], Shingles],
    ) -> tuple[int, float] | None:
        """Return the candidate that a row nearly repeats, and how similar it is, or None.

        Args:
            position: The row's position.
            candidates: The positions of the rows that share a bucket with it.
            signatures: (rows, SIGNATURE): the signatures of all rows.
            shingles_of: Returns the shingles of the row at a position.
        """
        threshold = self._rules.near_duplicate.similarity
        # 3 standard errors below the threshold: of pairs at the threshold, this loses 1 in 740.
        worth_checking = threshold - 3 * math.sqrt(threshold * (1 - threshold) / SIGNATURE)
        agreement = (signatures[candidates] == signatures[position]).mean(axis=1)
        likely = np.flatnonzero(agreement >= worth_checking)
        likely = likely[np.argsort(-agreement[likely], kind="stable")][:CHECKED]
        below = []
        for index in likely.tolist():
            row, other = shingles_of(position), shingles_of(int(candidates[index]))
            similarity = _jaccard(row, other) if len(row) and len(other) else agreement[index]
            number = int(self._numbers[candidates[index]])
            if similarity >= threshold:
                return number, similarity
            below.append((float(similarity), int(self._numbers[position]), number))
        if below:
            self.closest = sorted([*self.closest, *below], key=lambda pair: (-pair[0], *pair[1:]))[:CLOSEST]
        return None

    def _number_buckets(self, unique: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Number the buckets (the keys of a band that several rows have) from 1 and write each row's into `scratch`.

        Returns where the slots of each bucket begin; those of bucket n are from [n - 1] to [n].
        """
        sizes, known = [np.zeros(1, np.uint32)], 0
        for band in range(banding(self._rules.near_duplicate.similarity)[0]):
            keys = np.fromfile(self._scratch / f"keys-{band}", np.uint32)[unique]
            _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
            shared = counts > 1
            numbers = np.where(shared, known + np.cumsum(shared), 0).astype(np.uint32)
            numbers[inverse].tofile(self._scratch / f"buckets-{band}")
            sizes.append(np.minimum(counts[shared], KEPT).astype(np.uint32))
            known += len(sizes[-1])
        return np.cumsum(np.concatenate(sizes), dtype=np.uint32)

    def _shared_buckets(
        self, unique: NDArray[np.int64], progress: Progress | None
    ) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        """Yield, in row order, the position of each row that is in a bucket, and its buckets."""
        bands = banding(self._rules.near_duplicate.similarity)[0]
        for first in range(0, len(unique), ROWS):
            buckets = np.stack(
                [
                    np.fromfile(self._scratch / f"buckets-{band}", np.uint32, count=ROWS, offset=first * 4)
                    for band in range(bands)
                ],
                axis=1,
            )
            for index in np.flatnonzero(buckets.any(axis=1)).tolist():
                row = buckets[index]
                yield int(unique[first + index]), row[row > 0]
            if progress:
                progress(first + len(buckets), len(unique))

    def _shingle_reader(self, texts: int) -> Callable[[int], Shingles]:
        """Return a function from a row's position to its shingles, which are empty if the text is not kept.

        `texts` is the descriptor of the file of texts.
        """
        ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *self._lengths]))

        @lru_cache(maxsize=512)
        def shingles_of(position: int) -> Shingles:
            begin, end = int(ends[position]), int(ends[position + 1])
            if begin == end:
                return np.zeros(0, np.uint64)
            text = os.pread(texts, end - begin, begin).decode(errors="surrogatepass")
            return unique_sorted(hash_shingles([text])[0])[:SAMPLE]

        return shingles_of


def _originals(digests: NDArray[np.uint64], refused: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each row the position of the first with its digest that is not refused, or of the first."""
    order = np.lexsort((refused, digests[:, 1], digests[:, 0]))  # stable: equal rows stay in their order
    ordered = digests[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    original = np.empty(len(order), np.int64)
    original[order] = order[np.flatnonzero(first)][np.cumsum(first) - 1]
    return original


def _jaccard(first: Shingles, second: Shingles) -> float:
    """Return the Jaccard similarity of two sets of shingles.

    Exact for sets of fewer than SAMPLE; for larger ones that of the lowest SAMPLE hashes of their union (Broder's
    bottom sketch).
    """
    union = np.sort(np.concatenate([first, second]))
    repeated = union[1:] == union[:-1]
    common = int(np.count_nonzero(repeated))
    distinct = len(union) - common
    if distinct > SAMPLE and SAMPLE in (len(first), len(second)):
        lowest = np.flatnonzero(np.concatenate(([True], ~repeated)))[:SAMPLE]
        common, distinct = int(np.count_nonzero(repeated[lowest])), SAMPLE
    return common / distinct
