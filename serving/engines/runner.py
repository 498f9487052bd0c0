"""The `ModelRunner` protocol: what `Scheduler` needs of a model to batch it continuously."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer


class ModelRunner(Protocol):
    """A model that reads a few tokens of many sequences at a time; called from one thread.

    The logits of a sequence must not depend on what else is in the batch, but for rounding on a GPU. A step that raised
    may be repeated. A runner that keeps its logits on another device also has `sample`, with the arguments and the
    result of `serving.engines.sampling.sample`. One that keeps what prompts begin with has `recall(slot, prompt)`: it
    fills a new slot with what it has of the prompt's beginning, and returns how many tokens that are. One that checks
    guesses has `guess_rows`, the most rows of a step with guesses; its `step` takes a third argument, the number of
    guesses at the end of each slot's tokens, and returns logits before, between and after them; and `forget(slot,
    tokens)` drops those that were wrong. One that takes LoRA adapters has `load_adapter(adapter)`, which raises
    EngineError, and whose result is the second argument of its `open` for sequences with that adapter; and
    `unload_adapter`, once no slot has it.
    """

    name: str
    context: int
    start: int
    end: int
    tokenizer: Tokenizer
    prefill_tokens: int  # prompt tokens read in a step, and the most that one sequence reads at once

    def open(self, length: int) -> Any:
        """Return a slot for a sequence of at most `length` tokens; raises MemoryError."""

    def step(self, slots: Sequence[Any], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read the next `tokens` of each slot; return the logits after the last of them: (slots, vocabulary)."""

    def close(self, slot: Any) -> None:
        """Free a slot."""
