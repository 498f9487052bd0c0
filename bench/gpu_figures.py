"""Figures that a part of `bench.gpu` prints as JSON lines while it runs, so that a part that is ended keeps them."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from pipeline.command import echo

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Figure:
    """One figure of one variant, or the reason why there is none."""

    variant: str
    peer: str  # the variant that it is compared with; empty for none
    figure: float | None = None
    unit: str = ""
    share: float | None = None  # of the measured bf16 matrix rate
    loss: float | None = None  # on held-out texts, in nats a token
    reason: str = ""


Emit = Callable[[Figure], None]


@dataclass(frozen=True)
class Plan:
    """How much a part measures."""

    quick: bool  # tiny models, whose figures mean nothing
    deadline: float  # of `time.monotonic`, after which no figure is begun
    rounds: int


def emitter(part: str) -> Emit:
    """Return what prints the figures of `part`."""

    def emit(figure: Figure) -> None:
        echo(json.dumps({"part": part, **asdict(figure)}))

    return emit


def synchronized_time() -> float:
    """Return the time once the device has done all its work."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
