"""MinHash fingerprints of texts: what is kept of each text to find exact and near-duplicates.

A text is the set of its shingles, pieces of 5 characters of the normalised text (a shorter text is one shingle).
Signatures are cut into bands (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3): with
b bands of r permutations, a pair of Jaccard similarity s shares a band with probability 1 - (1 - s^r)^b. `banding`
chooses b and r so that this is at least 0.99 at the threshold (0.8: 16 bands of 6, hence 0.9923; at 0.9 it is 0.99999).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import rensa
from numpy.typing import NDArray

from pipeline import params
from pipeline.intake.splits import normalize_text, text_digest

SHINGLE = 5  # characters
RECALL = 0.99  # at the threshold, at least
PERMUTATIONS = 128  # at most
SEED = 42
SIGNATURE = 64  # permutations of which a byte is kept, to rule out pairs without reading their texts
LONGEST = 1_000_000  # characters; longer texts are not kept, and compared by their signatures (+-0.05)
BLOCK = 2**16  # characters hashed at once: what a core's own cache holds
Number = TypeVar("Number", np.uint32, np.uint64)


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


def banding(similarity: float) -> tuple[int, int]:
    """Return how many bands of how many permutations find a pair of `similarity` with a probability of RECALL.

    Of all that do, the longest bands: the fewest pairs of a lower similarity share one.
    """
    for length in range(16, 1, -1):
        missed = 1 - similarity**length
        bands = math.ceil(math.log(1 - RECALL) / math.log(missed)) if missed else 1
        if bands * length <= PERMUTATIONS:
            return bands, length
    raise ValueError(f"no {PERMUTATIONS} permutations find pairs of similarity {similarity}")


def fingerprint(texts: Sequence[str], config: params.Validate) -> Fingerprints:
    """Return the fingerprints of `texts`; the costly part only if the rule near_duplicate is not ignored."""
    normalized = [normalize_text(text) for text in texts]
    digests = np.frombuffer(b"".join(text_digest(text)[:16] for text in normalized), dtype=">u8").astype(np.uint64)
    digests = digests.reshape(-1, 2)
    rule = config.rules.near_duplicate
    if rule.severity == "ignore":
        count = len(texts)
        nothing = (np.zeros((count, 0), np.uint32), np.zeros((count, 0), np.uint8), np.zeros(count, np.int64), b"")
        return Fingerprints(digests, *nothing)
    bands, length = banding(rule.similarity)
    signatures = minhash_signatures(normalized, max(bands * length, SIGNATURE))
    keys = np.zeros((len(texts), bands), np.uint64)
    for column in range(length):
        keys = _mix(keys + signatures[:, column : bands * length : length])
    encoded = [text.encode(errors="surrogatepass") if len(text) <= LONGEST else b"" for text in normalized]
    return Fingerprints(
        digests,
        keys.astype(np.uint32),
        signatures[:, :SIGNATURE].astype(np.uint8),
        np.array([len(text) for text in encoded], dtype=np.int64),
        b"".join(encoded),
    )


def minhash_signatures(normalized: Sequence[str], permutations: int) -> NDArray[np.uint32]:
    """Return the MinHash signatures (n, permutations) of texts, in bounded memory also for one huge text."""
    digests: list[NDArray[np.uint32]] = []
    batch: list[str] = []
    firsts: list[int] = []
    count, room = 0, BLOCK
    for text in normalized:
        firsts.append(count)
        # Parts of a long text overlap so that no shingle is lost; their minimum is that of the whole.
        for start in range(0, max(len(text) - SHINGLE + 1, 1), BLOCK - SHINGLE + 1):
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
    hashes, offsets = hash_shingles(texts)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, permutations, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def hash_shingles(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return a hash for each shingle of each text, one text after another, and where each text begins and ends (n + 1).

    Some shingles occur twice.
    """
    padded = [text if len(text) >= SHINGLE else text.ljust(SHINGLE, "\0") for text in texts]
    ends = np.cumsum([0] + [len(text) for text in padded])
    joined = "".join(padded).encode("utf-32-le", errors="surrogatepass")
    characters = np.frombuffer(joined, dtype="<u4").astype(np.uint64)
    windows = len(characters) - SHINGLE + 1
    hashes = np.zeros(windows, np.uint64)
    for offset in range(SHINGLE):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += characters[offset : offset + windows]
    hashes = np.append(_mix(hashes), np.zeros(SHINGLE - 1, np.uint64))
    # Windows that reach into the next text become another copy of their own text's first shingle.
    for offset in range(1, SHINGLE):
        hashes[ends[1:] - offset] = hashes[ends[:-1]]
    return hashes, ends.astype(np.uint64)


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return each number hashed to 64 bits (the finalizer of MurmurHash3)."""
    numbers = numbers ^ (numbers >> np.uint64(33))
    numbers *= np.uint64(0xFF51AFD7ED558CCD)
    numbers ^= numbers >> np.uint64(33)
    numbers *= np.uint64(0xC4CEB9FE1A85EC53)
    numbers ^= numbers >> np.uint64(33)
    return numbers


def unique_sorted(numbers: NDArray[Number]) -> NDArray[Number]:
    """Return the distinct `numbers`, sorted, like np.unique, which takes five times as long for so few."""
    numbers = np.sort(numbers)
    return numbers[np.concatenate(([True], numbers[1:] != numbers[:-1]))]
