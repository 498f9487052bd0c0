"""Guess a sequence's next tokens from what it repeats, so that one step reads them all (speculative decoding).

Prompt lookup, as in https://github.com/apoorvumang/prompt-lookup-decoding: what followed the last tokens before follows
them again. A wrong guess costs rows of a step and changes no text: each token is still sampled from its own logits.
"""

from collections.abc import Sequence

_LENGTHS = (4, 3, 2)  # tokens that must have occurred before, the longest first
_MIN_GAIN = 0.25  # accepted tokens a guess, below which none is made: a step of 4 rows takes that much longer than one
_MEMORY = 0.9  # the share of earlier guesses in the mean
_RECOVERY = 0.002  # by which the mean rises with each token that is not guessed


class Guesser:
    """The places of the n-grams of one sequence."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """Take the tokens of a sequence, a list that grows."""
        self._tokens = tokens
        self._indexed = 0
        self._following: dict[tuple[int, ...], int] = {}  # by n-gram: where the token after its last occurrence is
        self._gain = 1.0  # accepted tokens a guess

    def guess(self, most: int) -> list[int]:
        """Return up to `most` tokens that may come next."""
        tokens = self._tokens
        for at in range(self._indexed, len(tokens)):
            for length in _LENGTHS:
                if at >= length:
                    self._following[tuple(tokens[at - length : at])] = at
        self._indexed = len(tokens)
        if self._gain < _MIN_GAIN:
            self._gain += _RECOVERY
            return []
        for length in _LENGTHS:
            at = self._following.get(tuple(tokens[-length:]), len(tokens))
            if guess := list(tokens[at : at + most]):
                return guess
        return []

    def note(self, accepted: int) -> None:
        """Note how many tokens of a guess were right."""
        self._gain = _MEMORY * self._gain + (1 - _MEMORY) * accepted
