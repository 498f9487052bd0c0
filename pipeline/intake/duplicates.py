"""Which rows repeat an earlier one, exactly or nearly, in memory that does not grow with the texts.

Near-duplicates are texts whose sets of 5-character pieces (of the normalised text; a shorter text is one piece) have a
Jaccard similarity at or above a threshold. Pairs to look at come from MinHash signatures cut into bands (Broder 1997;
Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3): with b bands of r permutations, a pair of
similarity s shares a band with probability 1 - (1 - s^r)^b. `banding` chooses b and r so that this is at least 0.99 at
the threshold (0.8: 16 bands of 6, hence 0.9923; at 0.9 it is 0.99999). Such a pair is then checked on its pieces, so
none below the threshold is reported. Where hundreds of rows of one band stay, a further row is compared with the latest
KEPT of each band only, and checked against the CHECKED likeliest of these: time stays in proportion to the rows.

How the rows are cut into chunks, and in how many processes they are fingerprinted, changes nothing.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import rensa
from numpy.typing import NDArray

from pipeline import params
from pipeline.intake.splits import normalize_text, text_digest

PIECE = 5  # characters
RECALL = 0.99  # at the threshold, at least
PERMUTATIONS = 128  # at most
SEED = 42
SIGNATURE = 64  # permutations of which a byte is kept, to tell hopeless pairs without reading their texts
KEPT = 128  # rows of a bucket that a further one is compared with
CHECKED = 5  # pairs of a row that are checked on the pieces, the likeliest first
CLOSEST = 5  # pairs below the threshold that are kept to show where it cuts
LONGEST = 1_000_000  # characters; longer texts are not kept, their similarity is what the signatures say (+-0.05)
SAMPLE = 20_000  # pieces of a text that are compared; of more, so many by hash (+-0.003)
BLOCK = 2**16  # characters hashed at once: what a core's own cache holds
ROWS = 2**15  # rows whose buckets are read at once
Number = TypeVar("Number", np.uint32, np.uint64)

_BLANK = np.frombuffer(text_digest("")[:16], dtype=">u8").astype(np.uint64)


@dataclass(frozen=True)
class Fingerprints:
    """What is kept of n texts to tell which repeat which; without near-duplicates only `digests` holds anything."""

    digests: NDArray[np.uint64]
    """(n, 2): the first 16 bytes of the SHA-256 of the normalised text; `assign_splits` reads the first column."""
    bands: NDArray[np.uint32]
    """(n, bands): a hash of the permutations of each band."""
    signatures: NDArray[np.uint8]
    """(n, SIGNATURE): the low byte of each permutation."""
    lengths: NDArray[np.int64]
    """(n,): bytes of each normalised text in `texts`; 0 for one longer than LONGEST."""
    texts: bytes
    """The normalised texts in UTF-8, one after another."""


@dataclass(frozen=True)
class Findings:
    """For each of n rows, which earlier row it repeats."""

    duplicate_of: NDArray[np.int64]
    """(n,): the row that holds the same text and stays; 0 for none."""
    near_duplicate_of: NDArray[np.int64]
    """(n,): the row that holds nearly the same text and stays; 0 for none."""
    similarity: NDArray[np.float64]
    """(n,): to the row in `near_duplicate_of`; 0 for none."""


def banding(similarity: float) -> tuple[int, int]:
    """Return how many bands of how many permutations find a pair of `similarity` with a probability of RECALL.

    Of the possible ones the longest bands, since the fewest pairs that are less similar share one.
    """
    for length in range(16, 1, -1):
        missed = 1 - similarity**length
        bands = math.ceil(math.log(1 - RECALL) / math.log(missed)) if missed else 1
        if bands * length <= PERMUTATIONS:
            return bands, length
    raise ValueError(f"no {PERMUTATIONS} permutations find pairs of similarity {similarity}")


def fingerprint(texts: Sequence[str], wanted: params.Validate) -> Fingerprints:
    """Return the fingerprints of `texts`; the costly part only where near-duplicates are looked for."""
    normalized = [normalize_text(text) for text in texts]
    digests = np.frombuffer(b"".join(text_digest(text)[:16] for text in normalized), dtype=">u8").astype(np.uint64)
    digests = digests.reshape(-1, 2)
    rule = wanted.rules.near_duplicate
    if rule.severity == "ignore":
        count = len(texts)
        nothing = (np.zeros((count, 0), np.uint32), np.zeros((count, 0), np.uint8), np.zeros(count, np.int64), b"")
        return Fingerprints(digests, *nothing)
    bands, length = banding(rule.similarity)
    signature = minhash_signatures(normalized, max(bands * length, SIGNATURE))
    keys = np.zeros((len(texts), bands), np.uint64)
    for column in range(length):
        keys = _mixed(keys + signature[:, column : bands * length : length])
    encoded = [text.encode(errors="surrogatepass") if len(text) <= LONGEST else b"" for text in normalized]
    return Fingerprints(
        digests,
        keys.astype(np.uint32),
        signature[:, :SIGNATURE].astype(np.uint8),
        np.array([len(text) for text in encoded], dtype=np.int64),
        b"".join(encoded),
    )


class Duplicates:
    """The duplicates among rows that come chunk by chunk.

    `add` every chunk, `find`, then ask `of` any rows. In memory are about 60 bytes a row and, for the rows that share a
    band with another, up to 16 bytes a band; about 200 bytes a row and the texts themselves are in files in `scratch`,
    which the caller deletes.
    """

    def __init__(self, scratch: Path, rules: params.Rules) -> None:
        """Start with no row; `scratch` is an empty folder."""
        self._scratch = scratch
        self._rules = rules
        self._rows: list[NDArray[np.int64]] = []
        self._refused: list[NDArray[np.bool_]] = []
        self._digests: list[NDArray[np.uint64]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._numbers = np.zeros(0, np.int64)
        self._found = Findings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        self.crowded = 0
        """Rows that were compared with only the latest KEPT of those that share a band with them."""
        self.closest: list[tuple[float, int, int]] = []
        """The most similar pairs compared that stayed: similarity, row, earlier row; the most similar first."""

    def add(self, rows: NDArray[np.int64], fingerprints: Fingerprints, refused: NDArray[np.bool_]) -> None:
        """Take in the next rows: their numbers, rising over all chunks, and which of them a row rule refuses."""
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

    def find(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Find the duplicates among all rows; `progress` is told how many rows of how many are compared.

        Of equal texts the first that no row rule refuses is the original (the first, where all are refused), every
        other a duplicate; blank texts are none. Rows that are neither refused nor duplicates are then gone through in
        their order: one that is near a row that stayed is a near-duplicate of it, any other stays. Copies that stay
        because the rule `duplicate` is not critical share the finding of their original.
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
        duplicate_of, near_duplicate_of, similarity = (
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
            np.zeros(count),
        )
        duplicate_of[copies] = self._numbers[originals]
        alone = np.flatnonzero(~(blank | refused | (duplicate_of > 0)))
        if self._rules.near_duplicate.severity != "ignore" and len(alone):
            self._find_near(alone, near_duplicate_of, similarity, progress)
            if self._rules.duplicate.severity != "critical":
                near_duplicate_of[copies], similarity[copies] = near_duplicate_of[originals], similarity[originals]
        self._found = Findings(duplicate_of, near_duplicate_of, similarity)

    def of(self, rows: NDArray[np.int64]) -> Findings:
        """Return what was found for `rows`, rising, all of which were added."""
        at = np.searchsorted(self._numbers, rows)
        if len(at) and (at[-1] == len(self._numbers) or (self._numbers[at] != rows).any()):
            raise ValueError("asked for rows that were not added")
        found = self._found
        return Findings(found.duplicate_of[at], found.near_duplicate_of[at], found.similarity[at])

    def _append(self, name: str, content: bytes) -> None:
        with (self._scratch / name).open("ab") as file:
            file.write(content)

    def _find_near(
        self,
        alone: NDArray[np.int64],
        near_duplicate_of: NDArray[np.int64],
        similarity: NDArray[np.float64],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Fill in, for the rows at the positions `alone`, the row that each is near, and how near."""
        threshold = self._rules.near_duplicate.similarity
        # 3 standard errors below the threshold: at it, 1 pair in 740 is lost here.
        hopeful = threshold - 3 * math.sqrt(threshold * (1 - threshold) / SIGNATURE)
        signatures = np.asarray(np.memmap(self._scratch / "signatures", np.uint8, "r")).reshape(-1, SIGNATURE)
        starts = self._number_buckets(alone)
        kept = np.zeros(starts[-1], np.uint32)  # the rows that stayed, by bucket; a full bucket forgets its oldest
        seen = np.zeros(len(starts), np.uint32)  # how many stayed
        with (self._scratch / "texts").open("rb") as texts:
            pieces = self._reader(texts.fileno())
            for position, buckets in self._shared_buckets(alone, progress):
                start, stayed = starts[buckets - 1], seen[buckets]
                closest = []
                room = starts[buckets] - start
                self.crowded += bool((stayed > room).any())
                rivals = [
                    kept[first:last]
                    for first, last in zip(start.tolist(), (start + np.minimum(stayed, room)).tolist(), strict=True)
                    if last > first
                ]
                if rivals:
                    candidates = _as_set(np.concatenate(rivals))
                    agreement = (signatures[candidates] == signatures[position]).mean(axis=1)
                    likely = np.flatnonzero(agreement >= hopeful)
                    likely = likely[np.argsort(-agreement[likely], kind="stable")][:CHECKED]
                    for index in likely.tolist():
                        ours, theirs = pieces(position), pieces(int(candidates[index]))
                        checked = _jaccard(ours, theirs) if len(ours) and len(theirs) else agreement[index]
                        if checked < threshold:
                            pair = (float(checked), int(self._numbers[position]), int(self._numbers[candidates[index]]))
                            closest.append(pair)
                        else:
                            near_duplicate_of[position] = self._numbers[candidates[index]]
                            similarity[position] = checked
                            break
                if similarity[position]:
                    continue
                if closest:
                    self.closest = sorted([*self.closest, *closest], key=lambda pair: (-pair[0], *pair[1:]))[:CLOSEST]
                kept[start + stayed % room] = position
                seen[buckets] = stayed + 1

    def _number_buckets(self, alone: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Number, from 1, the buckets (the keys of a band that several rows have) and write each row's into `scratch`.

        Returns where the places of each bucket begin; those of bucket n are from [n - 1] to [n].
        """
        sizes, known = [np.zeros(1, np.uint32)], 0
        for band in range(banding(self._rules.near_duplicate.similarity)[0]):
            keys = np.fromfile(self._scratch / f"keys-{band}", np.uint32)[alone]
            _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
            shared = counts > 1
            numbers = np.where(shared, known + np.cumsum(shared), 0).astype(np.uint32)
            numbers[inverse].tofile(self._scratch / f"buckets-{band}")
            sizes.append(np.minimum(counts[shared], KEPT).astype(np.uint32))
            known += len(sizes[-1])
        return np.cumsum(np.concatenate(sizes), dtype=np.uint32)

    def _shared_buckets(
        self, alone: NDArray[np.int64], progress: Callable[[int, int], None] | None
    ) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        """Yield, in row order, the position of each row that is in a bucket, and its buckets."""
        bands = banding(self._rules.near_duplicate.similarity)[0]
        for first in range(0, len(alone), ROWS):
            buckets = np.stack(
                [
                    np.fromfile(self._scratch / f"buckets-{band}", np.uint32, count=ROWS, offset=first * 4)
                    for band in range(bands)
                ],
                axis=1,
            )
            for index in np.flatnonzero(buckets.any(axis=1)).tolist():
                row = buckets[index]
                yield int(alone[first + index]), row[row > 0]
            if progress:
                progress(first + len(buckets), len(alone))

    def _reader(self, texts: int) -> Callable[[int], NDArray[np.uint64]]:
        """Return a function from a row's position to its set of pieces, sorted; empty where the text is not kept."""
        ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *self._lengths]))

        @lru_cache(maxsize=512)
        def pieces(position: int) -> NDArray[np.uint64]:
            begin, end = int(ends[position]), int(ends[position + 1])
            if begin == end:
                return np.zeros(0, np.uint64)
            text = os.pread(texts, end - begin, begin).decode(errors="surrogatepass")
            return _as_set(_pieces([text])[0])[:SAMPLE]

        return pieces


def _originals(digests: NDArray[np.uint64], refused: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each row the position of the first with its digest that is not refused, else of the first."""
    order = np.lexsort((refused, digests[:, 1], digests[:, 0]))  # stable: rows stay in their order
    ordered = digests[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    original = np.empty(len(order), np.int64)
    original[order] = order[np.flatnonzero(first)][np.cumsum(first) - 1]
    return original


def minhash_signatures(normalized: Sequence[str], permutations: int) -> NDArray[np.uint32]:
    """Return the MinHash signatures (n, permutations) of texts, in bounded memory also for one huge text."""
    digests: list[NDArray[np.uint32]] = []
    batch: list[str] = []
    firsts: list[int] = []
    count, room = 0, BLOCK
    for text in normalized:
        firsts.append(count)
        # Parts of a long text overlap so that no piece is lost; their minimum is that of the whole.
        for start in range(0, max(len(text) - PIECE + 1, 1), BLOCK - PIECE + 1):
            part = text if len(text) <= BLOCK else text[start : start + BLOCK]
            if len(part) > room and batch:
                digests.append(_minhash(batch, permutations))
                batch, room = [], BLOCK
            batch.append(part)
            room -= len(part)
            count += 1
    if batch:
        digests.append(_minhash(batch, permutations))
    signatures = np.concatenate([np.zeros((0, permutations), np.uint32), *digests])
    return signatures if count == len(normalized) else np.minimum.reduceat(signatures, firsts, axis=0)


def _minhash(texts: Sequence[str], permutations: int) -> NDArray[np.uint32]:
    """Return the MinHash signatures (n, permutations) of a few texts."""
    hashes, offsets = _pieces(texts)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, permutations, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _pieces(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return a hash for each piece of each text, one text after another, and where each text's begin and end (n + 1).

    Some pieces are there twice.
    """
    padded = [text if len(text) >= PIECE else text.ljust(PIECE, "\0") for text in texts]
    ends = np.cumsum([0] + [len(text) for text in padded])
    joined = "".join(padded).encode("utf-32-le", errors="surrogatepass")
    characters = np.frombuffer(joined, dtype="<u4").astype(np.uint64)
    windows = len(characters) - PIECE + 1
    hashes = np.zeros(windows, np.uint64)
    for offset in range(PIECE):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += characters[offset : offset + windows]
    hashes = np.append(_mixed(hashes), np.zeros(PIECE - 1, np.uint64))
    # Windows that reach into the next text become one more copy of their own text's first piece.
    for offset in range(1, PIECE):
        hashes[ends[1:] - offset] = hashes[ends[:-1]]
    return hashes, ends.astype(np.uint64)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return each number hashed to 64 bits (the finaliser of MurmurHash3)."""
    numbers = numbers ^ (numbers >> np.uint64(33))
    numbers *= np.uint64(0xFF51AFD7ED558CCD)
    numbers ^= numbers >> np.uint64(33)
    numbers *= np.uint64(0xC4CEB9FE1A85EC53)
    numbers ^= numbers >> np.uint64(33)
    return numbers


def _as_set(numbers: NDArray[Number]) -> NDArray[Number]:
    """Return the different ones of `numbers`, sorted; as np.unique, which takes five times as long for so few."""
    numbers = np.sort(numbers)
    return numbers[np.concatenate(([True], numbers[1:] != numbers[:-1]))]


def _jaccard(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> float:
    """Return the Jaccard similarity of two sets of hashes, each sorted and cut off at SAMPLE of them.

    Exact for sets that were not cut off; else that of the lowest SAMPLE hashes of their union (Broder's bottom sketch).
    """
    union = np.sort(np.concatenate([ours, theirs]))
    repeated = union[1:] == union[:-1]
    common = int(np.count_nonzero(repeated))
    different = len(union) - common
    if different > SAMPLE and SAMPLE in (len(ours), len(theirs)):
        lowest = np.flatnonzero(np.concatenate(([True], ~repeated)))[:SAMPLE]
        common, different = int(np.count_nonzero(repeated[lowest])), SAMPLE
    return common / different
