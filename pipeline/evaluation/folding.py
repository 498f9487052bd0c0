"""Texts without what two of them share by layout alone: white space, markup, rules of dashes."""

import re

_TAG = re.compile(r"</?[A-Za-z!][^<>]{0,300}>")
_PUNCTUATION = re.compile(r"([^\w\s])[^\w\s]{2,}")
_SPACE = re.compile(r"\s+")


def fold(text: str) -> str:
    """Return `text` with each HTML tag and run of white space as one space, and runs of punctuation as their first.

    A run of punctuation has three characters or more: an ellipsis, a line of dashes, a row of stars, closing brackets.
    """
    return _SPACE.sub(" ", _PUNCTUATION.sub(r"\1", _TAG.sub(" ", text)))
