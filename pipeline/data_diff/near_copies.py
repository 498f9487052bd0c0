"""Pairs texts that are edits of each other, by locality-sensitive hashing of MinHash signatures."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from pipeline.data_diff.result import Array
from pipeline.intake.minhash import minhash_signatures

# Two texts count as one edited text from this similarity on: the Jaccard index of their sets of 5-character pieces.
EDIT_THRESHOLD = 0.5
# Signature bytes that must agree for a pair to be compared: all of one band. A pair of similarity s is compared with
# probability 1 - (1 - s^4)^32: 0.87 at 0.5, 0.99 at 0.6.
_BANDS, _BAND_SIZE = 32, 4
SIGNATURE_SIZE = _BANDS * _BAND_SIZE
_RANK_WINDOW = 3  # within a bucket a row is compared with rows of about its own rank, so that cost stays linear
_CHUNK = 1 << 16  # pairs at a time

Signatures = npt.NDArray[np.uint8]  # (texts, SIGNATURE_SIZE)


def signatures_of(normalized: Sequence[str]) -> Signatures:
    """Return a MinHash signature for each text, of its set of 5-character pieces; a shorter text is one piece.

    Of each minimum 8 bits are kept (b-bit minwise hashing, Li and König 2010): two texts of similarity s agree in
    a share s + (1 - s) / 256 of the 128 places.
    """
    return minhash_signatures(normalized, SIGNATURE_SIZE).astype(np.uint8)


def near_pairs(old: Signatures, new: Signatures) -> tuple[Array, Array]:
    """Return positions in `old` and in `new` of near-copies; each row is in at most one pair.

    Very similar rows are paired first, whichever band they share; then, within each band, the most similar first.
    """
    partners, is_taken = np.full(len(old), -1, np.int32), np.zeros(len(new), bool)
    for threshold, band in product((0.8, EDIT_THRESHOLD), range(_BANDS)):
        left, right = (np.flatnonzero(~paired).astype(np.int32) for paired in (partners >= 0, is_taken))
        for a, b in _candidates(old, new, left, right, band, threshold):
            if partners[a] < 0 and not is_taken[b]:
                partners[a], is_taken[b] = b, True
    paired = np.flatnonzero(partners >= 0)
    return paired, partners[paired]


def _candidates(
    old: Signatures, new: Signatures, left: Array, right: Array, band: int, threshold: float
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows of `left` and `right` that share a band and are similar enough, most similar first."""
    columns = slice(band * _BAND_SIZE, (band + 1) * _BAND_SIZE)
    keys = [
        np.ascontiguousarray(signatures[rows, columns]).view(np.uint32).ravel()
        for signatures, rows in ((old, left), (new, right))
    ]
    parts = []
    for i, j in _same_bucket(*keys):
        i, j = left[i], right[j]
        agreeing = np.empty(len(i), np.uint8)
        for chunk in _chunks(i):
            agreeing[chunk] = (old[i[chunk]] == new[j[chunk]]).sum(axis=1)
        is_near = agreeing >= (threshold + (1 - threshold) / 256) * SIGNATURE_SIZE
        parts.append((i[is_near], j[is_near], agreeing[is_near]))
    i, j, agreeing = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.argsort(-agreeing.astype(np.int16), kind="stable")
    for chunk in _chunks(order):
        yield from zip(i[order[chunk]].tolist(), j[order[chunk]].tolist(), strict=True)


def _same_bucket(old: Array, new: Array) -> Iterator[tuple[Array, Array]]:
    """Yield positions in `old` and in `new` of equal keys, first those of the same rank among the equal ones.

    Not all pairs of a bucket: 100,000 rows of one template would make 10 billion.
    """
    order_old, order_new = (np.argsort(keys, kind="stable").astype(np.int32) for keys in (old, new))
    old, new = old[order_old], new[order_new]
    rank = np.arange(len(old)) - np.searchsorted(old, old)
    start, end = np.searchsorted(new, old), np.searchsorted(new, old, side="right")
    for offset in sorted(range(-_RANK_WINDOW, _RANK_WINDOW + 1), key=abs):
        at = start + rank + offset
        is_inside = (start <= at) & (at < end)
        yield order_old[is_inside], order_new[at[is_inside]]


def _chunks(values: Array) -> list[slice]:
    return [slice(first, first + _CHUNK) for first in range(0, len(values), _CHUNK)]
