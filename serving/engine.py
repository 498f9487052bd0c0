"""What runs a model: one protocol, so that engines are exchangeable behind the same HTTP service."""

import threading
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the next tokens are drawn, and when to stop."""

    max_new_tokens: int
    temperature: float  # 0 always takes the likeliest token
    top_p: float
    top_k: int  # 0 is off
    repetition_penalty: float  # 1 is none
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What a model wrote after a prompt."""

    text: str  # without the stop string that ended it
    finish_reason: FinishReason  # stop: an end token or a stop string; length: max_new_tokens
    prompt_tokens: int  # with the start token
    completion_tokens: int  # with the end token, and with the tokens of a stop string


class PromptTooLongError(Exception):
    """The prompt and the tokens asked for do not fit into the model's context; the text says by how much."""


class AbandonedError(Exception):
    """Nobody waits for the answer any more."""


class Engine(Protocol):
    """A loaded model. It is called from one thread at a time."""

    name: str

    def generate(self, prompt: str, sampling: Sampling, cancelled: threading.Event) -> Generation:
        """Return what the model writes after `prompt`: the same text for the same prompt and sampling, always.

        Raises PromptTooLongError, and AbandonedError soon after `cancelled` is set.
        """
