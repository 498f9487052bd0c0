"""From tokens to text while it is generated: complete characters only, and no part of a stop string."""

from collections.abc import Sequence

from tokenizers import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a decoder returns for bytes that are not a character (yet)
_CONTEXT = 4  # last tokens of the prompt: some decoders drop a space where a text begins, and this one continues


class IncrementalDetokenizer:
    """Takes tokens and returns text; joined, it is what the tokenizer decodes from all tokens up to the stop.

    Works like `tokenizers.decoders.DecodeStream`: new tokens are decoded together with the few before them. That class
    raises where bytes turn out not to be a character (byte fallback), and never returns an incomplete last character.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        """Continue after the tokens `prompt`; the text ends before the first complete string of `stop`."""
        self.tokens = 0  # how many were taken; those after a stop string are not
        self.stopped = False  # whether there was a stop string
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._window = list(prompt[-_CONTEXT:])
        self._shown = self._decode(self._window)  # the part of the window's text that was passed on
        if self._shown.endswith(_INCOMPLETE):  # a prompt of tokens may end inside a character
            self._window, self._shown = [], ""
        self._new_from = len(self._window)  # from here, tokens are newer than what was passed on last
        self._held_back = ""  # may be the beginning of a stop string

    def add(self, ids: Sequence[int]) -> str:
        """Return the text that is certain after the tokens `ids`; it may be empty."""
        if not self._stop:
            self.tokens += len(ids)
            return self._complete(ids)
        text = ""
        for token in ids:  # one at a time, to know the token that completes a stop string
            if self.stopped:
                break
            self.tokens += 1
            text += self._until_stop(self._complete([token]))
        return text

    def flush(self) -> str:
        """Return the text that was held back, at the end."""
        if self.stopped:
            return ""
        text = self._decode(self._window)
        continues = text.startswith(self._shown)
        rest = text[len(self._shown) :] if continues else self._decode(self._window[self._new_from :])
        text = self._until_stop(rest)
        return text if self.stopped else text + self._held_back

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _complete(self, ids: Sequence[int]) -> str:
        """Return the new text, up to the last place at which no character is incomplete."""
        self._window.extend(ids)
        text = self._decode(self._window)
        if text.endswith(_INCOMPLETE) or not text.startswith(self._shown):
            return ""
        new = text[len(self._shown) :]
        latest = self._window[self._new_from :]
        if shown := self._decode(latest):
            self._window, self._new_from, self._shown = latest, len(latest), shown
        else:  # too little context to continue from
            self._shown = text
        return new

    def _until_stop(self, new: str) -> str:
        """Return the text that is certainly not in a stop string; hold back the rest."""
        if not (self._stop and new):
            return new
        text = self._held_back + new
        # The string that is complete first, however the text is split; of two that end together, the longer one.
        matches = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if matches:
            self.stopped = True
            return text[: min(matches)[1]]
        certain = min(_partial_match(text, stop) for stop in self._stop)
        self._held_back = text[certain:]
        return text[:certain]


def _partial_match(text: str, stop: str) -> int:
    """Return where the end of `text` starts to match the beginning of `stop`; the length of `text` if it does not."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return at if at >= 0 else len(text)
