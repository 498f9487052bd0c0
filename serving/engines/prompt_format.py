"""How a model reads a prompt: as the beginning of the text that it continues, or as a source that it rewrites.

Everything between a request and the engine (limits, special tokens, text made of tokens) asks the format of the
engine, and so serves decoders alone and encoders with decoders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer

from serving.errors import ApiError


class PromptFormat(Protocol):
    """The rules for the prompts of a model."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt that is a text."""

    def complete(self, ids: Sequence[int]) -> list[int]:
        """Return the tokens of a prompt as the model reads them: with the special tokens that they lack."""

    def room(self, prompt: Sequence[int]) -> int:
        """Return how many tokens may be generated for a complete prompt; below 1 where it is too long."""

    def check_length(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Raise ApiError 400 where a complete prompt, or so many new tokens, exceed what the model can read."""

    def preceding(self, prompt: Sequence[int]) -> Sequence[int]:
        """Return the tokens of a complete prompt that the generated text continues."""


class _HasContext(Protocol):
    """An engine or a runner, as far as the default format needs it."""

    context: int
    start: int
    tokenizer: Tokenizer


@dataclass(frozen=True)
class ContinuedPrompt:
    """The format of a model that continues its prompt: one start token, then the text."""

    tokenizer: Tokenizer
    start: int
    context: int

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text`."""
        name = self.tokenizer.id_to_token(self.start)  # a text may begin with it; elsewhere it is plain text
        has_start = name is not None and text.startswith(name)
        ids = plain_ids(self.tokenizer, text[len(name or "") :] if has_start else text)
        return [self.start, *ids] if has_start else ids

    def complete(self, ids: Sequence[int]) -> list[int]:
        """Return `ids` after one start token, as models see documents in training."""
        return list(ids) if ids and ids[0] == self.start else [self.start, *ids]

    def room(self, prompt: Sequence[int]) -> int:
        """Return what the context leaves."""
        return self.context - len(prompt)

    def check_length(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Raise ApiError 400 where prompt and new tokens together exceed the context."""
        if len(prompt) + max_new_tokens <= self.context:
            return
        message = (
            f"the prompt has {len(prompt)} tokens (with the start token) and max_new_tokens is {max_new_tokens}; "
            f"together they must not exceed the model's context of {self.context} tokens"
        )
        param = "prompt" if len(prompt) >= self.context else "max_new_tokens"
        raise ApiError(400, message, code="context_length_exceeded", param=param)

    def preceding(self, prompt: Sequence[int]) -> Sequence[int]:
        """Return the whole prompt."""
        return prompt


def plain_ids(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Return the tokens of `text`, encoded as a batch of one: `encode` would hold Python's lock meanwhile."""
    [encoding] = tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


def prompt_format(model: _HasContext) -> PromptFormat:
    """Return the format of an engine's or a runner's prompts; the usual one where it names none."""
    own: PromptFormat | None = getattr(model, "prompt_format", None)
    return own or ContinuedPrompt(model.tokenizer, model.start, model.context)
