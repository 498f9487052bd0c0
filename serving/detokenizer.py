"""From tokens to text while it is being written: whole characters only, and no part of a stop string."""

from collections.abc import Sequence

from tokenizers import Tokenizer

_HALF = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are no character (yet)
_CONTEXT = 4  # tokens of the prompt's end: some decoders drop a space where a text begins, and this one goes on


class IncrementalDetokenizer:
    """Takes tokens in and gives text out, which joined is what the tokenizer makes of all tokens up to the stop.

    The way of `tokenizers.decoders.DecodeStream`: new tokens are decoded together with the few before them. That class
    raises an exception where bytes turn out to be no character after all (byte fallback), and never gives a half
    character at the end.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        """Write on from the tokens `prompt`; the text ends before the first of the strings `stop` that is complete."""
        self.tokens = 0  # how many were taken; those after a stop string are not
        self.stopped = False  # whether there was one
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._window = list(prompt[-_CONTEXT:])
        self._shown = self._decode(self._window)  # how much of the window's text went on to `_until_stop`
        if self._shown.endswith(_HALF):  # a prompt of tokens may end inside a character
            self._window, self._shown = [], ""
        self._since = len(self._window)  # from here on tokens are newer than what was shown last
        self._held = ""  # may be the beginning of a stop string

    def write(self, ids: Sequence[int]) -> str:
        """Return the text that is certain with the tokens `ids`; it may be empty."""
        if not self._stop:
            self.tokens += len(ids)
            return self._whole(ids)
        text = ""
        for token in ids:  # one at a time, so that it is known with which one the text stopped
            if self.stopped:
                break
            self.tokens += 1
            text += self._until_stop(self._whole([token]))
        return text

    def end(self) -> str:
        """Return the text that was held back."""
        if self.stopped:
            return ""
        text = self._decode(self._window)
        rest = text[len(self._shown) :] if text.startswith(self._shown) else self._decode(self._window[self._since :])
        text = self._until_stop(rest)
        return text if self.stopped else text + self._held

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _whole(self, ids: Sequence[int]) -> str:
        """Return the new text, up to the last place at which no character is incomplete."""
        self._window.extend(ids)
        text = self._decode(self._window)
        if text.endswith(_HALF) or not text.startswith(self._shown):
            return ""
        new = text[len(self._shown) :]
        latest = self._window[self._since :]
        if shown := self._decode(latest):
            self._window, self._since, self._shown = latest, len(latest), shown
        else:  # not enough to go on from
            self._shown = text
        return new

    def _until_stop(self, new: str) -> str:
        """Return what of the text is certain not to be in a stop string; hold back the rest."""
        if not (self._stop and new):
            return new
        text = self._held + new
        # The one that is complete first, however the text came in parts; of two that end together the longer one.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)[1]]
        kept = min(_beginning(text, stop) for stop in self._stop)
        self._held = text[kept:]
        return text[:kept]


def _beginning(text: str, stop: str) -> int:
    """Return from where on the end of `text` is the beginning of `stop`; the length of `text` when it is not."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return at if at >= 0 else len(text)
