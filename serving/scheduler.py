"""Continuous batching: texts join and leave the batch at every token, in one thread beside the event loop."""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from serving.engine import EngineError, FinishReason, Sampling, Stream, Token, Tokenizer
from serving.sampling import Draw, draw

logger = logging.getLogger("bentoml.serving")


class Row(Protocol):
    """What a stepper keeps of a text: its cache of keys and values, and how much of it was read."""


class Stepper(Protocol):
    """A model that reads a few tokens of many texts at a time; called from one thread.

    What it returns for a text must not depend on which others are in the batch.
    """

    name: str
    context: int
    start: int
    end: int
    tokenizer: Tokenizer
    prefill_tokens: int  # how many tokens of a prompt it reads in a step at most

    def open(self, length: int) -> Row:
        """Return the place of a text that will have at most `length` tokens; raises MemoryError."""

    def step(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read `tokens` of each row after what was read of it; return the logits after the last one, (rows, vocabulary)."""

    def close(self, row: Row) -> None:
        """Let go of a text's place."""
