"""What finds one kind of data in a text: an e-mail address, a card number, a key, garbled characters."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

Span = tuple[int, int]
Find = Callable[[str], Iterator[Span]]


class Detector(NamedTuple):
    """A search in two steps: a cheap prefilter over a whole batch, then an exact search in the texts that match it."""

    prefilter: str
    """Pattern for RE2 that matches every text in which `find` finds something; it may match more."""
    find: Find
    """Yields where each finding starts and ends, in order."""
