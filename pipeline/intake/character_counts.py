"""Counts the characters of texts by property: letters, white space, control characters, damage, scripts.

Every character is looked up once in a table of Unicode properties (in the `regex` module's version of Unicode).
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import regex

from pipeline.command import UserError

BLOCK_CHARACTERS = 2**18  # looked up at once: the arrays stay in the processor's cache, and memory stays flat
_BITS = CONTENT, VISIBLE, CONTROL, DAMAGE, SCRIPTED, ALLOWED = tuple(1 << bit for bit in range(6))
# What the rule few_letters can count besides letters. Lines and boxes drawn with characters are only punctuation.
_ALSO_CONTENT = {
    "digits": r"\p{N}",
    "symbols": r"[[\p{So}\p{Emoji_Modifier}]--\p{Block=Box_Drawing}--\p{Block=Block_Elements}--\uFFFC\uFFFD]",
}
Counts = npt.NDArray[np.int64]


class CharacterCounts(NamedTuple):
    """How many characters of each text have a property: arrays of shape (texts,)."""

    content: Counts
    """Letters, their combining marks, and what the rule few_letters counts `also`."""
    visible: Counts
    """All but white space."""
    control: Counts
    """Unicode's category Cc without tab and line breaks, and the two overrides that reverse the reading order of what
    follows. The marks, embeddings and isolates of right-to-left text are not counted: they are text."""
    damage: Counts
    """Placeholders of lost characters, and code points that are not characters."""
    scripted: Counts
    """Letters of one script, unlike letters that several scripts share."""
    allowed: Counts
    """Letters of the scripts that the rule script allows."""


def count_characters(texts: Sequence[str], scripts: tuple[str, ...], also: tuple[str, ...]) -> CharacterCounts:
    """Return the counts for each text.

    Args:
        texts: The texts.
        scripts: The scripts that the rule script allows, by their Unicode names.
        also: What counts as content besides letters: digits, symbols.
    """
    properties = _property_table(scripts, also)
    counts = np.zeros((len(_BITS), len(texts)), np.int64)
    for block, owners, starts in _blocks(texts):
        characters = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), np.uint32)
        flags = properties[characters]  # (characters,)
        present = np.bitwise_or.reduce(flags)
        for bit in range(len(_BITS)):
            if present & (1 << bit):
                sums = np.add.reduceat(flags >> bit & 1, starts, dtype=np.int64)
                np.add.at(counts[bit], owners, sums)
    return CharacterCounts(*counts)


def _blocks(texts: Sequence[str]) -> Iterator[tuple[str, list[int], list[int]]]:
    """Yield texts joined to blocks of at most BLOCK_CHARACTERS: the block, the texts in it, where each starts."""
    pieces: list[str] = []
    owners: list[int] = []
    starts: list[int] = []
    size = 0
    for owner, text in enumerate(texts):
        for offset in range(0, len(text), BLOCK_CHARACTERS):
            piece = text[offset : offset + BLOCK_CHARACTERS]
            if size + len(piece) > BLOCK_CHARACTERS:
                yield "".join(pieces), owners, starts
                pieces, owners, starts, size = [], [], [], 0
            pieces.append(piece)
            owners.append(owner)
            starts.append(size)
            size += len(piece)
    if pieces:
        yield "".join(pieces), owners, starts


@cache
def _property_table(scripts: tuple[str, ...], also: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """Return a table from code points to the properties of CharacterCounts, a bit each."""
    table = np.zeros(0x110000, np.uint8)
    every = "".join(map(chr, range(0x110000)))

    def mark(pattern: str, bit: int) -> None:
        for match in regex.finditer(f"{pattern}+", every, regex.V1):
            table[slice(*match.span())] |= bit

    mark(r"[\p{L}\p{M}]", CONTENT)
    for kind in also:
        mark(_ALSO_CONTENT[kind], CONTENT)
    mark(r"[\p{Cc}\u202D\u202E--[\t\n\r]]", CONTROL)
    mark(r"[\p{Cs}\p{Noncharacter_Code_Point}\uFFFD]", DAMAGE)
    mark(r"[\p{L}--\p{Script=Common}--\p{Script=Inherited}]", SCRIPTED)
    for script in scripts:
        try:
            mark(rf"[\p{{L}}&&\p{{Script={script}}}]", ALLOWED)
        except regex.error:
            raise UserError(
                f"params.yaml: validate.rules.script.scripts: found {script!r}, which is not a Unicode script; "
                "expected names such as Latin, Cyrillic, Greek, Arabic, Han, Hiragana"
            ) from None
    mark(r"[^\s\x1C-\x1F]", VISIBLE)  # as in str.strip
    return table
