"""The tokens of a text with their log-probabilities, in the format of OpenAI's completions."""

import asyncio
from collections.abc import Sequence
from typing import Any

from serving.engines.protocol import Engine, Token
from serving.openai_schema import Logprobs

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a decoder returns for bytes that are not a character (yet)
_MAX_CHARACTER_BYTES = 4  # in UTF-8, and so tokens
_TOKENS_AT_ONCE = 64  # of a prompt, which take a few milliseconds


def _byte_of_letter() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for.

    Source: bytes_to_unicode in https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTES = _byte_of_letter()


class LogprobsBuilder:
    """Takes the text and the tokens of a choice as they come, and returns the log-probabilities of each part."""

    def __init__(self, engine: Engine) -> None:
        """Start an empty text."""
        self._engine = engine
        # Decoders may treat the beginning of a text specially, so tokens are decoded after these.
        self._context = engine.tokenizer.encode("a", add_special_tokens=False).ids
        self._skipped = len(self._decode(self._context))
        self._length = 0  # of the text, in characters
        self._offset = 0  # in the text, of the next token
        self._incomplete: list[int] = []  # tokens whose characters are incomplete
        self._pending: list[tuple[Token, int]] = []  # with their offsets

    async def of_prompt(self, text: str, tokens: Sequence[Token]) -> Logprobs:
        """Return the tokens of the prompt, with which the text begins; yields to other requests meanwhile."""
        columns: dict[str, list[Any]] = {name: [] for name in Logprobs.model_fields}
        for begin in range(0, len(tokens), _TOKENS_AT_ONCE):
            self.add("" if begin else text, tokens[begin : begin + _TOKENS_AT_ONCE])
            for name, values in self.take(all_pending=True):
                columns[name] += values
            await asyncio.sleep(0)
        self._offset, self._incomplete = self._length, []
        return Logprobs(**columns)

    def add(self, text: str, tokens: Sequence[Token]) -> None:
        """Add a part of the text, and tokens: a token may come before the text that contains it."""
        self._length += len(text)
        for token in tokens:
            self._pending.append((token, self._offset))
            self._incomplete.append(token.id)
            decoded = self._text(self._incomplete)
            if not decoded.endswith(_INCOMPLETE) or len(self._incomplete) >= _MAX_CHARACTER_BYTES:
                self._offset += len(decoded)
                self._incomplete = []

    def take(self, all_pending: bool) -> Logprobs:
        """Return the tokens since the last call: all pending ones, or those that begin in the text so far.

        The others may belong to a stop string, which is not part of the text.
        """
        kept = [] if all_pending else [pending for pending in self._pending if pending[1] >= self._length]
        taken = self._pending[: len(self._pending) - len(kept)]
        self._pending = kept
        return Logprobs(
            tokens=[self._token_text(token.id) for token, _ in taken],
            token_logprobs=[token.logprob for token, _ in taken],
            top_logprobs=[self._top(token) for token, _ in taken],
            text_offset=[offset for _, offset in taken],
        )

    def _top(self, token: Token) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for other, logprob in (*token.top, (token.id, token.logprob)):
            top.setdefault(self._token_text(other), logprob)
        return top

    def _token_text(self, token: int) -> str:
        """Return a token's text; for one without whole characters its bytes, in OpenAI's notation."""
        text = self._text([token])
        letters = self._engine.tokenizer.id_to_token(token)
        if _INCOMPLETE not in text or letters is None or not all(letter in _BYTES for letter in letters):
            return text
        if letters.isascii():  # another tokenizer's notation of a byte: <0xE2>
            return letters
        return "bytes:" + "".join(f"\\x{_BYTES[letter]:02x}" for letter in letters)

    def _text(self, ids: Sequence[int]) -> str:
        return self._decode([*self._context, *ids])[self._skipped :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._engine.tokenizer.decode(ids, skip_special_tokens=False)
