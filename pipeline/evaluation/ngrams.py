"""A byte n-gram model: what a text costs under the statistics of other texts, and text drawn from these statistics.

Bytes need no word splitter and no alphabet: what is not UTF-8 of the corpus is simply unlikely. A row's end is a
symbol too, so a text that breaks off where none of the rows would is unlikely as well.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_ORDER = 8  # bytes of the longest n-gram, which are one 64-bit integer
_END = b"\xff"  # between two rows; not a byte of UTF-8


class _Table(NamedTuple):
    """All n-grams of one length, sorted, so that those of one context (all but the last byte) are neighbours."""

    grams: npt.NDArray[np.uint64]
    before: npt.NDArray[np.int64]  # occurrences of all n-grams before each; one entry more than `grams`
    contexts: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]  # the first n-gram of each context; one entry more than `contexts`


class NGramModel:
    """N-grams of up to 8 bytes, interpolated as by Witten and Bell.

    Witten and Bell 1991, The zero-frequency problem, IEEE Transactions on Information Theory 37(4), method C; in this
    recursive form Chen and Goodman 1999, An empirical study of smoothing techniques, section 2.4: the weight of the
    shorter context is the number of different bytes seen after the longer one.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Count the n-grams of `texts`; one MB takes about a second and 150 MB."""
        data = _END + _END.join(text.encode() for text in texts) + _END
        self._tables = [_table(data, length) for length in range(1, _ORDER + 1)]

    def bits(self, prompt: bytes, text: bytes, *, ends: bool) -> npt.NDArray[np.float64]:
        """Return -log2 of the probability of each byte of `text` after `prompt`, and of its end where it `ends`."""
        start = _END + prompt
        data = start + text + (_END if ends else b"")
        probability = np.full(len(data), 1 / 256)
        for length, table in enumerate(self._tables[: len(data)], 1):
            grams = _grams(data, length)
            index = np.minimum(np.searchsorted(table.grams, grams), len(table.grams) - 1)
            count = np.where(table.grams[index] == grams, table.before[index + 1] - table.before[index], 0)
            contexts = grams >> np.uint64(8)
            index = np.minimum(np.searchsorted(table.contexts, contexts), len(table.contexts) - 1)
            first, end = table.starts[index], table.starts[index + 1]
            is_known = table.contexts[index] == contexts
            kinds = np.where(is_known, end - first, 1)
            occurrences = np.where(is_known, table.before[end] - table.before[first], 0)
            shorter = probability[length - 1 :]
            probability[length - 1 :] = (count + kinds * shorter) / (occurrences + kinds)
        bits: npt.NDArray[np.float64] = -np.log2(probability[len(start) :])
        return bits

    def draw(self, prompt: bytes, context: int, max_bytes: int, random: np.random.Generator) -> tuple[bytes, bool]:
        """Return bytes after `prompt`, each drawn by the `context` bytes before it, and whether they end as a row does.

        An approximation of the texts in the sense of Shannon 1948, A mathematical theory of communication, section 3.
        Where a context is in no row, a shorter one is taken.
        """
        data = bytearray(_END + prompt)
        first = len(data)
        while len(data) < first + max_bytes:
            byte = self._next(bytes(data[-context:]) if context else b"", random.random())
            if byte == _END[0]:
                return bytes(data[first:]), True
            data.append(byte)
        return bytes(data[first:]), False

    def _next(self, context: bytes, chance: float) -> int:
        table = self._tables[len(context)]
        index = int(np.searchsorted(table.contexts, np.uint64(int.from_bytes(context))))
        if index == len(table.contexts) or int(table.contexts[index]) != int.from_bytes(context):
            return self._next(context[1:], chance)
        low, high = table.before[table.starts[index]], table.before[table.starts[index + 1]]
        drawn = np.searchsorted(table.before, low + int(chance * (high - low)), side="right") - 1
        return int(table.grams[drawn]) & 0xFF


def _grams(data: bytes, length: int) -> npt.NDArray[np.uint64]:
    """Return the `length` bytes that end at each byte from the `length`-th on, as integers."""
    codes = np.frombuffer(data, np.uint8).astype(np.uint64)
    grams = np.zeros(len(codes) - length + 1, np.uint64)
    for offset in range(length):
        grams = (grams << np.uint64(8)) | codes[offset : offset + len(grams)]
    return grams


def _table(data: bytes, length: int) -> _Table:
    if len(data) < length:
        return _Table(np.zeros(1, np.uint64), np.zeros(2, np.int64), np.zeros(1, np.uint64), np.array([0, 1]))
    grams, counts = np.unique(_grams(data, length), return_counts=True)
    contexts, starts = np.unique(grams >> np.uint64(8), return_index=True)
    return _Table(grams, np.append(0, np.cumsum(counts)), contexts, np.append(starts, len(grams)))
